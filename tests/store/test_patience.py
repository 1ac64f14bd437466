"""A place that goes away for a while is waited for; a full disk is not."""

import errno
import os

import pytest

from sensitivity.store.directory import patiently, place
from sensitivity.study.errors import StorageError


class Clock:
    def __init__(self):
        self.waits = []

    def __call__(self, seconds):
        self.waits.append(seconds)


@pytest.mark.parametrize("away", [0, 1, 5])
def test_a_write_succeeds_once_the_place_is_back(away):
    clock, calls = Clock(), []

    def write():
        calls.append(1)
        if len(calls) <= away:
            raise StorageError("nobody answers", passing=True)

    patiently(write, wait=clock)
    assert len(calls) == away + 1
    assert clock.waits == [0.5, 1.0, 2.0, 4.0, 8.0][:away]


def test_patience_ends():
    clock = Clock()

    def write():
        raise StorageError("nobody answers", passing=True)

    with pytest.raises(StorageError, match="nobody answers"):
        patiently(write, patience=60.0, wait=clock)
    assert 60 <= sum(clock.waits) <= 70
    assert max(clock.waits) == 10


@pytest.mark.parametrize(("number", "passing"), [("ENOSPC", False), ("EROFS", False), ("EIO", True), ("ESTALE", True)])
def test_a_fault_that_waiting_does_not_mend_is_told_at_once(tmp_path, monkeypatch, number, passing):
    def fails(_):
        raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))

    monkeypatch.setattr(os, "fsync", fails)
    clock = Clock()
    with pytest.raises(StorageError, match="can't be written"):
        patiently(lambda: place(str(tmp_path)).write("x", b"1"), patience=1.0, wait=clock)
    assert bool(clock.waits) == passing
    assert not list(tmp_path.iterdir())


def test_results_do_not_go_into_an_empty_mount_point(tmp_path, make):
    directory = place(str(tmp_path / "mounted"))
    trials = make.filled(directory)
    before = make.snapshot(directory)
    (tmp_path / "mounted").rename(tmp_path / "away")
    (tmp_path / "mounted").mkdir()
    with pytest.raises(StorageError, match="the study is no longer here") as caught:
        make.add(directory, make.run(trials[4]))
    assert caught.value.passing
    assert not list((tmp_path / "mounted").iterdir())
    (tmp_path / "mounted").rmdir()
    (tmp_path / "away").rename(tmp_path / "mounted")
    assert make.snapshot(directory) == before
    make.add(directory, make.run(trials[4]))
