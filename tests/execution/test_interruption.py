"""Stopping a running command keeps what was reported; the same command then finishes the study."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

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
class Slow(nn.Module):
    def __init__(self, outputs):
        super().__init__(); self.layer = nn.Linear(64, outputs)
    def forward(self, x):
        # Runs at batch size 65 train for as long as the test holds them.
        while self.training and len(x) == 65 and pathlib.Path(__file__).with_name("hold").exists(): time.sleep(0.02)
        return self.layer(x.flatten(1))
def model(shape, outputs): return Slow(outputs)
"""


def start(folder, address):
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "sensitivity.cli.main", "run", str(folder / "slow.toml")),
            *("--storage", str(folder / "studies"), "--address", address),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},  # a display that lacks characters stops no run
    )


def parts(folder):
    return sorted((folder / "studies/slow/runs").glob("*.parquet"))


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_study_keeps_its_results_and_finishes_later(running_ray, tmp_path, signal_number):
    (tmp_path / "slow.toml").write_text(SLOW)
    (tmp_path / "slow_on_purpose.py").write_text(MODEL)
    (tmp_path / "hold").touch()
    process = start(tmp_path, running_ray)
    deadline = time.monotonic() + HANGS_S
    while len(parts(tmp_path)) < 4:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal_number)
    output, _ = process.communicate(timeout=HANGS_S)
    assert "Traceback" not in output
    kept = read_study(place(str(tmp_path / "studies/slow"))).runs
    done = kept[kept["status"] == "completed"]
    assert set(done["batch_size"]) == {64}
    assert len(done) == 4
    if signal_number != signal.SIGKILL:
        assert process.returncode == 130
        assert "every reported result is kept" in output
        assert " runs - " in output, "what is shown while it runs"
        assert not (tmp_path / "studies/slow/writer.lock").exists()
    (tmp_path / "hold").unlink()
    second = start(tmp_path, running_ray)
    output, _ = second.communicate(timeout=HANGS_S)
    assert second.returncode == 0, output
    runs = read_study(place(str(tmp_path / "studies/slow"))).runs
    assert runs["status"].tolist() == ["completed"] * 8
    # What was reported before was not done again.
    columns = ["trial_id", "train_loss", "finished_at", "pack_id"]
    again = runs.set_index("trial_id").loc[done["trial_id"]].reset_index()
    pd.testing.assert_frame_equal(again[columns], done[columns].reset_index(drop=True))
    assert len(parts(tmp_path)) == 8


def test_a_second_writer_is_refused_while_the_first_runs(running_ray, tmp_path):
    (tmp_path / "slow.toml").write_text(SLOW)
    (tmp_path / "slow_on_purpose.py").write_text(MODEL)
    (tmp_path / "hold").touch()
    first = start(tmp_path, running_ray)
    deadline = time.monotonic() + HANGS_S
    while not (tmp_path / "studies/slow/writer.lock").exists():
        assert first.poll() is None, first.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second = start(tmp_path, running_ray)
    output, _ = second.communicate(timeout=HANGS_S)
    assert second.returncode == 2
    assert f"being written by process {first.pid}" in output
    assert "Traceback" not in output
    (tmp_path / "hold").unlink()
    output, _ = first.communicate(timeout=HANGS_S)
    assert first.returncode == 0, output


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
    assert outcome["parts"] == (phase == "write")
