"""Whole studies on object stores that are real servers. Minutes long: only with ``--cluster``, which records it."""

import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from sensitivity.store.counting import finished_trials
from sensitivity.store.directory import place
from sensitivity.store.lock import LOCK, WriterLock
from sensitivity.store.reader import read_study
from sensitivity.study.errors import StorageError

_proxies = runpy.run_path(str(Path(__file__).with_name("proxy.py")))
FAULTS = _proxies["FAULTS"]
NAMES = ("folder", "moto", "seaweedfs", "google", "azure")
WRITERS = 6
SECRETS = re.compile("a-secret-of-the-test|YS1zZWNyZXQ")
FAULT_S = 20
_seen: dict[str, str] = {}


@pytest.fixture(scope="module")
def servers(request, tmp_path_factory):
    if not request.config.getoption("--cluster"):
        pytest.skip("takes minutes; --cluster runs it")
    parts = runpy.run_path(str(Path(__file__).with_name("stores.py")))
    made = parts["Servers"](tmp_path_factory.mktemp("stores"))
    try:
        yield made, parts["MissingServerError"]
    finally:
        made.close()


@pytest.fixture(scope="module", params=NAMES)
def store(request, servers):
    """A place for studies whose credentials this process has in its environment."""
    made, missing = servers
    try:
        found = made.start(request.param)
    except missing as why:
        pytest.skip(str(why))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in found.env.items():
            patch.setenv(name, value)
        yield found


@pytest.fixture(scope="module", autouse=True)
def _record(servers, update_record):
    yield
    if _seen:
        head = (
            "# Studies on object stores\n\n`pytest --cluster -n 0 tests/cluster/test_stores.py`, Ray "
            f"{ray.__version__}, pyarrow {pa.__version__}, {os.cpu_count()} cores, every server on loopback. Each row "
            "was written when its tests had passed; one study a row."
        )
        update_record("stores", head, _seen)


@pytest.fixture
def start(tmp_path):
    """Start `sensitivity run` with one worker, in the environment of this process; stop it with the test."""
    started = []

    def run(study: Path, storage: str, name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "sensitivity.cli.main", "run", study, "--storage", storage, "--workers", "1"]
        with (tmp_path / f"{name}.txt").open("w") as output:
            started.append(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, text=True))
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=120)


def test_files_are_listed_replaced_and_removed(store):
    directory = place(store.below("files"))
    directory.write("a/x.parquet", b"one")
    directory.write("a/x.parquet", b"second")
    directory.write("a/y.parquet", b"")
    directory.write("a/deep/.hidden", b"1")
    directory.write("notes.txt", b"1")
    assert directory.read("a/x.parquet") == b"second"
    assert directory.child("a").sizes(".parquet") == {"x.parquet": 6, "y.parquet": 0}
    assert directory.child("absent").files(".parquet") == ()
    assert [folder.path for folder in directory.folders()] == [f"{directory.path}/a"]
    assert directory.child("absent").folders() == ()
    assert directory.exists("a/x.parquet")
    assert not directory.exists("a")
    assert directory.open("absent") is None
    assert abs(directory.modified_at("notes.txt") - time.time()) < 30
    with pytest.raises(StorageError, match=r"absent.*: can't be read"):
        directory.read("absent")
    directory.delete("a/x.parquet")
    directory.delete("a/x.parquet")
    assert directory.child("a").files("") == ("y.parquet",)


def test_of_writers_that_come_at_once_one_holds_the_lock(store):
    directory = place(store.below("locked"))
    gate, left, refused = threading.Barrier(WRITERS), [], []

    def write(number: int) -> None:
        gate.wait()
        deadline = time.monotonic() + 60
        try:
            with WriterLock(directory) as lock:
                while len(refused) < WRITERS - 1 and time.monotonic() < deadline:
                    time.sleep(0.2)
                    lock.require()
                left.append(number)
        except StorageError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=write, args=(k,)) for k in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(left) == 1, refused
    assert len(refused) == WRITERS - 1
    said = ("being written by", "another writer took the lock first", "this writer's lock was lost")
    assert all(any(words in text for words in said) for text in refused), refused
    assert not directory.exists(LOCK)
    _seen[f"{store.name} {store.version}".strip() + ", the lock"] = f"of {WRITERS} writers at once one was left with it"


