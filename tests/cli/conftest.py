import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from sensitivity.cli.main import main
from sensitivity.store.directory import place
from sensitivity.store.manifest import write_manifest
from sensitivity.store.writer import append, write_plan
from sensitivity.study.load import load_study
from sensitivity.study.results import Measurement, PackResult, RunResult, Status
from sensitivity.study.trials import expand

STUDY = """
name = "small"
batch_sizes = [64]
seeds = 2
[budget]
steps = 2
[optimizers.sgd]
kind = "sgd"
lr = [0.01, 0.1]
"""


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch, capsys) -> Callable[..., Answer]:
    """Run a command in this process and return its exit code and its output."""

    def call(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["sensitivity", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return Answer(int(stopped.value.code or 0), printed.out, printed.err)

    return call


@pytest.fixture
def study_text():
    return STUDY


@pytest.fixture
def study_file(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture
def half_done(study_file, tmp_path):
    """A study directory with one completed and one diverged run of four."""
    spec = load_study(study_file)
    trials = expand(spec)
    directory = place(str(tmp_path / "studies" / "small"))
    manifest = write_manifest(directory, spec, "")
    write_plan(directory, trials)
    measured = tuple(
        Measurement(
            step=k, epoch=k / 20, lr=0.01, train_seconds=k, flops=k, train_loss=2.0 - k / 4, test_accuracy=k / 4
        )
        for k in range(3)
    )
    shared = {
        "measurements": measured,
        "steps": 2,
        "epochs": 0.1,
        "train_seconds": 1.0,
        "eval_seconds": 0.1,
        "flops": 2.0,
    }
    runs = (
        RunResult(trial=trials[0], status=Status.COMPLETED, **shared),
        RunResult(trial=trials[1], status=Status.DIVERGED, message="loss not finite at step 2", **shared),
    )
    result = PackResult(runs=runs, pack_id="p", host="h", device="cpu", started_at=0.0, wall_seconds=1.0)
    append(directory, result, spec_hash=manifest.spec_hash, code_version="test")
    return tmp_path / "studies" / "small"
