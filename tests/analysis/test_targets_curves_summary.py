import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from sensitivity.analysis.cautions import compute_cautions
from sensitivity.analysis.curves import compute_curves
from sensitivity.analysis.maps import compute_maps
from sensitivity.analysis.summary import compute_summary
from sensitivity.analysis.targets import compute_targets
from sensitivity.figures.exhibits.curves import draw_curves
from sensitivity.store.reader import read_study
from sensitivity.study.metrics import METRICS
from sensitivity.study.results import Status

LOSS = METRICS["train_loss"]
ONE_CELL = {"sgd": {"kind": "sgd", "lr": 0.1}}


@pytest.fixture
def study(synthetic, tmp_path):
    def make(outcome, **changes):
        return read_study(synthetic.write_study(tmp_path, synthetic.make_spec(**changes), outcome))

    return make


def test_targets_keep_censoring_divergence_failure_and_waiting_apart(synthetic, study):
    def outcome(trial):
        return {
            0: synthetic.run(trial, [0.9, 0.5, 0.6]),  # reaches 0.5 at step 20
            1: synthetic.run(trial, [0.4, 0.3, 0.2]),  # at step 10
            2: synthetic.run(trial, [0.9, 0.8, 0.7]),  # censored at 30
            3: synthetic.run(trial, [0.4, 9.0], Status.DIVERGED),  # met it, then diverged
            4: synthetic.run(trial, [9.0], Status.DIVERGED),
            5: synthetic.run(trial, [], Status.FAILED),
            6: synthetic.run(trial, [], Status.INTERRUPTED),
        }.get(trial.seed)

    made = study(outcome, optimizers=ONE_CELL, batch_sizes=[32], seeds=8)
    (found,) = compute_targets(made.runs, made.curves, {"train_loss": [0.5]})
    counts = (found.planned, found.reached, found.censored, found.diverged, found.failed, found.waiting)
    assert counts == (8, 2, 1, 2, 1, 2)
    assert found.diverged_after_meeting == 1
    assert (found.median_steps, found.median_epochs, found.median_seconds) == (15, 1.5, 0.75)
    assert found.spent_steps == 20 + 10 + 30 + 30 + 30  # the unsuccessful at the full budget
    assert found.expected_steps == 60
    assert found.interval is None


def test_without_success_expected_running_time_is_only_bounded(synthetic, study):
    made = study(lambda t: synthetic.run(t, [0.9, 0.8]), optimizers=ONE_CELL, batch_sizes=[32])
    (found,) = compute_targets(made.runs, made.curves, {"test_accuracy": [0.9]})
    assert found.reached == 0
    assert math.isnan(found.expected_steps)
    assert found.spent_steps == 60


def test_expected_running_time_has_the_golden_value():
    # docs/statistics.md, section 1: T ~ Exp(1/50), cap 60: ERT -> 50; the mean of the survivors (24.1) is wrong.
    n, cap = 40_000, 60
    times = np.random.default_rng(1).exponential(50, n)
    reached = times <= cap
    ids = [f"r{k}" for k in range(n)]
    runs = pd.DataFrame(
        {
            "trial_id": ids,
            "cell_id": ids,
            "optimizer": "a",
            "batch_size": 8,
            "seed": 0,
            "steps": cap,
            "status": "completed",
        }
    )
    curves = pd.DataFrame(
        {"trial_id": ids, "step": np.where(reached, times, cap), "epoch": 1.0, "train_seconds": 1.0, "flops": 1.0}
    ).assign(train_loss=np.where(reached, 0.0, 1.0))
    (found,) = compute_targets(runs, curves, {"train_loss": [0.5]})
    assert found.expected_steps == pytest.approx(50, rel=0.02)
    assert found.spent_steps / n == pytest.approx(34.94, rel=0.02)


@pytest.mark.parametrize(
    ("seeds", "design", "expected"), [(1, "random", True), (3, "random", False), (1, "grid", False)]
)
def test_wilson_is_for_independent_draws_alone(synthetic, study, seeds, design, expected):
    made = study(lambda t: synthetic.run(t, [0.4]), seeds=seeds, batch_sizes=[32])
    found = compute_targets(made.runs, made.curves, {"train_loss": [0.5]}, designs={"kfac": design})[0]
    assert (found.interval is not None) == expected
    if expected:
        assert found.interval == pytest.approx((0.7008, 1.0), abs=1e-3)  # 9 of 9: 9 / (9 + 1.96^2)


