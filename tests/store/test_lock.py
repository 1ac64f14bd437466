import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import pytest
from pyarrow import fs

from sensitivity.store import lock
from sensitivity.store.directory import place
from sensitivity.store.lock import LOCK, STALE_S, WriterLock, live_holder
from sensitivity.store.manifest import write_manifest
from sensitivity.study.errors import StorageError


def leave(directory, *, pid, age=0.0, host=None, skew=0.0):
    """Leave a lock file as another writer would, whose clock is `skew` ahead of the storage's."""
    content = {
        "token": "other",
        "host": host or socket.gethostname(),
        "pid": pid,
        "renewed_at": time.time() - age + skew,
        "machine": host or lock._machine(),
        "began": lock._began(pid) or "long ago",
    }
    directory.write(LOCK, json.dumps(content).encode())
    if age:
        path = next((p for p in _paths(directory) if p.exists()), None)
        if path is None:
            pytest.skip("this file system's clock can't be set back")
        os.utime(path, (time.time() - age,) * 2)


def _paths(directory):
    """Where the lock file may lie on this machine's file tree."""
    yield Path(directory.path) / LOCK
    if isinstance(directory.filesystem, fs.SubTreeFileSystem):
        yield Path(directory.filesystem.base_path) / directory.path / LOCK


@pytest.fixture
def impatient(monkeypatch):
    """Locks are stale soon."""
    monkeypatch.setattr(lock, "STALE_S", 0.3)
    monkeypatch.setattr(lock, "_POLL_INTERVAL_S", 0.01)


@pytest.fixture(scope="module")
def dead():
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_lock_names_its_holder_and_goes_when_it_is_done(directory):
    with WriterLock(directory):
        content = json.loads(directory.read(LOCK))
        assert (content["pid"], content["host"]) == (os.getpid(), socket.gethostname())
        assert abs(content["renewed_at"] - time.time()) < 5
    assert not directory.exists(LOCK)
    with WriterLock(directory):
        pass


def test_a_second_writer_is_refused_and_the_first_keeps_its_lock(directory):
    with WriterLock(directory):
        held = directory.read(LOCK)
        with pytest.raises(StorageError) as caught, WriterLock(directory):
            pytest.fail("two writers")
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        assert str(caught.value).startswith(f"{directory.uri}: being written by {holder}\n  Wait for it, or stop it")
        assert directory.read(LOCK) == held
    assert not directory.exists(LOCK)


def test_a_lock_of_a_clusters_job_names_the_job(directory, monkeypatch):
    monkeypatch.setenv(lock.JOB_VARIABLE, "mine-0123-2")
    refusal = rf"being written by job mine-0123-2 \(process {os.getpid()} on "
    with WriterLock(directory), pytest.raises(StorageError, match=refusal), WriterLock(directory):
        pytest.fail("two writers")


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt])
def test_a_lock_is_released_when_its_writer_fails(directory, fault):
    with pytest.raises(fault), WriterLock(directory):
        raise fault
    assert not directory.exists(LOCK)


def test_a_dead_process_of_this_machine_holds_nothing(directory, dead):
    leave(directory, pid=dead)
    with WriterLock(directory):
        assert json.loads(directory.read(LOCK))["pid"] == os.getpid()


def test_a_process_of_another_machine_that_beats_is_not_disturbed(directory, dead, monkeypatch, caplog):
    leave(directory, pid=dead, host="elsewhere")
    waits = []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            leave(directory, pid=dead, host="elsewhere")  # its heart beats

    monkeypatch.setattr(time, "sleep", wait)
    with pytest.raises(StorageError, match=f"by process {dead} on elsewhere"), WriterLock(directory):
        pytest.fail("two writers")
    assert len(waits) == 3
    assert caplog.text.count("waiting up to") == 1


def test_stale_lock_of_another_machine_is_taken_over(directory, impatient, dead):
    leave(directory, pid=dead, host="elsewhere")
    began = time.time()
    with WriterLock(directory):
        assert json.loads(directory.read(LOCK))["pid"] == os.getpid()
    assert time.time() - began > 0.2


def test_who_waits_gives_way_to_who_was_quicker(directory, monkeypatch, dead):
    leave(directory, pid=dead, host="elsewhere")
    other = {"token": "third", "host": "third", "pid": 3, "renewed_at": time.time()}
    monkeypatch.setattr(time, "sleep", lambda _: directory.write(LOCK, json.dumps(other).encode()))
    with pytest.raises(StorageError, match="by process 3 on third"), WriterLock(directory):
        pytest.fail("two writers")


def test_a_process_of_another_machine_that_is_silent_for_long_holds_nothing(directory, dead):
    leave(directory, pid=dead, host="elsewhere", age=STALE_S + 1)
    with WriterLock(directory):
        assert json.loads(directory.read(LOCK))["pid"] == os.getpid()


def test_a_number_that_another_process_has_now_holds_nothing(directory):
    leave(directory, pid=os.getpid())
    content = json.loads(directory.read(LOCK))
    directory.write(LOCK, json.dumps({**content, "began": "before"}).encode())
    with WriterLock(directory):
        assert json.loads(directory.read(LOCK))["token"] != "other"


