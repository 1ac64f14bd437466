"""The whole analysis on the noisy quadratic, against what its closed form says (docs/statistics.md, section 10)."""

import math

import numpy as np
import pytest

from sensitivity.analysis.critical import fit_log_size
from sensitivity.analysis.draws import compute_draws
from sensitivity.analysis.price import compute_prices
from sensitivity.analysis.regions import compute_regions
from sensitivity.analysis.scaling import compute_scaling
from sensitivity.analysis.success import compute_success
from sensitivity.analysis.times import compute_times
from sensitivity.analysis.verdict_scaling import compute_scaling_verdict
from sensitivity.analysis.verdict_sensitivity import compute_sensitivity_verdict

METRIC = "train_loss"
BATCHES = (4, 8, 16, 32, 64, 128)
TARGET, SEEDS, WARP, BUDGET = 0.1, 11, 0.15, 2000
CELLS = {
    "kfac": [{"lr": lr, "damping": d} for lr in np.geomspace(1e-3, 0.2, 8) for d in np.geomspace(1e-4, 10, 6)],
    "sgd": [{"lr": lr} for lr in np.geomspace(1e-4, 30, 23)],
}
GRIDS = dict.fromkeys(CELLS, "grid")


@pytest.fixture(scope="module")
def study(quadratic):
    arms = {name: (name, cells) for name, cells in CELLS.items()}
    return quadratic.make_study(batches=BATCHES, seeds=SEEDS, noise=0, warp=WARP, arms=arms, budget=BUDGET)


@pytest.fixture(scope="module")
def curves(study):
    return {curve.optimizer: curve for curve in compute_scaling(compute_times(*study, METRIC, TARGET))}


@pytest.fixture(scope="module")
def fine(quadratic):
    """Few evaluations, many cells: for what is of the end of runs."""
    arms = {
        "kfac": (
            "kfac",
            [{"lr": lr, "damping": d} for lr in np.geomspace(1e-3, 1, 19) for d in np.geomspace(1e-4, 10, 16)],
        ),
        "sgd": ("sgd", [{"lr": lr} for lr in np.geomspace(1e-4, 30, 34)]),
    }
    return quadratic.make_study(batches=(8, 64), seeds=5, noise=0.1, arms=arms, budget=BUDGET, count=20)


def test_the_closed_form_has_the_golden_value(quadratic):
    spectrum = 1.0 / np.arange(1, 1001)
    assert quadratic.closed_form([60], 0.5, 16, h=spectrum)[0] == pytest.approx(1.19033, abs=5e-6)


def test_the_closed_form_is_that_of_the_recursion(quadratic):
    h, lr, batch, damping = np.array([1.0, 0.3]), 0.2, 8, 0.1
    squares, p = np.ones(2), 1 / (h + damping)
    for _ in range(7):
        squares = (1 - lr * p * h) ** 2 * squares + lr**2 * p**2 * h / batch
    assert quadratic.closed_form([7], lr, batch, damping=damping, h=h)[0] == pytest.approx(0.5 * h @ squares)


def expected_time(quadratic, batch, cell):
    """Mean of log T over the pace of runs, T being in the middle between two of the steps at which runs are
    measured."""
    steps = np.array(quadratic.evaluations(BUDGET))
    exact = quadratic.exact_time(TARGET, batch, cell, BUDGET)
    paces = np.exp(WARP * np.random.default_rng(0).standard_normal(4000))
    at = np.searchsorted(steps, exact / paces)
    return (np.log(steps[at]) + np.log(steps[at - 1])).mean() / 2


@pytest.mark.parametrize("name", ["kfac", "sgd"])
def test_times_and_critical_batch_size_lie_within_their_intervals(quadratic, curves, name):
    curve = curves[name]
    true = np.array([expected_time(quadratic, p.batch_size, dict(p.parameters)) for p in curve.points])
    solid = np.array([p.state == "reached" for p in curve.points])
    inside = [
        p.time.interval is None or math.log(p.time.interval[0]) - 1e-9 <= t <= math.log(p.time.interval[1]) + 1e-9
        for p, t in zip(curve.points, true, strict=True)
        if p.state == "reached"
    ]
    assert solid.sum() >= 5
    assert sum(inside) >= len(inside) - 1, "95% intervals, six of them"
    exact = float(np.exp(fit_log_size(true[solid][None], np.array(BATCHES, dtype=float)[solid])[0]))
    low, high = curve.critical.size.interval
    assert low <= exact <= high
    assert high / low < 8


