"""Every writer of a file, when it can't write: an error that says how to fix it, and nothing has changed."""

import asyncio
import contextlib
import errno
import functools
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from concurrent.futures import Future
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from dashboards import jobs
from sensitivity.execution.cost_cache import CostCache
from sensitivity.execution.optuna_export import export_optuna
from sensitivity.execution.prepare import prepare
from sensitivity.report import images
from sensitivity.report.page import Report
from sensitivity.store.directory import place
from sensitivity.study.errors import UserError
from sensitivity.study.whole_files import write_output
from sensitivity.training.calibration import Cost
from sensitivity.training.datasets.data_folder import reserve

CONTENT = b"x" * 20_000
LIMIT = 1_000
"""Size in bytes at which writing stops, in the middle of every file here."""


class Browser:
    """Replaces Chromium: returns an image of each figure at once."""

    def __init__(self, **_):
        pass

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def calc_fig(self, figure, opts):
        return CONTENT


def by_command(command, *arguments):
    """Run a command; raise its message as an error if it fails."""
    answer = command(*arguments)
    assert "Traceback" not in answer.err
    if answer.code:
        assert answer.code == 2
        assert answer.out == "", "it reports nothing as written"
        raise UserError(answer.err)


@pytest.fixture
def writers(command, half_done, monkeypatch):
    """Functions that write into a folder, by the name of the file that each writes."""
    monkeypatch.setattr("kaleido.Kaleido", Browser)
    monkeypatch.setattr(images, "in_theme", lambda text, theme: {"layout": {"height": 1}})
    monkeypatch.setattr("sensitivity.report.write_report", lambda _: Report(html=CONTENT.decode(), figures={}))

    return {
        "report.html": lambda folder: by_command(command, "report", half_done, "-o", folder / "report.html"),
        "status.html": lambda folder: by_command(command, "figure", half_done, "status", "-o", folder / "status.html"),
        "runs.csv": lambda folder: by_command(command, "export", half_done, folder / "runs.csv"),
        "runs.parquet": lambda folder: by_command(command, "export", half_done, folder / "runs.parquet"),
        "new.db": lambda folder: by_command(command, "export", half_done, f"optuna:{folder / 'new.db'}"),
        "figure.png": lambda folder: images.write_images({"figure": ""}, folder),
        "study.json": lambda folder: place(str(folder)).write("study.json", CONTENT),
        "any": lambda folder: write_output(folder / "any", CONTENT),
        ".started-half-": lambda folder: jobs.store_study_file(
            place(str(folder)), CONTENT.decode(), SimpleNamespace(name="half")
        ),
    }


NAMES = (
    "report.html",
    "status.html",
    "runs.csv",
    "runs.parquet",
    "new.db",
    "figure.png",
    "study.json",
    "any",
    ".started-half-",
)
OLD = ("report.html", "status.html", "runs.csv", "runs.parquet", "figure.png", "study.json", "any")


def fill(folder):
    """Leave files from an earlier time, and then no space."""
    for name in OLD:
        (folder / name).write_bytes(b"old")
    with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as stream:
        while True:
            stream.write(b"x" * 4096)


@pytest.fixture(scope="module")
def mounted(tmp_path_factory):
    """A full and a read-only file system; skips where this user may not mount any."""
    folders = {"full": tmp_path_factory.mktemp("full"), "read-only": tmp_path_factory.mktemp("ro")}
    mounts = []
    try:
        for name, folder in folders.items():
            if shutil.which("mount") is None or os.geteuid() != 0:
                pytest.skip("only root may mount")
            made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=False)
            if made.returncode:
                pytest.skip("no file system may be mounted here")
            mounts.append(folder)
            fill(folder)
            if name == "read-only":
                subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        yield folders
    finally:
        for folder in mounts:
            subprocess.run(["umount", "-l", folder], check=True)  # files that an exception keeps open are closed later


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(writer, name, folder, reasons):
    before = contents(folder)
    with pytest.raises(UserError, match=r"can't be (opened or )?written") as failed:
        writer(folder)
    said = str(failed.value)
    assert name in said or str(folder) in said, "it names the file"
    assert any(reason in said for reason in reasons), said
    assert "\n  " in said, "and how to fix it"
    assert contents(folder) == before, "existing files are unchanged, and no temporary file is left"


SQLITE_REASONS = ("disk is full", "disk I/O error", "readonly database", "unable to open database")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("state", ["full", "read-only"])
def test_writer_on_a_full_or_read_only_file_system(mounted, writers, state, name):
    reason = {"full": "No space left on device", "read-only": "Read-only file system"}[state]
    refused(writers[name], name, mounted[state], (reason, *SQLITE_REASONS))


@pytest.mark.parametrize("name", NAMES)
def test_writer_stopped_in_the_middle_of_its_file(writers, tmp_path, name):
    folder = tmp_path / "limited"
    folder.mkdir()
    for each in OLD:
        (folder / each).write_bytes(b"old")

    def limited(writer, where):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
        try:
            writer(where)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    refused(functools.partial(limited, writers[name]), name, folder, ("File too large", *SQLITE_REASONS))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "new.db"])