def test_who_only_looks_judges_as_a_writer_does_and_writes_nothing(directory, dead, monkeypatch):
    assert live_holder(directory) is None
    with WriterLock(directory):
        assert live_holder(directory).pid == os.getpid()
        monkeypatch.setattr(lock, "_machine", lambda: "another container")
        assert live_holder(directory).pid == os.getpid()
        monkeypatch.undo()
    monkeypatch.setattr(type(directory), "write", None)
    assert live_holder(directory) is None
    monkeypatch.undo()
    leave(directory, pid=dead)
    assert live_holder(directory) is None, "a dead process of this machine"
    leave(directory, pid=dead, host="elsewhere")
    assert str(live_holder(directory)) == f"process {dead} on elsewhere"
    leave(directory, pid=dead, host="elsewhere", age=STALE_S + 1)
    assert live_holder(directory) is None, "another machine's, silent for long"


def test_a_lock_that_comes_while_it_is_looked_for_is_seen(directory, monkeypatch):
    read, missed = type(directory).read, []

    def late(self, name):
        if not missed:
            missed.append(name)
            leave(directory, pid=os.getpid())
            raise StorageError("no such file", passing=True)
        return read(self, name)

    monkeypatch.setattr(type(directory), "read", late)
    assert live_holder(directory).pid == os.getpid()
    assert missed == [LOCK]


def test_a_killed_process_that_nobody_has_buried_holds_nothing(directory):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    leave(directory, pid=process.pid)
    with pytest.raises(StorageError, match=f"being written by process {process.pid}"), WriterLock(directory):
        pytest.fail("two writers")
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with WriterLock(directory):
        pass
    process.wait()


def test_a_container_of_this_machine_does_not_see_the_others_processes(directory, monkeypatch, dead):
    """It has the same name where it shares the machine's network, and its processes have numbers of their own."""
    leave(directory, pid=dead)
    content = json.loads(directory.read(LOCK))
    monkeypatch.setattr(lock, "_machine", lambda: "another container")
    beat = json.dumps({**content, "renewed_at": content["renewed_at"] + 5}).encode()
    monkeypatch.setattr(time, "sleep", lambda _: directory.write(LOCK, beat))
    with pytest.raises(StorageError, match="being written by"), WriterLock(directory):
        pytest.fail("two writers")


GARBLED = [
    b"",
    b"{",
    b"[]",
    b"3",
    b"null",
    b"\xff\xfe",
    b'{"pid": 1}',
    b'{"pid": "x", "host": 1, "token": 2, "renewed_at": "y"}',
    b'{"pid": Infinity, "host": "", "token": "", "renewed_at": 0}',
]


@pytest.mark.parametrize("data", GARBLED)
def test_a_garbled_lock_is_void_once_it_is_old(tmp_path, monkeypatch, data):
    directory = place(str(tmp_path))
    directory.write(LOCK, data)
    with monkeypatch.context() as patch:
        beats(directory, patch, pid=7, host="elsewhere")
        with pytest.raises(StorageError, match=r"by process 7 on elsewhere\n"), WriterLock(directory):
            pytest.fail("it was being written just then")
    directory.write(LOCK, data)
    old = time.time() - STALE_S - 1
    os.utime(tmp_path / LOCK, (old, old))
    with WriterLock(directory):
        assert json.loads(directory.read(LOCK))["pid"] == os.getpid()
    assert not directory.exists(LOCK)


@pytest.mark.parametrize("pid", [-1, 0, 2**40])
def test_an_impossible_process_id_is_no_crash(directory, pid):
    leave(directory, pid=pid, age=STALE_S + 1)
    with WriterLock(directory):
        pass


def test_the_heartbeat_renews_the_lock(directory, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.001)
    write = type(directory).write
    times = {"MainThread": [], "writer-lock": []}
    renewed = threading.Event()

    def noted(self, name, data):
        write(self, name, data)
        times[threading.current_thread().name].append(json.loads(data)["renewed_at"])
        renewed.set()

    taken = time.time()
    holder = WriterLock(directory)
    holder.__enter__()
    monkeypatch.setattr(type(directory), "write", noted)
    assert renewed.wait(10)
    holder.__exit__(None, None, None)
    assert min(times["writer-lock"]) > taken
    assert not times["MainThread"]
    assert not directory.exists(LOCK), "no heartbeat after the end"


def test_a_writer_whose_lock_was_taken_over_leaves_it_alone(directory):
    with WriterLock(directory):
        leave(directory, pid=12345)  # as a writer that took this one for stale
    assert json.loads(directory.read(LOCK))["token"] == "other"


def test_of_two_that_write_an_object_at_once_the_last_wins(directory, monkeypatch):
    if directory.is_local:
        pytest.skip("a local lock is created atomically")
    write = type(directory).write

    def outrun(self, name, data):
        write(self, name, data)
        write(self, name, json.dumps({**json.loads(data), "token": "other"}).encode())

    monkeypatch.setattr(type(directory), "write", outrun)
    with pytest.raises(StorageError, match="another writer took the lock first"), WriterLock(directory):
        pytest.fail("two writers")


