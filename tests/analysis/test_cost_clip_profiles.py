import math

import numpy as np
import pytest

from sensitivity.analysis.clipping import compute_clipping
from sensitivity.analysis.cost import compute_cost, compute_cost_ratios
from sensitivity.analysis.profiles import compute_profiles
from sensitivity.analysis.scaling import compute_scaling
from sensitivity.analysis.time_split import compute_time_split
from sensitivity.analysis.times import compute_times

METRIC = "train_loss"


def test_costs_add_up_and_diverged_runs_cost_what_they_took(plain):
    rows = [plain.row(seed=s) for s in range(3)]
    rows += [plain.row(lr=9.0, status="diverged", steps=10), plain.row(lr=8.0, status="pending")]
    runs, _ = plain.tables(rows)
    (cost,) = compute_cost(runs)
    assert (cost.planned, cost.runs, cost.steps) == (5, 4, 310)
    assert cost.device_seconds == 155
    assert cost.flops == 310 * 80
    assert cost.seconds_a_run.value == pytest.approx(155 / 4)
    assert cost.seconds_a_step.value == pytest.approx(0.5)


def test_the_packs_are_what_repeats_a_steps_time(plain):
    runs, _ = plain.tables([plain.row(seed=s) for s in range(6)])
    runs["pack_id"] = ["p", "p", "p", "q", "q", "q"]
    runs["train_seconds"] = [40, 40, 40, 60, 60, 60]
    (cost,) = compute_cost(runs)
    assert (cost.seconds_a_step.n, cost.seconds_a_step.of) == (2, "packs")
    assert cost.seconds_a_step.value == pytest.approx(math.sqrt(0.4 * 0.6))


def test_ratios_are_warned_of_unequal_packs_and_devices(plain):
    runs, _ = plain.tables([plain.row(name, seed=s) for name in "ab" for s in range(2)])
    runs["train_seconds"] = np.where(runs["optimizer"] == "a", 150.0, 50.0)
    runs["pack_size"] = np.where(runs["optimizer"] == "a", 1, 64)
    runs["device"] = ["cpu", "other", "cpu", "cpu"]
    (ratio,) = compute_cost_ratios(compute_cost(runs), "a", "b")
    assert (ratio.seconds, ratio.flops, ratio.total_seconds) == pytest.approx((3, 1, 3))
    assert [warning.code for warning in ratio.warnings] == ["mixed", "pack-size"]


def test_without_results_costs_are_nothing_and_ratios_unknown(plain):
    runs, _ = plain.tables([plain.row(name, status="pending") for name in "ab"])
    costs = compute_cost(runs)
    assert costs[0].device_seconds == 0
    assert math.isnan(costs[0].seconds_a_step.value)
    assert math.isnan(compute_cost_ratios(costs, "a", "b")[0].seconds)


def test_the_time_of_a_step_is_split_into_phases_and_the_rest(plain):
    runs, _ = plain.tables([plain.row(seed=s) for s in range(2)] + [plain.row("b")])
    assert compute_time_split(runs) == ()
    runs["seconds.gradients"] = [20.0, 30.0, math.nan]
    runs["seconds.factors"] = [10.0, 10.0, math.nan]
    runs["seconds.inverses"] = [0.0, 0.0, math.nan]
    (split,) = compute_time_split(runs)
    assert split.phases == (("gradients", 0.25), ("factors", 0.1))
    assert split.rest == pytest.approx(0.15)
    assert split.seconds == pytest.approx(0.5)
    assert (split.runs, split.steps) == (2, 200)


def test_cells_whose_clip_binds_are_marked_and_refuse_claims(plain):
    runs, curves = plain.tables([plain.row("k", seed=s, lr=lr) for lr in (0.1, 0.2, 0.3) for s in range(2)])
    assert compute_clipping(runs, curves) == ()
    runs["clip_share"] = [0.1, 0.3, 0.6, 0.6, 0.9, 0.5]
    curves["effective_lr"] = 0.05
    (found,) = compute_clipping(runs, curves)
    assert [cell.share for cell in found.cells] == pytest.approx([0.2, 0.6, 0.7])
    assert [cell.binds for cell in found.cells] == [False, True, True]
    assert found.cells[0].effective_lr == pytest.approx(0.05)
    assert "active on most steps of 2 of 3 cells" in found.refused.text
    runs["clip_share"] = [0.1, 0.3, 0.6, 0.6, 0.1, 0.5]
    assert compute_clipping(runs, curves)[0].refused is None
    runs["clip_share"] = math.nan
    assert compute_clipping(runs, curves) == ()


def test_profiles_by_hand(plain):
    times = {"a": {8: 20, 16: 20, 32: None, 64: None}, "b": {8: 10, 16: 40, 32: 30, 64: None}}
    rows = [
        plain.row(name, b, time=t, before=t and 0.9 * t)
        for name, of_batch in times.items()
        for b, t in of_batch.items()
    ]
    tables = plain.tables(rows)
    one, other = compute_profiles({"0.5": compute_scaling(compute_times(*tables, METRIC, plain.TARGET))})
    assert (one.cases, one.unsolved_by_all, one.solved, other.solved) == (3, 1, 2, 3)
    assert one.factors == pytest.approx((1, 2))
    assert one.share == pytest.approx((1 / 3, 2 / 3)), "a case that isn't reached stays in the denominator"
    assert other.share == pytest.approx((2 / 3, 1))
    assert one.warnings[0].code == "few-cases"


def test_profiles_say_what_evaluations_leave_open(plain):
    """b is at 11 or 18, a somewhere up to 20: either may be the faster, or equally fast."""
    rows = [plain.row("a", 8, time=20, before=0), plain.row("b", 8, time=18, before=11)]
    curves = compute_scaling(compute_times(*plain.tables(rows), METRIC, plain.TARGET))
    one, other = compute_profiles({"0.5": curves})
    assert (one.low[0], one.high[0]) == (0, 1)
    assert (other.low[0], other.high[0]) == (0, 1)
    assert curves[0].points[0].state == "left-censored"
    assert curves[0].points[0].time.interval == pytest.approx((0, 20))


def test_profiles_of_nothing(plain):
    tables = plain.tables([plain.row(status="pending")])
    (profile,) = compute_profiles({"0.5": compute_scaling(compute_times(*tables, METRIC, plain.TARGET))})
    assert (profile.cases, profile.unsolved_by_all) == (0, 1)
