"""A run that was stopped early is censored where it stopped: it stays in every denominator, and reaches what it had."""

import math

import pandas as pd
import pytest

from sensitivity.analysis.outcomes import counted_values
from sensitivity.analysis.success import compute_success
from sensitivity.analysis.targets import compute_targets
from sensitivity.analysis.times import compute_times
from sensitivity.study.metrics import METRICS

# Accuracy at steps 0, 10, 20, 30, 40: completed and reached; stopped after reaching; stopped before; diverged.
HISTORY = {
    "completed": ("completed", [0.1, 0.3, 0.5, 0.7, 0.8]),
    "stopped late": ("stopped", [0.1, 0.6, 0.7]),
    "stopped early": ("stopped", [0.1, 0.2]),
    "diverged": ("diverged", [0.1, 0.2]),
}


@pytest.fixture
def tables():
    runs, curves = [], []
    for k, (name, (status, accuracy)) in enumerate(HISTORY.items()):
        steps = 10 * (len(accuracy) - 1)
        own = {"trial_id": name, "cell_id": name, "optimizer": "sgd", "kind": "sgd", "batch_size": 32, "seed": 0}
        end = {"steps": steps, "epochs": steps / 10, "train_seconds": steps / 100, "eval_seconds": 0.0, "flops": steps}
        losses = {"initial_train_loss": 2.0, "train_loss": 1.0, "test_loss": 1.0, "train_accuracy": accuracy[-1]}
        runs.append({**own, **end, **losses, "status": status, "param.lr": 10.0**-k, "test_accuracy": accuracy[-1]})
        for i, value in enumerate(accuracy):
            at = {"step": 10 * i, "epoch": float(i), "train_seconds": i / 10, "flops": 10.0 * i, "lr": 0.1}
            every = dict.fromkeys(("test_accuracy", "train_accuracy"), value)
            curves.append({"trial_id": name, **at, **every, "train_loss": 2.0, "test_loss": 2.0})
    return pd.DataFrame(runs), pd.DataFrame(curves)


def test_times_are_censored_where_a_run_stopped(tables):
    times = compute_times(*tables, "test_accuracy", 0.6).set_index("trial_id")
    assert times["outcome"].to_dict() == {
        "completed": "reached",
        "stopped late": "reached",
        "stopped early": "censored",
        "diverged": "diverged",
    }
    assert times["steps"].to_dict() == {"completed": 30, "stopped late": 10, "stopped early": 10, "diverged": math.inf}
    assert times["cap.steps"].unique().tolist() == [40]


def test_a_stopped_run_counts_with_what_it_had(tables):
    values = counted_values(*tables, METRICS["test_accuracy"])
    assert values.tolist() == [0.8, 0.7, 0.2, 0.1]


def test_success_rates_keep_stopped_runs_and_say_that_they_are_lower_bounds(tables):
    (surface,) = compute_success(*tables, "test_accuracy", [0.6])
    assert surface.at(32, 0.6).value == pytest.approx(2 / 4)
    assert any(caution.code == "stopped" and "lower bounds" in caution.text for caution in surface.warnings)


def test_the_expected_running_time_counts_what_stopped_runs_spent(tables):
    (outcome,) = compute_targets(*tables, {"test_accuracy": (0.6,)})
    assert (outcome.planned, outcome.reached, outcome.censored, outcome.diverged) == (4, 2, 1, 1)
    # 30 and 10 steps to the target, 10 until it was stopped, and the whole budget for the diverged one.
    assert outcome.expected_steps == pytest.approx((30 + 10 + 10 + 40) / 2)
