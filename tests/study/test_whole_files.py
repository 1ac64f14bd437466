"""Atomic writing: what is replaced, and what is preserved."""

import os
import stat
import threading

import pytest

from sensitivity.study.errors import UserError
from sensitivity.study.whole_files import Written, refuse_unwritable, replacing, write_output, write_whole


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_has_the_permissions_of_any_other(tmp_path):
    before = os.umask(0o027)
    try:
        assert write_whole(tmp_path / "x", b"1234") == Written(tmp_path / "x", 4)
        write_whole(tmp_path / "private", b"", mode=0o600)
    finally:
        os.umask(before)
    assert mode(tmp_path / "x") == 0o640
    assert mode(tmp_path / "private") == 0o600


def test_a_replaced_file_keeps_its_permissions(tmp_path):
    (tmp_path / "x").write_bytes(b"old")
    (tmp_path / "x").chmod(0o604)
    write_whole(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"
    assert mode(tmp_path / "x") == 0o604


def test_a_reader_of_the_old_file_keeps_it_whole(tmp_path):
    (tmp_path / "x").write_bytes(b"old")
    with (tmp_path / "x").open("rb") as stream:
        write_whole(tmp_path / "x", b"new content")
        assert stream.read() == b"old"


def test_a_link_stays_and_what_it_names_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("there/real")
    (tmp_path / "dangling").symlink_to("there/later")
    for name, target in (("link", "real"), ("dangling", "later")):
        write_whole(tmp_path / name, b"new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "there" / target).read_bytes() == b"new"
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["later", "real"]


def test_a_pipe_and_a_device_are_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = []
    thread = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    thread.start()
    assert write_whole(tmp_path / "pipe", b"data").size == 4
    thread.join()
    assert read == [b"data"]
    assert (tmp_path / "pipe").is_fifo()
    write_output(tmp_path.__class__(os.devnull), b"data")
    assert not tmp_path.__class__(os.devnull).is_file()


def interrupted(beside):
    beside.write_bytes(b"half")
    raise KeyboardInterrupt


def test_folders_made_for_a_file_that_fails_are_removed(tmp_path):
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a" / "b" / "x") as beside:
        interrupted(beside)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "reason", "fix"),
    [
        ("folder", "Is a directory", "give a file in it, such as .*folder/output"),
        ("file/x", "Not a directory", "part of this path is a file"),
        ("loop", "Too many levels", "Write to another place"),
        ("n" * 300, "File name too long", "Give a shorter name"),
        ("/dev/full", "No space left", "Make room"),
    ],
)
def test_unwritable_paths_are_reported_early_and_on_writing(tmp_path, name, reason, fix):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=rf"(?s)can't be written \(.*({reason}).*\)\n  .*{fix}"):
        write_output(tmp_path / name, b"new")
    if not name.startswith("/"):
        with pytest.raises(UserError, match=reason):
            refuse_unwritable(tmp_path / name)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "loop"]


def test_asking_whether_a_file_can_be_written_leaves_nothing(tmp_path):
    (tmp_path / "x").write_bytes(b"old")
    for path in (tmp_path / "x", tmp_path / "new" / "y", tmp_path.__class__(os.devnull)):
        refuse_unwritable(path)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_incompletely_written_files_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: os.truncate(f"/proc/self/fd/{descriptor}", 0))
    with pytest.raises(UserError, match="0 of 3 bytes written"):
        write_output(tmp_path / "x", b"new")
