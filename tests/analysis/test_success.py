import math

import numpy as np
import pytest

from sensitivity.analysis.rates import OF_DRAWS, OF_SEEDS, compute_rates
from sensitivity.analysis.success import compute_success, compute_success_difference
from sensitivity.analysis.success_plane import compute_success_planes
from sensitivity.analysis.times import compute_times

METRIC = "train_loss"


def draws(plain, reached, seeds=1, optimizer="a", start=0):
    """One configuration an entry of `reached` [configurations, seeds], drawn at its own learning rate."""
    return [
        plain.row(optimizer, seed=s, time=20 if met else None, lr=0.01 + 1e-4 * (c + start))
        for c, of_seeds in enumerate(np.reshape(reached, (-1, seeds)))
        for s, met in enumerate(of_seeds)
    ]


def rate(plain, rows, design="random", target=None):
    (surface,) = compute_success(*plain.tables(rows), METRIC, [target or plain.TARGET], designs={"a": design})
    return surface.at(8, target or plain.TARGET)


@pytest.mark.parametrize(("met", "low", "high"), [([1, 1, 1], 0.438, 1), ([0] * 3, 0, 0.562), ([1] * 5, 0.566, 1)])
def test_independent_draws_have_the_golden_intervals(plain, met, low, high):
    found = rate(plain, draws(plain, met))
    assert found.interval == pytest.approx((low, high), abs=6e-4)
    assert (found.value, found.n, found.of, found.covers) == (met[0], len(met), "configurations", OF_DRAWS)


def test_seeds_of_a_configuration_are_no_further_draws(plain):
    """Five seeds that always agree say no more than one."""
    met = np.array([1, 1, 0, 1, 0, 0, 1, 0])
    once, five = rate(plain, draws(plain, met)), rate(plain, draws(plain, np.repeat(met, 5), 5))
    assert five.interval == pytest.approx(once.interval)
    independent = np.random.default_rng(0).random((8, 5)) < 0.5
    low, high = rate(plain, draws(plain, independent, 5)).interval
    assert high - low < 0.8 * (once.interval[1] - once.interval[0])


def test_clusters_have_the_variance_of_a_bootstrap_over_configurations(plain):
    rng = np.random.default_rng(1)
    chance = rng.beta(0.5, 0.5, 60)
    met = rng.random((60, 4)) < chance[:, None]
    found = rate(plain, draws(plain, met, 4))
    picks = rng.integers(0, 60, (20_000, 60))
    bootstrap = met.mean(axis=1)[picks].mean(axis=1)
    assert found.interval == pytest.approx(np.percentile(bootstrap, [2.5, 97.5]), abs=0.02)


@pytest.mark.parametrize("n", [10, 30, 100])
@pytest.mark.parametrize("true", [0.2, 0.5])
def test_the_interval_of_draws_covers_over_configurations_and_seeds(plain, n, true):
    rng = np.random.default_rng(n)
    runs, _ = plain.tables(draws(plain, np.zeros((n, 3)), 3))
    chance = rng.beta(0.6 * true, 0.6 * (1 - true), (3000, n))
    met = rng.random((3000, n, 3)) < chance[..., None]
    rates = compute_rates(runs, met.reshape(3000, -1).T, drawn=True)
    assert 0.92 <= np.mean((rates.low <= true) & (true <= rates.high)) <= 0.975


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_interval_of_a_grid_covers_seed_noise_as_claimed(plain, n):
    """A 16 x 16 grid with a soft cliff; a seed moves the cliff, and each run is a coin besides."""
    rng = np.random.default_rng(n)
    runs, _ = plain.tables(draws(plain, np.zeros((256, n)), n))
    cells = np.tile(np.linspace(-3, 3, 16), 16)[:, None]
    moved = 0.5 * rng.standard_normal((1200, 1, n))
    met = rng.random((1200, 256, n)) < 1 / (1 + np.exp(4 * (cells + moved)))
    rates = compute_rates(runs, met.reshape(1200, -1).T, drawn=False)
    assert 0.92 <= np.mean((rates.low <= 0.5) & (rates.high >= 0.5)) <= 0.975


