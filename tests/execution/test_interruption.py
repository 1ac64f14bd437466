"""Stopping a running command keeps what was reported; the same command then finishes the study."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

from sensitivity.execution.interruption import Interruptible
from sensitivity.store.directory import place
from sensitivity.store.reader import read_study

HANGS_S = 600.0
"""No command here takes so long on the slowest machine, unless it hangs."""

SLOW = """
name = "slow"
batch_sizes = [64, 65]
seeds = 1
[problem]
model = "slow_on_purpose:model"
[budget]
steps = 2
[execution]
pack_size = 1
[optimizers.sgd]
kind = "sgd"
lr = [0.01, 0.02, 0.03, 0.04]
"""
MODEL = """
import pathlib, time
from torch import nn
HERE = pathlib.Path(__file__).parent
class Slow(nn.Module):
    def __init__(self, outputs):
        super().__init__(); self.layer = nn.Linear(64, outputs)
    def forward(self, x):
        # Runs at batch size 65 train for as long as the test holds them.
        while self.training and len(x) == 65 and HERE.joinpath("hold").exists():
            HERE.joinpath("began").touch(); time.sleep(0.02)
        return self.layer(x.flatten(1))
def model(shape, outputs): return Slow(outputs)
"""


def start(folder, address):
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "sensitivity.cli.main", "run", str(folder / "slow.toml")),
            *("--storage", str(folder / "studies"), "--address", address, "--workers", "1"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A display that lacks characters stops no run.
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONFAULTHANDLER": "1"},
    )


def parts(folder):
    return sorted((folder / "studies/slow/runs").glob("*.parquet"))


def wait_until(condition, process):
    deadline = time.monotonic() + HANGS_S
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_stopped_study_keeps_its_results_and_finishes_later(running_ray, tmp_path):
    """One study that is stopped and killed in turn, and refused to a second writer meanwhile."""
    (tmp_path / "slow.toml").write_text(SLOW)
    (tmp_path / "slow_on_purpose.py").write_text(MODEL)
    (tmp_path / "hold").touch()
    began, directory = tmp_path / "began", place(str(tmp_path / "studies/slow"))
    for signal_number in (signal.SIGINT, signal.SIGKILL):
        began.unlink(missing_ok=True)
        process = start(tmp_path, running_ray)
        wait_until(lambda: len(parts(tmp_path)) == 4 and began.exists(), process)
        if signal_number == signal.SIGINT:
            other = start(tmp_path, running_ray)
            output, _ = other.communicate(timeout=HANGS_S)
            assert other.returncode == 2
            assert f"being written by process {process.pid}" in output
            assert "Traceback" not in output
        process.send_signal(signal_number)
        output, _ = process.communicate(timeout=HANGS_S)
        assert "Traceback" not in output
        kept = read_study(directory).runs
        done = kept[kept["status"] == "completed"]
        assert set(done["batch_size"]) == {64}
        assert len(done) == 4
        if signal_number == signal.SIGINT:
            first = done
        if signal_number != signal.SIGKILL:
            assert process.returncode == 130, output
            assert "every reported result is kept" in output
            assert " runs - " in output, "what is shown while it runs"
            assert not (tmp_path / "studies/slow/writer.lock").exists()
    (tmp_path / "hold").unlink()
    last = start(tmp_path, running_ray)
    output, _ = last.communicate(timeout=HANGS_S)
    assert last.returncode == 0, output
    runs = read_study(directory).runs
    assert runs["status"].tolist() == ["completed"] * 8
    # What was reported before was not done again.
    columns = ["trial_id", "train_loss", "finished_at", "pack_id"]
    again = runs.set_index("trial_id").loc[first["trial_id"]].reset_index()
    pd.testing.assert_frame_equal(again[columns], first[columns].reset_index(drop=True))
    assert len(parts(tmp_path)) == 8


PHASES = ["import", "check", "data", "lock", "plan", "ray", "join", "measure", "train", "write", "end", "terminal"]


@pytest.fixture(scope="module")
def stopped(running_ray, tmp_path_factory):
    """What became of the command, stopped at each of its phases; see stops.py."""
    study = tmp_path_factory.mktemp("stopped") / "quick.toml"
    study.write_text(SLOW.replace('[problem]\nmodel = "slow_on_purpose:model"\n', "").replace("[64, 65]", "[64]"))
    script = Path(__file__).with_name("stops.py")
    done = subprocess.run(
        [sys.executable, str(script), str(study), running_ray, *PHASES], capture_output=True, text=True, timeout=HANGS_S
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_at_any_phase_is_a_stop_that_leaves_nothing_behind(stopped, phase):
    outcome = stopped[phase]
    assert outcome["reached"], outcome["said"]
    assert outcome["code"] == 130, outcome["said"]
    assert "Traceback" not in outcome["said"]
    assert ("stopped; " in outcome["said"]) == (phase != "terminal")
    assert not outcome["lock"]
    assert not outcome["processes"]
    assert not outcome["folders"]
    assert bool(outcome["parts"]) == (phase == "write")


def test_a_second_signal_while_the_first_is_handled_changes_nothing(monkeypatch):
    """Both arrive at once, so the second is handled at any call that the first one's handler makes."""
    began, threads = threading.Thread.start, []

    def start(thread):
        threads.append(thread)
        signal.raise_signal(signal.SIGTERM)
        began(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(KeyboardInterrupt, match="SIGINT"), Interruptible() as stops:
        signal.raise_signal(signal.SIGINT)
    assert stops.requested
    assert len(threads) == 1