def test_a_killed_study_is_finished_and_equals_a_local_one(store, held, start, tmp_path):
    study, directory = held.own_study(tmp_path, "killed"), place(store.below("studies/killed"))
    storage = store.below("studies")
    first = start(study, storage, "first")
    held.wait(lambda: list((tmp_path / "began").iterdir()), lambda: (tmp_path / "first.txt").read_text())
    held.wait(lambda: len(finished_trials(directory)) == 4, lambda: (tmp_path / "first.txt").read_text())
    second = start(study, storage, "second")
    assert second.wait(timeout=200) == 2
    refusal = (tmp_path / "second.txt").read_text()
    assert f"being written by process {first.pid} on" in refusal
    assert "Traceback" not in refusal
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    kept = read_study(directory)
    (tmp_path / "hold").unlink()
    began = time.monotonic()
    again = start(study, storage, "again")
    assert again.wait(timeout=600) == 0, (tmp_path / "again.txt").read_text()
    seconds = time.monotonic() - began
    found = read_study(directory)
    held.check_equal(found, held.here(study, tmp_path / "here"))
    held.check_kept(kept, found)
    assert not directory.exists(LOCK)
    command = [sys.executable, "-m", "sensitivity.cli.main", "list", storage]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200).stdout
    assert "killed" in listed
    texts = [path.read_text() for path in tmp_path.glob("*.txt")] + [directory.read("study.json").decode(), listed]
    assert not any(map(SECRETS.search, texts))
    _seen[f"{store.name} {store.version}".strip()] = (
        "a study killed (SIGKILL) after 4 of 8 runs, a "
        f"second writer refused by name, then finished in {seconds:.0f} s with Ray's start, no reported run done "
        "again, the final table equal to a local run's; listed"
    )


def test_a_server_that_would_lose_files_is_refused(servers, monkeypatch):
    made, missing = servers
    try:
        found = made.start("rclone")
    except missing as why:
        pytest.skip(str(why))
    for name, value in found.env.items():
        monkeypatch.setenv(name, value)
    directory = place(found.below("refused"))
    with pytest.raises(StorageError, match="does not keep objects for folders") as refused, WriterLock(directory):
        pytest.fail("a lock where files are lost")
    assert not directory.exists(LOCK)
    assert not refused.value.passing
    _seen[f"{found.name} {found.version}"] = "refused by name before anything of a study is written"


@pytest.fixture(scope="module")
def behind(servers):
    """An S3 server that is reached through a proxy."""
    made, _ = servers
    with pytest.MonkeyPatch.context() as patch:
        found = made.start("moto")
        proxy = _proxies["Proxy"](found.port)
        for name, value in {**found.env, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"}.items():
            patch.setenv(name, value)
        yield found, proxy
        proxy.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_store_that_misbehaves_in_mid_study_costs_nothing_that_was_reported(behind, fault, held, start, tmp_path):
    found, proxy = behind
    storage, name = found.below("faults"), f"met_{fault}"
    study, directory = held.own_study(tmp_path, name), place(found.below(f"faults/{name}"))
    first = start(study, storage, "first")

    def said() -> str:
        return (tmp_path / "first.txt").read_text()

    held.wait(lambda: list((tmp_path / "began").iterdir()), said)
    held.wait(lambda: len(finished_trials(directory)) == 4, said)
    kept = read_study(directory)
    proxy.faults.clear()
    proxy.fault = fault
    (tmp_path / "hold").unlink()
    began = time.monotonic()
    try:
        if fault == "expired":
            assert first.wait(timeout=100) == 2, said()
        else:
            time.sleep(FAULT_S)
            met = proxy.faults[fault]
    finally:
        proxy.fault = ""
    if fault == "expired":
        seconds, met = time.monotonic() - began, proxy.faults[fault]
        errors = [line for line in said().splitlines() if line.startswith("error:")]
        assert len(errors) == 1, said()
        assert said().count("Its credentials were rejected or have expired. Renew them") == 1, said()
        assert first.wait() == 2
        first = start(study, storage, "second")
        outcome = f"the study stopped after {seconds:.0f} s with one message, to renew them, and was finished later"
    else:
        outcome = f"for {FAULT_S} s ({met} requests): the study waited and finished by itself"
    assert first.wait(timeout=600) == 0, said()
    assert met >= 3
    assert "Traceback" not in said()
    after = read_study(directory)
    held.check_equal(after, held.here(study, tmp_path / "here"))
    held.check_kept(kept, after)
    what = {
        "throttled": "503 SlowDown with Retry-After",
        "cut": "connections cut before or in the answer",
        "slow": f"answers after {_proxies['SLOW_S']:.0f} s",
        "expired": "credentials that expire in mid-study",
        "stale": "lists of files that are out of date",
    }[fault]
    _seen[what] = f"{outcome}, no reported run done again, the final table equal to a local run's"