@pytest.mark.parametrize("fault", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("no flock")])
def test_a_folder_without_file_locks_has_one_writer_too(directory, monkeypatch, fault):
    """Lustre and NFS may be mounted without locks; the last to write the lock holds it, as on an object store."""

    def without(*arguments, **options):
        raise fault

    monkeypatch.setattr(filelock.FileLock, "acquire", without)
    monkeypatch.setattr(lock, "SETTLE_S", 0.0)
    with WriterLock(directory) as first:
        first.require()
        with pytest.raises(StorageError, match="being written by"), WriterLock(directory):
            pass
        leave(directory, pid=12345)
        with pytest.raises(StorageError, match="lock was lost"):
            first.require()
    assert directory.exists(LOCK), "the other's"


def test_of_many_that_find_a_stale_lock_one_takes_it_over(tmp_path, dead):
    directory, at_once = place(str(tmp_path)), 8
    ready = threading.Barrier(at_once)

    def take(_):
        ready.wait()
        try:
            holder = WriterLock(directory)
            holder.__enter__()
        except StorageError as error:
            return str(error)
        return holder

    for _ in range(20):
        leave(directory, pid=dead)
        with ThreadPoolExecutor(at_once) as threads:
            outcomes = list(threads.map(take, range(at_once)))
        (winner,) = (outcome for outcome in outcomes if isinstance(outcome, WriterLock))
        assert all(f"being written by process {os.getpid()}" in text for text in outcomes if text is not winner)
        winner.require()
        winner.__exit__(None, None, None)
        assert not directory.exists(LOCK)


def beats(directory, monkeypatch, **holder):
    """While others wait, the holder's heart beats."""
    monkeypatch.setattr(time, "sleep", lambda _: leave(directory, **holder))


@pytest.mark.parametrize("skew", [-86400.0, 86400.0])
def test_clocks_that_differ_neither_free_a_held_lock_nor_keep_a_stale_one(directory, monkeypatch, skew):
    leave(directory, pid=1, host="elsewhere", skew=skew)
    with monkeypatch.context() as patch:
        beats(directory, patch, pid=1, host="elsewhere", skew=skew)
        with pytest.raises(StorageError, match="being written by process 1 on elsewhere"), WriterLock(directory):
            pytest.fail("two writers")
    leave(directory, pid=1, host="elsewhere", skew=skew, age=STALE_S + 1)
    with WriterLock(directory):
        pass


def test_without_file_times_the_writers_clocks_must_do(directory, monkeypatch):
    monkeypatch.setattr(type(directory), "modified_at", lambda self, name: 0.0)
    leave(directory, pid=1, host="elsewhere", skew=-STALE_S / 2)
    with monkeypatch.context() as patch:
        beats(directory, patch, pid=1, host="elsewhere", skew=-STALE_S / 2)
        with pytest.raises(StorageError, match="being written"), WriterLock(directory):
            pytest.fail("two writers")
    leave(directory, pid=1, host="elsewhere", skew=-STALE_S - 1)
    with WriterLock(directory):
        pass


def test_a_writer_that_lost_its_lock_finds_out_before_it_writes(directory, make):
    write_manifest(directory, make.study(), "")
    with WriterLock(directory) as held:
        held.require()
        leave(directory, pid=12345)
        with pytest.raises(StorageError, match=r"lock was lost.*process 12345") as caught:
            held.require()
        assert not caught.value.passing
        directory.delete(LOCK)
        with pytest.raises(StorageError, match="held by nobody") as caught:
            held.require()
        assert not caught.value.passing


def test_a_lock_whose_place_is_out_of_reach_may_come_back(tmp_path, make):
    directory = place(str(tmp_path / "mounted"))
    write_manifest(directory, make.study(), "")
    with WriterLock(directory) as held:
        (tmp_path / "mounted").rename(tmp_path / "away")
        with pytest.raises(StorageError, match=r"study is no longer here") as caught:
            held.require()
        assert caught.value.passing
        (tmp_path / "away").rename(tmp_path / "mounted")
        held.require()
    assert not directory.exists(LOCK)


def test_what_killed_writers_left_half_written_is_swept_and_nothing_else(directory, make):
    make.filled(directory)
    before = make.snapshot(directory)
    half_written = (f".{'0f' * 16}.tmp", f"checkpoints/.{'a1' * 16}.tmp") if directory.is_local else ()
    for name in (*half_written, f".{LOCK}.{'b2' * 16}", ".preflight-1-node"):
        directory.write(name, b"half")
    theirs = (".notes", "runs/.keep.tmp", ".nfs0001", "checkpoints/p.tmp")
    for name in theirs:
        directory.write(name, b"")
    with WriterLock(directory) as held:
        held.sweep()
        held.require()
    for name in (*theirs, f".{LOCK}.guard"):
        directory.delete(name)
    assert make.snapshot(directory) == before