def test_kfac_scales_further_than_sgd_as_theory_says(quadratic, study, curves):
    batches = np.array(BATCHES, dtype=float)
    best = [[quadratic.exact_best(TARGET, b, CELLS[name], BUDGET) for b in BATCHES] for name in ("kfac", "sgd")]
    exact = np.exp(fit_log_size(np.log(best), batches))
    assert exact[0] > 2 * exact[1], "what the closed form says"
    found = compute_scaling_verdict(study[0], list(curves.values()), "kfac", "sgd")
    assert found.primary.answer == "better"
    low, high = found.effect.interval
    assert low < exact[0] / exact[1] < high
    assert found.answer == "undetermined", "its best learning rate is the largest, so the claim is refused"
    assert {reason.code for reason in found.reasons} >= {"edge", "test"}


def test_success_rates_lie_within_their_intervals(quadratic, fine):
    targets = (0.5, 0.2, 0.1)
    surfaces = {s.optimizer: s for s in compute_success(*fine, METRIC, targets, designs=GRIDS)}
    factors = np.exp(0.1 * np.random.default_rng(1).standard_normal(300))
    steps = np.array([0, *quadratic.evaluations(BUDGET, 20)])
    inside = 0
    for name, batch in (("kfac", 8), ("kfac", 64), ("sgd", 8), ("sgd", 64)):
        own = fine[0].query("optimizer == @name and batch_size == @batch and seed == 0")
        losses = []
        for run in own.to_dict("records"):
            damping = run["param.damping"] if name == "kfac" else None
            losses.append(quadratic.closed_form(steps, run["param.lr"], batch, damping=damping))
        for target in targets:
            reached = [
                (loss[1:].min() * factors <= target) & (loss[1:].max() * factors <= quadratic.BOUND * loss[0])
                for loss in losses
            ]
            found = surfaces[name].at(batch, target)
            # Where all seeds agree there is no interval, and the truth differs by less than a cell.
            low, high = found.interval or (found.value - 0.5 / len(losses), found.value + 0.5 / len(losses))
            inside += low <= np.mean(reached) <= high
    assert inside >= 11, "12 intervals of 95%"


@pytest.mark.parametrize("name", ["kfac", "sgd"])
def test_robust_regions_agree_with_a_fine_count_on_the_closed_form(quadratic, fine, name):
    regions = compute_regions(*fine, METRIC, target=TARGET, designs=GRIDS)
    lrs = np.geomspace(1e-3, 1, 120) if name == "kfac" else np.geomspace(1e-4, 30, 1200)
    dampings = np.geomspace(1e-4, 10, 80) if name == "kfac" else [None]
    box = np.log10(lrs[-1] / lrs[0]) * (5 if name == "kfac" else 1)
    for region in (region for region in regions if region.optimizer == name):
        ends = [quadratic.closed_form([BUDGET], lr, region.batch_size, damping=d)[0] for lr in lrs for d in dampings]
        true = (box * np.mean(np.nan_to_num(ends, nan=np.inf) <= TARGET)) ** (1 / len(region.names))
        low, high = region.decades.interval or (region.decades.value,) * 2
        # Seed noise, and half a spacing for the cliff where runs begin to diverge.
        assert low - 0.08 <= true <= high + 0.08


def test_the_price_of_tuning_on_a_grid_is_that_of_its_quadrature(fine):
    times = compute_times(*fine, METRIC, TARGET)
    draws = compute_draws(fine[0], times, designs=GRIDS)
    prices = {price.optimizer: price for price in compute_prices(draws) if price.batch_size is None}
    for name, price in prices.items():
        own = times[times["optimizer"] == name]
        assert price.success.value == pytest.approx((own["outcome"] == "reached").mean())
    found = compute_sensitivity_verdict(fine[0], draws, "kfac", "sgd")
    assert (found.answer, found.reasons[0].code) == ("undetermined", "grid")
    assert [remedy.code for remedy in found.settle] == ["draws"]
