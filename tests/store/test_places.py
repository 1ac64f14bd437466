import errno
import http.server
import os
import threading
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import fs

from sensitivity.store.directory import Place, place
from sensitivity.store.lock import WriterLock
from sensitivity.store.manifest import write_manifest
from sensitivity.store.reader import read_study, studies
from sensitivity.study.errors import StorageError

FIX = r"\n  Use a place with free space and write permission: --storage URI"


def test_files_are_whole_and_replaced(directory):
    directory.write("a/x.parquet", b"one")
    directory.write("a/x.parquet", b"second")
    directory.write("a/y.parquet", b"")
    directory.write("a/notes.txt", b"")
    directory.write("a/.hidden.parquet", b"")
    assert directory.read("a/x.parquet") == b"second"
    assert directory.child("a").files(".parquet") == ("x.parquet", "y.parquet")
    assert directory.child("absent").files(".parquet") == ()
    assert [folder.path for folder in directory.folders()] == [f"{directory.path}/a"]
    assert directory.exists("a/x.parquet")
    assert not directory.exists("a")
    assert not directory.exists("absent/x")
    directory.delete("a/x.parquet")
    directory.delete("a/x.parquet")
    assert not directory.exists("a/x.parquet")


def test_a_missing_file_is_named(directory):
    with pytest.raises(StorageError, match=r"absent\.txt: can't be read .*\n  Check"):
        directory.read("absent.txt")


def test_a_path_that_leads_nowhere_is_a_message(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for path in (str(tmp_path / "loop"), "~no-such-user-here/studies", "with\0zero"):
        with pytest.raises(StorageError, match=r"can't be read .*\n  Check that this is the right place"):
            place(path)


def test_a_local_place_leaves_no_temporary_files(tmp_path):
    place(str(tmp_path)).write("x", b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(
    ("given", "path", "child"),
    [
        ("studies", "{cwd}/studies", "studies/tiny"),
        ("studies/", "{cwd}/studies", "studies/tiny"),
        ("/data", "/data", "/data/tiny"),
        ("~/data", "{home}/data", "~/data/tiny"),
        (".", "{cwd}", "./tiny"),
        ("file:///data/", "/data", "file:///data/tiny"),
    ],
)
def test_places(given, path, child, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    names = {"cwd": tmp_path, "home": "/home/someone"}
    assert place(given).path == path.format(**names)
    assert place(given).child("tiny").uri == child.format(**names)
    assert place(given).child("tiny").path == path.format(**names) + "/tiny"


def test_the_root_of_the_file_tree():
    assert place("/").child("tiny").uri == "/tiny"


def test_options_of_a_uri_stay_at_its_end():
    options = "?region=eu-west-1&endpoint_override=localhost:9000&scheme=http"
    where = place(f"s3://bucket/folder{options}").child("tiny")
    assert where.path == "bucket/folder/tiny"
    assert where.uri == f"s3://bucket/folder/tiny{options}"
    assert place(where.uri).path == where.path
    assert place("/odd?name").child("tiny").uri == "/odd?name/tiny", "in a path it is a letter like others"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://key:hush@bucket/folder",
        "s3://hush@bucket/folder",
        "s3://:hush@bucket",
        "s3://bucket/folder?region=eu-west-1&secret_key=hush",
        "abfs://account:hush@container/x",
        "abfss://container@account/x?sas_token=hush",
        "gs://x:hush@bucket",
    ],
)
def test_credentials_in_a_uri_are_refused_and_not_shown(uri):
    with pytest.raises(StorageError, match=r"contains credentials(.|\n)*AWS_SECRET_ACCESS_KEY") as refused:
        place(uri)
    assert "hush" not in str(refused.value)


def test_an_account_without_a_password_is_no_credential():
    assert place("gs://anonymous@bucket/folder").uri == "gs://anonymous@bucket/folder"


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("nosuch://bucket/x", "no file system has the scheme 'nosuch'; allowed: file, s3, gs, gcs, abfs, abfss, hdfs"),
        ("s3//:x://", "no file system has the scheme 's3//:x'"),
        ("http://example.org/x", "no file system has the scheme 'http'"),
        ("S3://bucket/x", "no file system has the scheme 'S3'"),
        ("://x", "no file system has the scheme ''"),
        ("file://relative/path", "relative"),
        ("s3://", "nothing follows s3://"),
        ("s3:///", "nothing follows s3://"),
        ("s3://?region=eu-west-1", "nothing follows s3://"),
        ("s3:///folder", "Missing bucket name"),
        ("gs://", "nothing follows gs://"),
        ("abfss://", "nothing follows abfss://"),
        ("hdfs://", "nothing follows hdfs://"),
        ("file:///", "it names the whole disk"),
        ("file://", "it names the whole disk"),
        ("s3:bucket/x", "'//' is missing after 's3:'; for a local folder of this name, write './s3:bucket/x'"),
        ("gs:/bucket", "'//' is missing after 'gs:'"),
        ("file:/data", "'//' is missing after 'file:'"),
        ("", "it is empty"),
        ("  ", "it is empty"),
    ],
)
def test_what_names_no_folder_is_refused(uri, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match=r"storage '.*': .*\n  Give a folder, or a URI such as s3://bucket/f") as no:
        place(uri)
    assert reason in str(no.value)
    assert list(tmp_path.iterdir()) == []


