import math
from types import SimpleNamespace

import pytest
from pyarrow import fs

from sensitivity.store import lock
from sensitivity.store.directory import Place, place
from sensitivity.store.manifest import write_manifest
from sensitivity.store.writer import append, write_plan
from sensitivity.study.load import parse_study
from sensitivity.study.results import Measurement, PackResult, RunResult, Status
from sensitivity.study.trials import expand, group

RAW = {
    "name": "tiny",
    "batch_sizes": [32],
    "seeds": 2,
    "budget": {"epochs": 2},
    "optimizers": {
        "sgd": {"kind": "sgd", "lr": [0.1, 1.0]},
        "kfac": {"kind": "kfac", "lr": 0.1, "damping": [0.01, 0.1]},
    },
}


def study(**changes):
    return parse_study({**RAW, **changes}, source="test")


def curve(*losses, lr=0.1):
    return tuple(
        Measurement(
            step=5 * k, epoch=k / 2, lr=lr, train_seconds=k / 10, flops=1e6 * k, train_loss=loss, test_accuracy=0.5
        )
        for k, loss in enumerate(losses)
    )


def run(trial, status=Status.COMPLETED, losses=(2.0, 1.0, 0.5), **changes):
    values = {
        "measurements": curve(*losses),
        "steps": 5 * max(len(losses) - 1, 0),
        "epochs": changes.get("steps", 5 * max(len(losses) - 1, 0)) / 10,
        "train_seconds": 0.2,
        "eval_seconds": 0.1,
        "flops": 2e6,
        **changes,
    }
    return RunResult(trial=trial, status=status, **values)


def result(*runs, pack_id="pack"):
    return PackResult(runs=runs, pack_id=pack_id, host="here", device="cpu", started_at=1e9, wall_seconds=0.5)


def interrupted(trial):
    return run(trial, Status.INTERRUPTED, losses=(), message="its worker was lost")


def add(directory, *runs, pack_id="pack"):
    append(directory, result(*runs, pack_id=pack_id), spec_hash="spec", code_version="1.2+abc")


def filled(directory):
    """A study of 8 runs: 1 pack of SGD completed and diverged, one of K-FAC failed and interrupted, 4 pending."""
    spec = study()
    write_manifest(directory, spec, "")
    trials = expand(spec)
    write_plan(directory, trials)
    packs = group(trials, 2)
    sgd, kfac = (next(pack for pack in packs if pack.arm == arm) for arm in ("sgd", "kfac"))
    diverged = run(sgd.trials[1], Status.DIVERGED, losses=(2.0, 9.0, math.inf), steps=8, message="loss above the bound")
    add(directory, run(sgd.trials[0]), diverged, pack_id=sgd.id)
    failed = run(kfac.trials[0], Status.FAILED, losses=(2.0,), message="boom", traceback="Traceback ...")
    add(directory, failed, interrupted(kfac.trials[1]), pack_id=kfac.id)
    return trials


def snapshot(directory):
    """Every file's bytes, by path."""
    infos = directory.filesystem.get_file_info(fs.FileSelector(directory.path, recursive=True, allow_not_found=True))
    return {i.path: directory.filesystem.open_input_stream(i.path).read() for i in infos if i.is_file}


@pytest.fixture
def make():
    """The functions of this file."""
    return SimpleNamespace(
        study=study,
        run=run,
        result=result,
        add=add,
        filled=filled,
        interrupted=interrupted,
        snapshot=snapshot,
        curve=curve,
    )


@pytest.fixture(autouse=True)
def _no_settling(monkeypatch):
    """Nobody else writes the object stores of these tests at the same time."""
    monkeypatch.setattr(lock, "SETTLE_S", 0.0)


@pytest.fixture(params=["local", "mock", "subtree"])
def directory(request, tmp_path):
    """An empty study directory on three file systems; only the first is local in the eyes of the store."""
    if request.param == "local":
        return place(str(tmp_path / "studies" / "tiny"))
    if request.param == "mock":
        return Place(fs._MockFileSystem(), "bucket/tiny", "mock://bucket/tiny")
    return Place(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "bucket/tiny", "sub://bucket/tiny")