def test_a_grid_is_a_quadrature_and_says_what_it_covers(plain):
    rows = [
        plain.row(seed=s, time=20 if lr * (1 + s) < 0.5 else None, lr=lr) for lr in (0.1, 0.2, 0.4) for s in range(3)
    ]
    (surface,) = compute_success(*plain.tables(rows), METRIC, [plain.TARGET], designs={"a": "grid"})
    found = surface.at(8, plain.TARGET)
    shares = np.array([3, 2, 1]) / 3
    assert found.value == pytest.approx(shares.mean())
    half = 4.302653 * shares.std(ddof=1) / math.sqrt(3)
    assert found.interval == pytest.approx((max(shares.mean() - half, 0), min(shares.mean() + half, 1)))
    assert (found.n, found.of, found.covers) == (3, "seeds", OF_SEEDS)
    assert surface.configurations == (3,)


def test_seeds_that_all_agree_give_a_grid_no_interval(plain):
    rows = [plain.row(seed=s, time=20 if lr < 0.3 else None, lr=lr) for lr in (0.1, 0.2, 0.4) for s in range(3)]
    found = rate(plain, rows, "grid")
    assert found.value == pytest.approx(2 / 3)
    assert found.interval is None
    assert found.covers == ""


@pytest.mark.parametrize("design", ["tpe", "gp", "cma-es"])
def test_adaptive_samples_are_refused(plain, design):
    found = rate(plain, draws(plain, [1, 1, 0]), design)
    assert found.refused.code == "adaptive"
    assert math.isnan(found.value)
    assert found.interval is None


def test_a_column_design_refuses_as_the_study_file_does(plain):
    runs, curves = plain.tables(draws(plain, [1, 1, 0]))
    (surface,) = compute_success(runs.assign(design="optuna"), curves, METRIC, [plain.TARGET])
    assert surface.refused.code == "adaptive"


def test_diverged_runs_never_leave_the_denominator(plain):
    """Optuna's empirical distribution reaches 1.0 with 40% of the runs infinite."""
    rows = draws(plain, [1] * 6)
    rows += [plain.row(lr=1.0 + k, time=20, status="diverged", steps=30) for k in range(4)]
    (surface,) = compute_success(*plain.tables(rows), METRIC, [2.4, 0.5, 0.21], designs={"a": "random"})
    assert list(surface.rate[0]) == [0.6, 0.6, 0.6]
    assert surface.runs == (10,)


def test_waiting_and_failed_runs_are_named_and_not_counted_as_failures_to_reach(plain):
    rows = [*draws(plain, [1, 0]), plain.row(lr=1.0, status="failed"), plain.row(lr=2.0, status="pending")]
    (surface,) = compute_success(*plain.tables(rows), METRIC, [plain.TARGET], designs={"a": "random"})
    assert surface.rate[0, 0] == 0.5
    assert (surface.planned, surface.runs) == ((4,), (2,))
    assert "2 runs with a result of 4 planned; 1 failed and 1 wait" in surface.warnings[0].text


def test_the_surface_falls_with_harder_targets_and_spans_what_was_seen(quadratic):
    runs, curves = quadratic.make_study(batches=(4, 64))
    for surface in compute_success(runs, curves, METRIC):
        assert (np.diff(surface.rate, axis=1) <= 0).all()
        assert surface.rate.shape == (2, 24)
        assert surface.targets[0] > surface.targets[-1]


def test_a_study_without_results_has_an_empty_surface(plain):
    (surface,) = compute_success(*plain.tables([plain.row(status="pending")]), METRIC, [0.5])
    assert math.isnan(surface.at(8, 0.5).value)
    (surface,) = compute_success(*plain.tables([plain.row(status="pending")]), METRIC)
    assert surface.targets == ()