@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_writer_when_the_file_system_fails_at_the_end(writers, tmp_path, monkeypatch, name, call, code):
    folder = tmp_path / "failing"
    folder.mkdir()
    for each in OLD:
        (folder / each).write_bytes(b"old")

    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    refused(writers[name], name, folder, (os.strerror(code),))


@pytest.mark.parametrize("name", NAMES)
def test_writer_reports_what_it_wrote(writers, tmp_path, name):
    folder = tmp_path / "deep" / "er"
    writers[name](folder)
    written = next(path for path in folder.iterdir() if path.name.startswith(name))
    assert written.stat().st_size > LIMIT
    assert not any(path.name.endswith(".tmp") for path in folder.iterdir())


def test_command_reports_the_file_size(command, half_done, tmp_path):
    answer = command("export", half_done, tmp_path / "runs.csv")
    assert answer.out == f"runs: {tmp_path / 'runs.csv'} ({(tmp_path / 'runs.csv').stat().st_size / 1000:.3g} kB)\n"


@pytest.mark.parametrize("name", ["study.json", "plan.parquet", "writer.lock", "runs/new.csv", "curves/x.parquet"])
def test_study_record_is_refused_as_output_file(command, half_done, tmp_path, name):
    (tmp_path / "link").symlink_to(half_done)
    before = {path: path.read_bytes() for path in half_done.rglob("*") if path.is_file()}
    for folder in (half_done, tmp_path / "link"):
        for arguments in (["report", half_done, "-o", folder / name], ["export", half_done, folder / name]):
            answer = command(*arguments)
            assert answer.code == 2
            assert "part of the record" in answer.err
    answer = command("export", half_done, f"optuna:{half_done / name}")
    assert "part of the record" in answer.err
    assert {path: path.read_bytes() for path in half_done.rglob("*") if path.is_file()} == before
    assert command("export", half_done, half_done / "mine.csv").code == 0


def test_existing_optuna_storage_gets_all_or_nothing(half_done, tmp_path, monkeypatch, optuna_storage):
    import optuna

    url = f"sqlite:///{tmp_path / 'shared.db'}"
    optuna.create_study(study_name="another", storage=optuna_storage(url))
    directory = place(str(half_done))
    full = OSError(errno.ENOSPC, "full")
    monkeypatch.setattr("sensitivity.execution.optuna_export.add_trials", Mock(side_effect=full))
    with pytest.raises(UserError, match="can't be opened or written"):
        export_optuna(directory, url)
    assert optuna.get_all_study_names(optuna_storage(url)) == ["another"]
    monkeypatch.undo()
    export_optuna(directory, url)
    assert optuna.get_all_study_names(optuna_storage(url)) == ["another", "small/sgd/64"]


def waiting():
    """Return whether the main thread is waiting for the result of another one."""
    frames = traceback.walk_stack(sys._current_frames()[threading.main_thread().ident])
    return any(frame.f_code is Future.result.__code__ for frame, _ in frames)


def test_interrupt_stops_drawing_images(tmp_path, monkeypatch):
    """Ctrl-C reaches only the main thread, while another one draws."""

    class Interrupted(Browser):
        async def calc_fig(self, figure, opts):
            while not waiting():  # an earlier signal would stop before any drawing
                await asyncio.sleep(0.001)
            os.kill(os.getpid(), signal.SIGINT)
            while not stopped.is_set():
                await asyncio.sleep(0.001)
            return CONTENT

    stopped = threading.Event()
    monkeypatch.setattr(images, "threading", SimpleNamespace(Event=lambda: stopped))
    monkeypatch.setattr("kaleido.Kaleido", Interrupted)
    monkeypatch.setattr(images, "in_theme", lambda text, theme: {"layout": {"height": 1}})
    with pytest.raises(KeyboardInterrupt):
        images.write_images(dict.fromkeys("abc", ""), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"], "the current image is finished, no other is started"


def test_unwritable_cache_is_ignored(study_file, tmp_path, monkeypatch):
    plan = prepare(str(study_file))
    cost = Cost(steps=1, flops=1.0, step_seconds=1.0, evaluation_seconds=0.0, pack_size=1, most=1, gain=1.0,
                member_bytes=1.0)  # fmt: skip
    folder = tmp_path / "caches"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    cache = CostCache(plan.problem, plan.spec.execution, workers=1)
    cache.put(plan.trials[:1], cost)
    assert cache.get(plan.trials[:1]) == cost
    before = sorted(folder.rglob("*"))
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    cache.put(plan.trials, cost)
    assert cache.get(plan.trials) is None
    assert sorted(folder.rglob("*")) == before, "no temporary file is left"


def test_mapped_file_is_allocated_before_writing(mounted, tmp_path):
    path = tmp_path / "map"
    with path.open("wb") as stream:
        stream.truncate(1_000_000)
    reserve(path)
    assert path.stat().st_blocks * 512 >= 1_000_000
    old = mounted["full"] / "study.json"
    os.truncate(old, 1_000_000)
    with pytest.raises(OSError, match="No space left"):
        reserve(old)
    old.write_bytes(b"old")
