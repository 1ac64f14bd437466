"""T as an interval between evaluations, run by run."""

import math

import numpy as np
import pandas as pd
import pytest

from sensitivity.analysis.targets import compute_targets
from sensitivity.analysis.times import compute_times, deciding_rows, first_meeting

METRIC = "train_loss"


def tables(plain, losses, status="completed", trial="t0"):
    """A run with `losses` by step."""
    runs, _ = plain.tables([plain.row(status=status)])
    curves = pd.DataFrame({"trial_id": trial, "step": list(losses), "train_loss": list(losses.values())})
    return runs.assign(trial_id=trial), curves.assign(
        epoch=curves["step"] / 10, train_seconds=curves["step"] / 2, flops=curves["step"] * 8.0
    )


@pytest.mark.parametrize(
    ("losses", "interval", "at_first", "untrained"),
    [
        ({0: 2.5, 10: 1.0, 20: 0.4}, (10, 20), False, False),
        ({0: 2.5, 20: 0.4}, (0, 20), True, False),
        ({20: 0.4}, (0, 20), True, False),
        ({0: 0.4, 20: 0.3}, (0, 0), False, True),
        ({0: 2.5, 10: math.nan, 20: 0.4}, (0, 20), True, False),
        ({0: 2.5, 5: 1.0, 10: math.nan, 20: 0.4}, (5, 20), False, False),
        ({0: math.nan, 5: 1.0, 20: 0.4}, (5, 20), False, False),
        ({0: 2.5, 10: math.inf, 20: 0.4}, (10, 20), False, False),
    ],
)
def test_a_time_lies_after_the_last_evaluation_that_measured_the_metric(plain, losses, interval, at_first, untrained):
    (found,) = compute_times(*tables(plain, losses), METRIC, 0.5).to_dict("records")
    assert (found["after.steps"], found["steps"]) == interval
    assert (found["after.seconds"], found["seconds"]) == (interval[0] / 2, interval[1] / 2)
    assert (found["after.epochs"], found["epochs"]) == (interval[0] / 10, interval[1] / 10)
    assert (found["after.flops"], found["flops"]) == (interval[0] * 8, interval[1] * 8)
    assert (found["at_first"], found["untrained"]) == (at_first, untrained)


def test_a_run_that_falls_back_reached_it_and_is_counted(plain):
    runs, curves = tables(plain, {0: 2.5, 10: 0.4, 20: 0.9, 30: 0.3, 40: 0.7})
    (found,) = compute_times(runs, curves, METRIC, 0.5).to_dict("records")
    assert (found["outcome"], found["steps"], found["fell_back"]) == ("reached", 10, True)
    (outcome,) = compute_targets(runs, curves, {METRIC: [0.5]})
    assert (outcome.reached, outcome.fell_back, outcome.at_first) == (1, 1, 1)
    assert (outcome.median_steps_after, outcome.median_steps) == (0, 10)
    (found,) = compute_times(runs, curves[curves["step"] < 40], METRIC, 0.5).to_dict("records")
    assert not found["fell_back"]


def test_without_a_crossing_there_is_no_interval(plain):
    for status, expected in (("completed", 100.0), ("diverged", math.inf)):
        (found,) = compute_times(*tables(plain, {0: 2.5, 100: 0.9}, status), METRIC, 0.5).to_dict("records")
        assert found["steps"] == found["after.steps"] == expected
        assert not any(found[name] for name in ("at_first", "untrained", "fell_back"))


def test_where_the_line_crosses_ranks_equal_intervals(plain):
    shares = [
        compute_times(*tables(plain, {0: 2.5, 10: 1.5, 20: end}), METRIC, 0.5)["share"].iloc[0] for end in (0.5, 0.0)
    ]
    assert shares == pytest.approx([1.0, 1.0 / 1.5])


def test_few_rows_decide_as_all_do():
    """Whatever the order of the table, and however often an evaluation is there."""
    rng = np.random.default_rng(0)
    runs, steps = 60, np.array([0, 1, 2, 4, 8, 16, 32])
    curves = pd.DataFrame(
        {
            "trial_id": np.repeat([f"t{k}" for k in range(runs)], len(steps)),
            "step": np.tile(steps, runs),
            METRIC: np.where(rng.random(runs * 7) < 0.1, np.nan, rng.random(runs * 7)),
        }
    )
    curves = curves.assign(epoch=curves["step"], train_seconds=curves["step"], flops=curves["step"])
    expected = first_meeting(curves, METRIC, 0.2)
    few = deciding_rows(curves, METRIC, 0.2)
    assert len(few) < len(curves) / 2
    pd.testing.assert_frame_equal(first_meeting(few, METRIC, 0.2), expected)
    shuffled = pd.concat([curves, curves]).sample(frac=1, random_state=1)
    again = first_meeting(shuffled, METRIC, 0.2).reset_index(drop=True)
    by_run = expected.sort_values("trial_id", kind="stable").reset_index(drop=True)
    pd.testing.assert_frame_equal(again, by_run)