def test_differences_of_grids_are_paired_by_seed(plain):
    cliff = {"a": (3, 2, 1), "b": (2, 1, 0)}
    rows = [
        plain.row(name, seed=s, time=20 if place < count else None, lr=0.1 * 2**place)
        for name, counts in cliff.items()
        for s, count in enumerate(counts)
        for place in range(4)
    ]
    one, other = compute_success(*plain.tables(rows), METRIC, [plain.TARGET, 0.3], designs={"a": "grid", "b": "grid"})
    found = compute_success_difference(one, other)
    assert found.difference[0, 0] == pytest.approx(0.25)
    assert math.isnan(found.low[0, 0]), "the seeds agree on the difference, though each share scatters"


def test_differences_of_draws_have_newcombes_interval(plain):
    # Newcombe (1998), table II (a): 56/70 - 48/80 has the interval [.0524, .3339] by method 10.
    rows = draws(plain, [1] * 56 + [0] * 14) + draws(plain, [1] * 48 + [0] * 32, optimizer="b", start=100)
    one, other = compute_success(*plain.tables(rows), METRIC, [plain.TARGET], designs={"a": "random", "b": "random"})
    found = compute_success_difference(one, other)
    assert found.difference[0, 0] == pytest.approx(0.2)
    assert (found.low[0, 0], found.high[0, 0]) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_a_difference_needs_equal_targets(plain):
    tables = plain.tables(draws(plain, [1, 0]))
    (one,), (other,) = (compute_success(*tables, METRIC, [target]) for target in (0.5, 0.4))
    with pytest.raises(ValueError, match="same targets"):
        compute_success_difference(one, other)


def test_the_plane_keeps_zero_values_and_stays_aligned_after_a_failed_trial(plain):
    """optuna-dashboard drops hyperparameters that are 0, and misaligns a contour after a failed trial."""
    rows = [
        plain.row(seed=s, time=20 if (lr, m) != (0.2, 0.9) else None, lr=lr, momentum=m)
        for m in (0.0, 0.9)
        for lr in (0.1, 0.2)
        for s in range(2)
    ]
    rows[2] = plain.row(seed=0, status="failed", lr=0.2, momentum=0.0)
    rows[5] = plain.row(seed=1, status="diverged", steps=7, lr=0.1, momentum=0.9)
    (plane,) = compute_success_planes(compute_times(*plain.tables(rows), METRIC, plain.TARGET))
    assert (plane.x_name, plane.y_name) == ("lr", "momentum")
    assert (plane.x_values, plane.y_values) == ((0.1, 0.2), (0.0, 0.9))
    found = {(cell.x, cell.y): (cell.reached, cell.diverged, cell.failed, cell.rate) for cell in plane.cells}
    assert found == {
        (0.1, 0.0): (2, 0, 0, 1),
        (0.2, 0.0): (1, 0, 1, 1),
        (0.1, 0.9): (1, 1, 0, 0.5),
        (0.2, 0.9): (0, 0, 0, 0),
    }
    assert all(cell.planned == 2 for cell in plane.cells)
    assert plane.cells[0].interval == pytest.approx((0.342, 1), abs=1e-3)


def test_further_hyperparameters_are_pooled_in_the_plane(plain):
    rows = [
        plain.row(time=t, lr=0.1, damping=d, weight_decay=w) for d, w, t in ((1, 0, 20), (1, 1e-4, None), (2, 0, 20))
    ]
    (plane,) = compute_success_planes(compute_times(*plain.tables(rows), METRIC, plain.TARGET))
    assert (plane.x_name, plane.y_name, plane.pooled) == ("damping", "weight_decay", ())
    rows += [plain.row(time=20, lr=0.2, damping=1, weight_decay=0)]
    (plane,) = compute_success_planes(compute_times(*plain.tables(rows), METRIC, plain.TARGET))
    assert (plane.x_name, plane.y_name, plane.pooled) == ("lr", "damping", ("weight_decay",))
    pooled = next(cell for cell in plane.cells if (cell.x, cell.y) == (0.1, 1))
    assert (pooled.rate, pooled.configurations, pooled.interval) == (0.5, 2, None)