def test_curves_count_diverged_seeds_as_untrained_from_there_on(synthetic, study):
    def outcome(trial):
        if trial.seed == 2:
            return synthetic.run(trial, [1.5], Status.DIVERGED)
        return synthetic.run(trial, [2.0, 1.0, 0.4 + 0.2 * trial.seed])

    made = study(outcome, optimizers=ONE_CELL, batch_sizes=[32], seeds=4)
    runs = made.runs.copy()
    (cell,) = compute_curves(runs, made.curves, LOSS, [runs["cell_id"].iloc[0]])
    assert (cell.planned, cell.n) == (4, 4)
    assert cell.times == (0.0, 1.0, 2.0, 3.0)
    assert cell.median == (2.5, 2.0, 1.0, pytest.approx(0.8))  # last: 0.4, 0.6, 2.5, 1.0
    assert cell.high == (2.5, 2.0, 2.5, 2.5)
    assert cell.low == (2.5, 1.5, 1.0, 0.4)
    assert [seed.diverged for seed in cell.seeds] == [False, False, True, False]
    assert cell.seeds[2].measured == (2.5, 1.5)


def test_curves_without_epochs_are_by_step(synthetic, study):
    """As those of runs that were trained elsewhere; a seed that diverged early has fewer evaluations."""

    def outcome(trial):
        values = [1.5] if trial.seed == 2 else [2.0, 1.0, 0.4 + 0.2 * trial.seed]
        return synthetic.run(trial, values, Status.DIVERGED if trial.seed == 2 else Status.COMPLETED)

    made = study(outcome, optimizers=ONE_CELL, batch_sizes=[32], seeds=4)
    cell_id = made.runs["cell_id"].iloc[0]
    (by_epoch,) = compute_curves(made.runs, made.curves, LOSS, [cell_id])
    (by_step,) = compute_curves(made.runs, made.curves.assign(epoch=math.nan), LOSS, [cell_id])
    assert (by_epoch.unit, by_step.unit) == ("epoch", "step")
    assert by_step.times == tuple(sorted(set(made.curves["step"])))
    assert (by_step.median, by_step.low, by_step.high) == (by_epoch.median, by_epoch.low, by_epoch.high)
    figure = draw_curves([by_step])
    assert figure.layout.xaxis.title.text == "steps"
    assert figure.layout.title.text == "Training loss of the best cells by step"
    assert next(list(trace.x) for trace in figure.data if trace.name) == list(by_step.times)


def test_curves_of_a_cell_without_results_are_empty(synthetic, study):
    made = study(lambda t: None, optimizers=ONE_CELL, batch_sizes=[32])
    (cell,) = compute_curves(made.runs, made.curves, LOSS, [made.runs["cell_id"].iloc[0]])
    assert (cell.n, cell.times, cell.median, cell.planned) == (0, (), (), 3)
    with pytest.raises(KeyError):
        compute_curves(made.runs, made.curves, LOSS, ["unknown"])


def test_summary_adds_up(synthetic, study):
    def outcome(trial):
        if trial.batch_size == 128:
            return None
        if trial.arm == "kfac":
            return synthetic.run(trial, [9.0], Status.DIVERGED)
        return synthetic.run(trial, [1.0, 0.5], Status.COMPLETED)

    made = study(outcome)
    summary = compute_summary(made.runs)
    total = summary.total
    assert (total.planned, total.completed, total.diverged, total.pending) == (108, 27, 27, 54)
    assert total.train_seconds == pytest.approx(27 * 1.0 + 27 * 0.5)
    assert total.steps == 27 * 20 + 27 * 15
    assert total.flops == pytest.approx(27 * 3e9)
    assert not summary.complete
    assert [(g.optimizer, g.batch_size, g.cells, g.seeds) for g in summary.groups] == [
        ("kfac", 32, 9, 3), ("kfac", 128, 9, 3), ("sgd", 32, 9, 3), ("sgd", 128, 9, 3),
    ]  # fmt: skip
    for field in dataclasses.fields(total):
        parts = sum(getattr(g.tally, field.name) for g in summary.groups)
        assert parts == pytest.approx(getattr(total, field.name))


def cautions_of(made):
    summary = compute_summary(made.runs)
    maps = compute_maps(made.runs, made.curves, LOSS)
    return {caution.code: caution.text for caution in compute_cautions(made.runs, summary, maps)}


def test_cautions_say_what_applies(synthetic, study):
    def outcome(trial):
        if trial.arm == "kfac":
            return synthetic.run(trial, [9.0], Status.DIVERGED)
        if trial.seed == 1:
            return None
        if trial.seed == 2:
            return synthetic.run(trial, [], Status.FAILED)
        return synthetic.run(trial, [dict(trial.hyperparameters)["lr"]])

    found = cautions_of(study(outcome))
    assert set(found) == {"incomplete", "failed", "diverged", "edge", "few-seeds", "winner"}
    assert "18 of 108 planned runs" in found["incomplete"]
    assert "18 of 108" in found["failed"]
    assert "no run completed (27 of 27 diverged)" in found["diverged"]
    assert "smallest learning rate (0.01)" in found["edge"]
    assert "0.25" in found["few-seeds"]


def test_one_seed_is_said(synthetic, study):
    found = cautions_of(study(lambda t: synthetic.run(t, [0.5]), seeds=1, optimizers=ONE_CELL))
    assert set(found) == {"single-seed"}
