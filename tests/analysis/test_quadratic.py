"""The whole analysis on the noisy quadratic, against what its closed form says (STATISTICS.md, section 10)."""

import math

import numpy as np
import pytest

from sensitivity.analysis.critical import fit_log_size
from sensitivity.analysis.regions import compute_regions
from sensitivity.analysis.scaling import compute_scaling
from sensitivity.analysis.success import compute_success
from sensitivity.analysis.times import compute_times
from sensitivity.analysis.verdict_scaling import compute_scaling_verdict
from sensitivity.analysis.verdict_sensitivity import compute_sensitivity_verdict

METRIC = "train_loss"
BATCHES = (2, 4, 8, 16, 32, 64, 128)
TARGET, SEEDS, NOISE = 0.1, 11, 0.05
CELLS = {
    "kfac": [{"lr": lr, "damping": d} for lr in np.geomspace(1e-3, 3, 12) for d in np.geomspace(1e-4, 10, 11)],
    "sgd": [{"lr": lr} for lr in np.geomspace(1e-4, 30, 23)],
}


@pytest.fixture(scope="module")
def study(quadratic):
    arms = {name: (name, cells) for name, cells in CELLS.items()}
    return quadratic.make_study(batches=BATCHES, seeds=SEEDS, noise=NOISE, arms=arms, budget=1500)


@pytest.fixture(scope="module")
def curves(study):
    return {curve.optimizer: curve for curve in compute_scaling(compute_times(*study, METRIC, TARGET))}


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
    """Mean of log T over the lognormal factor of a run's loss, on the steps at which runs are measured."""
    steps = np.array([0, *quadratic.evaluations(1500)])
    loss = quadratic.closed_form(steps, cell["lr"], batch, damping=cell.get("damping"))
    factors = np.exp(NOISE * np.random.default_rng(0).standard_normal(400))
    met = loss[:, None] * factors <= TARGET
    met[0] = False
    return np.log(steps[met.argmax(axis=0)]).mean() if met.any(axis=0).all() and np.isfinite(loss).all() else math.inf


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
    assert sum(inside) >= len(inside) - 1, "95% intervals, seven of them"
    exact = float(np.exp(fit_log_size(true[solid][None], np.array(BATCHES, dtype=float)[solid])[0]))
    low, high = curve.critical.size.interval
    assert low <= exact <= high
    assert high / low < 3


def test_kfac_scales_further_than_sgd_as_theory_says(quadratic, study, curves):
    best = {
        name: [quadratic.exact_best(TARGET, batch, cells, 1500) for batch in (8, 128)] for name, cells in CELLS.items()
    }
    speedup = {name: first / last for name, (first, last) in best.items()}
    assert speedup["kfac"] > 2 * speedup["sgd"], "what the closed form says"
    found = compute_scaling_verdict(study[0], list(curves.values()), "kfac", "sgd")
    assert found.primary.answer == "better"
    assert found.answer == ("undetermined" if any(r.code == "edge" for r in found.reasons) else "better")
    assert found.effect.interval[0] > 1


def test_success_rates_lie_within_their_intervals(quadratic, study):
    targets = (0.5, 0.2, 0.1)
    surfaces = {s.optimizer: s for s in compute_success(*study, METRIC, targets, designs=dict.fromkeys(CELLS, "grid"))}
    factors = np.exp(NOISE * np.random.default_rng(1).standard_normal(300))
    steps = np.array([0, *quadratic.evaluations(1500)])
    inside = []
    for name, batch in (("kfac", 4), ("kfac", 64), ("sgd", 4), ("sgd", 64)):
        loss = [quadratic.closed_form(steps, c["lr"], batch, damping=c.get("damping")) for c in CELLS[name]]
        for target in targets:
            met = [
                np.all(own <= quadratic.BOUND * own[0] / factors.max()) * (own[1:].min() * factors <= target)
                for own in loss
            ]
            found = surfaces[name].at(batch, target)
            low, high = found.interval or (found.value - 0.5 / SEEDS / len(loss), found.value + 0.5 / SEEDS / len(loss))
            inside.append(low - 2e-3 <= np.mean(met) <= high + 2e-3)
    assert len(inside) == 12
    assert sum(inside) >= 11


@pytest.mark.parametrize("name", ["kfac", "sgd"])
def test_robust_regions_agree_with_a_fine_count_on_the_closed_form(quadratic, study, name):
    regions = {
        (r.optimizer, r.batch_size): r
        for r in compute_regions(*study, METRIC, target=TARGET, designs=dict.fromkeys(CELLS, "grid"))
    }
    lrs = np.geomspace(1e-3, 3, 200) if name == "kfac" else np.geomspace(1e-4, 30, 2000)
    dampings = np.geomspace(1e-4, 10, 100) if name == "kfac" else [None]
    box = np.log10(lrs[-1] / lrs[0]) * (5 if name == "kfac" else 1)
    for batch in (8, 64):
        with np.errstate(all="ignore"):
            inside = [
                np.nan_to_num(quadratic.closed_form([1500], lr, batch, damping=d)[0], nan=np.inf) <= TARGET
                for lr in lrs
                for d in dampings
            ]
        true = (box * np.mean(inside)) ** (1 / len(regions[name, batch].names))
        found = regions[name, batch].decades
        low, high = found.interval
        assert low - 0.1 <= true <= high + 0.1, "seed noise, and the interpolation between the grid's points"


def test_kfac_is_less_sensitive_as_the_closed_form_says(study):
    regions = compute_regions(*study, METRIC, target=TARGET, designs=dict.fromkeys(CELLS, "grid"))
    found = compute_sensitivity_verdict(study[0], regions, "kfac", "sgd")
    own = {name: [r.decades.value for r in regions if r.optimizer == name] for name in CELLS}
    assert found.primary.effect.value == pytest.approx(np.mean(own["kfac"]) - np.mean(own["sgd"]), abs=1e-9)
    assert (found.primary.answer == "better") == (np.mean(own["kfac"]) > np.mean(own["sgd"]) + 0.25)