def test_a_colon_is_a_letter_of_other_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("./s3:bucket", "run:1", "a/s3:b"):
        assert place(path).path == f"{tmp_path}/{path.removeprefix('./')}"


@pytest.mark.parametrize("where", ["file", "file/below", "file/below/deeper"])
def test_a_place_that_is_or_lies_below_a_file_is_refused(tmp_path, make, where):
    (tmp_path / "file").write_bytes(b"precious")
    directory = place(str(tmp_path / where))
    with pytest.raises(StorageError, match="can't be written .*" + FIX):
        directory.write("study.json", b"")
    with pytest.raises(StorageError, match="can't be written .*" + FIX), WriterLock(directory):
        pytest.fail("took a lock that can't be")
    with pytest.raises(StorageError):
        write_manifest(directory, make.study(), "")
    with pytest.raises(StorageError, match=r"no study here|can't be read"):
        read_study(directory)
    assert (tmp_path / "file").read_bytes() == b"precious"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_list_of_what_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="can't be read"):
        studies(place(str(tmp_path / "file")))


def test_a_full_local_disk_changes_nothing(tmp_path, make, monkeypatch):
    directory = place(str(tmp_path))
    trials = make.filled(directory)
    before = make.snapshot(directory)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for attempt in (
        lambda: make.add(directory, make.run(trials[4])),
        lambda: write_manifest(directory, make.study(seeds=3), ""),
    ):
        with pytest.raises(StorageError, match=r"can't be written \(\[Errno 28\] No space left on device\)" + FIX):
            attempt()
    assert make.snapshot(directory) == before, "not even a temporary file is left"


class FullStore(MemoryFileSystem):
    """A store that can be read, and refuses every new object."""

    cachable = False

    def _open(self, path, mode="rb", **options):
        if "w" in mode:
            raise OSError(errno.ENOSPC, "bucket quota exceeded")
        return super()._open(path, mode=mode, **options)


@pytest.fixture
def memory():
    yield MemoryFileSystem()
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def test_a_full_object_store_changes_nothing(memory, make):
    directory = Place(fs.PyFileSystem(fs.FSSpecHandler(memory)), "bucket/tiny", "memory://bucket/tiny")
    trials = make.filled(directory)
    before = make.snapshot(directory)
    full = Place(fs.PyFileSystem(fs.FSSpecHandler(FullStore())), directory.path, directory.uri)
    with pytest.raises(StorageError, match=r"memory://bucket/tiny: can't be written \(.*quota exceeded\)" + FIX):
        make.add(full, make.run(trials[4]))
    with pytest.raises(StorageError, match="can't be written"):
        WriterLock(full).__enter__()
    assert len(read_study(full).runs) == 8
    assert make.snapshot(directory) == before


class Unreachable(fs.FileSystemHandler):
    """A store whose network is down."""

    def _down(self, *_, **__):
        raise OSError("When getting information: Couldn't connect to server\nand a long trace")

    def get_type_name(self):
        return "down"

    __eq__ = object.__eq__
    __ne__ = object.__ne__
    __hash__ = object.__hash__
    normalize_path = get_file_info = get_file_info_selector = create_dir = delete_dir = delete_dir_contents = _down
    delete_root_dir_contents = delete_file = move = copy_file = open_input_stream = open_input_file = _down
    open_output_stream = open_append_stream = _down


def test_a_store_that_can_not_be_reached_is_one_error(make):
    directory = Place(fs.PyFileSystem(Unreachable()), "bucket/tiny", "s3://bucket/tiny")
    for attempt in (
        lambda: read_study(directory),
        lambda: studies(directory),
        lambda: write_manifest(directory, make.study(), ""),
        lambda: make.add(directory),
        lambda: WriterLock(directory).__enter__(),
        lambda: directory.delete("x"),
    ):
        with pytest.raises(
            StorageError, match=r"s3://bucket/tiny: can't be (read|written) \(.*connect to server\)\n  "
        ):
            attempt()


def test_a_symbolic_link_to_a_study_is_followed(tmp_path, make):
    make.filled(place(str(tmp_path / "real")))
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    assert len(read_study(place(str(tmp_path / "link"))).runs) == 8
    assert Path(tmp_path / "link").is_symlink()


def test_a_small_file_goes_to_s3_in_one_request(monkeypatch):
    asked = []

    class Server(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self):  # an upload in parts begins with a POST, which this server refuses
            asked.append((self.command, self.path))
            if self.headers["Transfer-Encoding"] == "chunked":
                while size := int(self.rfile.readline(), 16):
                    self.rfile.read(size + 2)
                while self.rfile.readline().strip():  # the checksum behind the last chunk
                    pass
            else:
                self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("ETag", '"x"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"s3://bucket/studies?endpoint_override=127.0.0.1:{server.server_port}&scheme=http&region=us-east-1"
        directory = place(uri)
        directory.write("runs/a", b"part")
        server.shutdown()
    assert asked == [("PUT", "/bucket/studies/runs/a")]
    assert directory.uri == uri


def test_a_name_that_is_not_valid_utf8_hides_no_other(tmp_path, make, caplog):
    make.filled(place(str(tmp_path / "study")))
    (tmp_path / os.fsdecode(b"odd\xff")).mkdir()
    assert [found.path for found in studies(place(str(tmp_path)))] == [f"{tmp_path}/study"]
    assert "not valid UTF-8" in caplog.text
    with pytest.raises(StorageError, match="its name is not valid UTF-8"):
        place(os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff"))
