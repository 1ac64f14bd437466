"""Studies whose packs wait while a file exists, so that what happens in the middle of one is no matter of luck."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd

from sensitivity.execution.prepare import prepare
from sensitivity.execution.worker import run_pack
from sensitivity.store.directory import place
from sensitivity.store.manifest import write_manifest
from sensitivity.store.reader import read_study
from sensitivity.store.writer import append, write_plan

STUDY = """
name = "{name}"
batch_sizes = [64, 65]
seeds = 1
[problem]
model = "held_net:net"
[budget]
steps = 4
[execution]
pack_size = 1
[optimizers.sgd]
kind = "sgd"
lr = [0.01, 0.02, 0.03, 0.04]
"""
NET = """
import os, pathlib, time
from torch import nn
HOLD, BEGAN = pathlib.Path({hold!r}), pathlib.Path({began!r})
class Held(nn.Module):
    def __init__(self, outputs):
        super().__init__(); self.layer = nn.Linear(64, outputs)
    def forward(self, x):
        while self.training and len(x) == 65 and HOLD.exists():
            (BEGAN / str(os.getpid())).touch(); time.sleep(0.02)
        return self.layer(x.flatten(1))
def net(shape, outputs): return Held(outputs)
"""
MEASURED = ["trial_id", "status", "steps", "train_loss", "train_accuracy", "test_loss", "test_accuracy"]


def own_study(folder: Path, name: str = "held") -> Path:
    """Write a study of 8 runs, of which 4 wait while `folder`/hold exists and say so in `folder`/began."""
    began, hold = folder / "began", folder / "hold"
    (folder / "study").mkdir(parents=True)
    began.mkdir()
    hold.touch()
    (folder / f"study/{name}.toml").write_text(STUDY.format(name=name))
    (folder / "study/held_net.py").write_text(NET.format(hold=str(hold), began=str(began)))
    return folder / f"study/{name}.toml"


def wait(condition, what, seconds: float = 400):
    """Wait for a condition; `what`, or what it returns, is the message of an end without."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.2)


def here(study: Path, target: Path):
    """Run a study pack by pack in this process, without Ray."""
    plan, directory = prepare(str(study)), place(str(target))
    manifest = write_manifest(directory, plan.spec, plan.source)
    write_plan(directory, plan.trials)
    for pack in plan.packs({}, finished=frozenset(), workers=1):
        result = run_pack(pack, plan.spec.execution, plan.origin, directory)
        append(directory, result, spec_hash=manifest.spec_hash, code_version="here")
    return read_study(directory)


def check_equal(found, alone) -> None:
    """Check that two results of a study are the same to the last bit, clock times and places aside."""
    pd.testing.assert_frame_equal(found.runs[MEASURED], alone.runs[MEASURED])
    curves = ["trial_id", "step", "train_loss", "test_accuracy"]
    pd.testing.assert_frame_equal(found.curves[curves], alone.curves[curves])


def check_kept(before, after) -> None:
    """Check that no run that was completed before has been done again."""
    done = before.runs[before.runs["status"] == "completed"].set_index("trial_id")["finished_at"]
    assert len(done)
    pd.testing.assert_series_equal(after.runs.set_index("trial_id")["finished_at"].loc[done.index], done)
