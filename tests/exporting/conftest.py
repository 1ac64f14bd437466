"""A study directory with runs of every status, which grows as tests ask for it."""

import dataclasses
import math

import pytest

from sensitivity.store.directory import place
from sensitivity.store.manifest import write_manifest
from sensitivity.store.writer import append, write_plan
from sensitivity.study.load import parse_study
from sensitivity.study.results import Measurement, PackResult, RunResult, Status
from sensitivity.study.trials import expand

SPEC = {
    "name": "sent",
    "batch_sizes": [32, 64],
    "seeds": 3,
    "budget": {"steps": 20},
    "optimizers": {
        "sgd": {"kind": "sgd", "lr": [0.1, 0.3], "momentum": 0.5},
        "adamw": {"kind": "adamw", "lr": [0.001, 0.01]},
    },
    "targets": {"test_accuracy": [0.5]},
}
STATUSES = (Status.COMPLETED, Status.COMPLETED, Status.DIVERGED, Status.STOPPED, Status.FAILED, Status.INTERRUPTED)
MESSAGES = {Status.DIVERGED: "loss not finite at step 20", Status.FAILED: "ValueError: boom"}
STEPS = (0, 10, 20)


def result(trial, status):
    """The result of a trial, whose numbers tell it from all others."""
    own = dict(trial.hyperparameters)["lr"] * trial.batch_size + trial.seed / 8
    curve = [
        Measurement(
            step=step,
            epoch=step / 16,
            lr=dict(trial.hyperparameters)["lr"] / (1 + step),
            train_seconds=step / 2,
            flops=1e6 * step,
            train_loss=2.0 + own / (1 + step) if step != 10 else math.nan,  # not measured there
            test_loss=3.0 + own / (1 + step),
            test_accuracy=step / 40 + own / 1000,
        )
        for step in STEPS
    ]
    if status is Status.DIVERGED:
        curve[-1] = dataclasses.replace(curve[-1], train_loss=math.inf, test_loss=math.nan)
    if status is Status.FAILED:
        curve = []
    return RunResult(
        trial=trial,
        status=status,
        measurements=tuple(curve),
        steps=curve[-1].step if curve else 0,
        epochs=curve[-1].epoch if curve else 0.0,
        train_seconds=10.0,
        eval_seconds=0.5,
        flops=2e7,
        message=MESSAGES.get(status, ""),
    )


class GrowingStudy:
    """A study directory to which packs of six runs are added."""

    def __init__(self, directory):
        self.directory = place(str(directory))
        self.spec = parse_study(SPEC, source="test")
        self.trials = expand(self.spec)
        self.results = {}

    def begin(self):
        self._manifest = write_manifest(self.directory, self.spec, "")
        write_plan(self.directory, self.trials, self.spec.hyperparameters)

    def add(self, statuses=STATUSES):
        """Add the next runs of the plan, one of each status."""
        trials = self.trials[len(self.results) :][: len(statuses)]
        runs = tuple(map(result, trials, statuses))
        self.results |= {run.trial.id: run for run in runs}
        pack = PackResult(
            runs=runs, pack_id=f"p{len(self.results)}", host="h", device="cpu", started_at=1.75e9, wall_seconds=1.0
        )
        append(
            self.directory,
            pack,
            spec_hash=self._manifest.spec_hash,
            code_version="test",
            hyperparameters=self.spec.hyperparameters,
        )

    @property
    def final(self):
        return {id_: run for id_, run in self.results.items() if run.status.final}


@pytest.fixture
def study(tmp_path):
    found = GrowingStudy(tmp_path / "studies" / "sent")
    found.begin()
    found.add()
    return found
