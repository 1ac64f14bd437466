"""Reports of synthetic studies of every kind, each rendered once."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sensitivity.cli.main import main
from sensitivity.report import write_report
from sensitivity.study.results import Status

synthetic_ = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "analysis" / "synthetic.py")))
ONE = {"sgd": {"kind": "sgd", "lr": 0.1}}
BOX = {"lr": {"log": [0.01, 1.0]}, "momentum": {"linear": [0.0, 0.9]}, "design": "random", "samples": 8}


def completed(trial):
    values = dict(trial.hyperparameters)
    return synthetic_.run(trial, [2.0, values["lr"] + 0.05 * trial.seed + 0.1])


def diverged(trial):
    return synthetic_.run(trial, [9.0], Status.DIVERGED)


def failed(trial):
    return synthetic_.run(trial, [], Status.FAILED)


def half(trial):
    return completed(trial) if trial.seed == 0 and trial.arm == "kfac" else None


def mixed(trial):
    lr = dict(trial.hyperparameters)["lr"]
    if lr == 1.0:
        return diverged(trial) if trial.seed else completed(trial)
    return failed(trial) if trial.arm == "sgd" and lr == 0.01 else completed(trial)


KFAC_ALONE = {"kfac": {"kind": "kfac", "lr": [0.01, 0.1, 1.0], "damping": [0.001, 0.01, 0.1]}}
CASES = {
    # name: (outcome, changes of the spec)
    "complete": (completed, {}),
    "mixed": (mixed, {}),
    "pending": (lambda trial: None, {}),
    "half-finished": (half, {"batch_sizes": [32]}),
    "all-diverged": (diverged, {"batch_sizes": [32]}),
    "all-failed": (failed, {}),
    "single-cell": (completed, {"optimizers": ONE, "batch_sizes": [32], "seeds": 1}),
    "single-seed": (completed, {"seeds": 1, "batch_sizes": [32]}),
    "one-optimizer": (completed, {"optimizers": KFAC_ALONE}),
    "one-batch-size": (completed, {"batch_sizes": [32]}),
    "no-target": (completed, {"targets": {}, "batch_sizes": [32]}),
    "random": (completed, {"optimizers": {"sgd": {"kind": "sgd", **BOX}}, "seeds": 1}),
    "squared-error": (completed, {"problem": {"loss": "squared_error"}, "targets": {}, "optimizers": ONE}),
    "landscape": (
        synthetic_.landscape,
        {
            "seeds": 4,
            "batch_sizes": [32, 128],
            "targets": {"train_loss": [0.2, 0.1]},
            "budget": {"epochs": 20},
            "optimizers": {
                "kfac": {
                    "kind": "kfac",
                    "lr": {"log": [1e-2, 3.0], "points": 4},
                    "damping": {"log": [1e-4, 1.0], "points": 4},
                },
                "sgd": {"kind": "sgd", "lr": {"log": [1e-2, 3.0], "points": 4}, "momentum": [0.0, 0.5, 0.9]},
            },
        },
    ),
}


@pytest.fixture(scope="session")
def synthetic():
    """The functions of tests/analysis/synthetic.py."""
    return synthetic_


@pytest.fixture(scope="session")
def study_of(tmp_path_factory):
    """The directory of a case's study."""
    made = {}

    def make(case):
        if case not in made:
            outcome, changes = CASES[case]
            spec = synthetic_.make_spec(**changes)
            made[case] = synthetic_.write_study(tmp_path_factory.mktemp(case), spec, outcome)
        return made[case]

    return make


@pytest.fixture(scope="session")
def report_of(study_of):
    """The report of one or several cases."""
    made = {}

    def make(*cases):
        if cases not in made:
            made[cases] = write_report([study_of(case) for case in cases])
        return made[cases]

    return make


@pytest.fixture(scope="session")
def page_of(report_of, tmp_path_factory):
    """The file of a report."""
    folder = tmp_path_factory.mktemp("pages")

    def make(*cases):
        path = folder / f"{'+'.join(cases)}.html"
        path.write_text(report_of(*cases).html, encoding="utf-8")
        return path

    return make


@pytest.fixture
def command(monkeypatch, capsys):
    """Run a command in this process and return its exit code and what it printed."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sensitivity", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return stopped.value.code or 0, printed.out, printed.err

    return run
