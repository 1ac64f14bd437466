import itertools
import math

import numpy as np
import pytest

from sensitivity.analysis.forest import forest_variances
from sensitivity.analysis.importance import OF_FOREST, compute_importance, explained, grid_variances
from sensitivity.analysis.jackknife import over_seeds

METRIC = "train_loss"


def shares(parts):
    return {key: float(value[0] / parts[()][0]) for key, value in parts.items()}


def test_a_grid_has_the_golden_shares():
    # docs/statistics.md, section 7: (u - v)^2 with u, v ~ U(-a, a): mains 1/7 each, interaction 5/7.
    u = np.linspace(-1, 1, 401)
    found = shares(grid_variances(((u[:, None] - u) ** 2)[None]))
    assert found[0,] == pytest.approx(1 / 7, abs=2e-3)
    assert found[1,] == pytest.approx(1 / 7, abs=2e-3)
    assert found[0, 1] == pytest.approx(5 / 7, abs=3e-3)


def test_a_forest_has_the_golden_shares():
    x = np.random.default_rng(0).uniform(-3, 3, (600, 2))
    found = shares(forest_variances(x, ((x[:, 0] - x[:, 1]) ** 2)[None]))
    assert found[0,] == pytest.approx(1 / 7, abs=0.03)
    assert found[1,] == pytest.approx(1 / 7, abs=0.03)
    assert found[0, 1] == pytest.approx(5 / 7, abs=0.05)


def test_mains_and_pairs_of_two_add_up_to_all():
    grid = np.random.default_rng(1).random((2, 5, 6))
    parts = grid_variances(grid)
    assert parts[()] == pytest.approx(grid.reshape(2, -1).var(axis=1))
    assert parts[0,] + parts[1,] + parts[0, 1] == pytest.approx(parts[()])
    x = np.random.default_rng(2).random((80, 2))
    parts = forest_variances(x, np.sin(7 * x.sum(axis=1))[None])
    assert np.array_equal(parts[()], forest_variances(x, np.sin(7 * x.sum(axis=1))[None])[()]), "the same on every call"


def test_three_dimensions_leave_a_rest_for_the_triple():
    a, b, c = np.meshgrid(*[np.array([-1.0, 1.0])] * 3, indexing="ij")
    found = shares(grid_variances((a + 2 * b * c + 3 * a * b * c)[None]))
    assert found[0,] == pytest.approx(1 / 14)
    assert found[1, 2] == pytest.approx(4 / 14)
    assert sum(found.values()) - found[()] == pytest.approx(5 / 14)


def plane(plain, function, points=9, seeds=1, rng=None, noise=0.0):
    axis = np.linspace(-1, 1, points)
    return [
        plain.row(
            seed=s,
            final=0.5 + function(x, y) + (noise * rng.standard_normal() if noise else 0.0),
            lr=round(10**x, 6),
            damping=round(10**y, 6),
        )
        for s in range(seeds)
        for x, y in itertools.product(axis, axis)
    ]


def test_a_ridge_is_all_interaction_along_the_axes_and_one_coordinate_across_it(plain):
    (found,) = compute_importance(*plain.tables(plane(plain, lambda x, y: 0.2 * (x - y) ** 2)), METRIC)
    assert found.method == "exact"
    assert found.share_of("lr", "damping").value == pytest.approx(5 / 7, abs=0.05)
    assert found.share_of("lr / damping").value == pytest.approx(1, abs=1e-4)
    assert found.share_of("lr · damping").value < 0.4
    assert [share.names for share in found.shares][-1] == ("lr", "damping"), "mains first"


def test_draws_along_a_ridge(plain):
    rng = np.random.default_rng(3)
    draws = 10 ** rng.uniform(-1, 1, (300, 2))
    rows = [plain.row(final=0.5 + 0.2 * np.log10(a / b) ** 2, lr=a, damping=b) for a, b in draws]
    (found,) = compute_importance(*plain.tables(rows), METRIC, designs={"a": "random"})
    assert found.method == "forest"
    assert found.share_of("lr", "damping").value == pytest.approx(5 / 7, abs=0.1)
    assert found.share_of("lr / damping").value > 0.9


def test_logarithms_see_the_learning_rate_that_linear_coordinates_miss(plain):
    """Optuna's fANOVA works in linear space: the share of a log-uniform lr is .10 there where .96 is true."""
    rng = np.random.default_rng(4)
    lr, momentum = 10 ** rng.uniform(-5, 0, 400), rng.uniform(0, 0.9, 400)
    of_lr, of_momentum = 0.3 * -np.minimum(np.log10(lr) + 2, 0), 0.2 * momentum
    final = 0.5 + of_lr + of_momentum
    rows = [plain.row(final=f, lr=a, momentum=m) for f, a, m in zip(final, lr, momentum, strict=True)]
    (found,) = compute_importance(*plain.tables(rows), METRIC, designs={"a": "random"})
    exact = of_lr.var() / (of_lr.var() + of_momentum.var())
    assert exact > 0.95
    assert found.share_of("lr").value == pytest.approx(exact, abs=0.04)
    linear = shares(forest_variances(np.stack([lr, momentum], axis=1), final[None]))
    assert linear[0,] < 0.4


def test_few_draws_have_the_golden_shares_too_within_their_interval(plain):
    draws = 10 ** np.random.default_rng(7).uniform(-1, 1, (64, 2))
    rows = [plain.row(final=0.5 + 0.2 * np.log10(a / b) ** 2, lr=a, damping=b) for a, b in draws]
    (found,) = compute_importance(*plain.tables(rows), METRIC, designs={"a": "sobol"})
    for names, share in ((("lr",), 1 / 7), (("damping",), 1 / 7), (("lr", "damping"), 5 / 7)):
        estimate = found.share_of(*names)
        assert estimate.value == pytest.approx(share, abs=0.08)
        assert (estimate.n, estimate.of) == (64, "configurations")
        if len(names) == 1:
            assert estimate.interval[0] < share < estimate.interval[1]
            assert estimate.covers == OF_FOREST
        else:
            assert estimate.interval is None, "simulated coverage is anything from 0% to 100%"
    (few,) = compute_importance(*plain.tables(rows[:19]), METRIC, designs={"a": "sobol"})
    assert few.share_of("lr").interval is None


def test_the_noise_of_seeds_is_no_effect(plain):
    """Of x^2 + y/4 with noise of a third of its scatter; without correction noise makes a pair that is not there."""
    rng = np.random.default_rng(12)
    rows = plane(plain, lambda x, y: 0.5 * x**2 + y / 8, points=6, seeds=10, rng=rng, noise=0.06)
    (exact,) = compute_importance(*plain.tables(plane(plain, lambda x, y: 0.5 * x**2 + y / 8, points=6)), METRIC)
    (found,) = compute_importance(*plain.tables(rows), METRIC)
    for names in (("lr",), ("damping",), ("lr", "damping")):
        low, high = found.share_of(*names).interval
        assert low <= exact.share_of(*names).value <= high
    assert found.share_of("lr", "damping").value < 0.05
    grid = np.array([row["final"] for row in rows]).reshape(10, 6, 6)
    assert shares(grid_variances(grid[:1]))[0, 1] > 0.04
    (one,) = compute_importance(*plain.tables(rows[:36]), METRIC)
    assert one.share_of("lr", "damping").value > 0.04
    assert "its noise counts as an effect" in one.warnings[-1].text
    (two,) = compute_importance(*plain.tables(rows[:72]), METRIC)
    assert two.share_of("lr").interval is None


def test_shares_over_seeds_are_the_mean_over_pairs_of_seeds():
    scores = np.random.default_rng(9).standard_normal((4, 12))
    parts = over_seeds(lambda rows: {(): (rows**2).mean(axis=1), (0,): rows[:, :6].mean(axis=1) ** 2}, scores)
    pairs = [(s, t) for s, t in itertools.permutations(scores, 2)]
    total = np.mean([(s * t).mean() for s, t in pairs])
    main = np.mean([s[:6].mean() * t[:6].mean() for s, t in pairs])
    assert parts[0][1] == pytest.approx(main / total)


def test_the_interval_covers_seed_noise(plain):
    rng = np.random.default_rng(5)
    rows = plane(plain, lambda x, y: 0.2 * x**2 + 0.1 * y, points=6, seeds=4, rng=rng, noise=0.02)
    (found,) = compute_importance(*plain.tables(rows), METRIC)
    low, high = found.share_of("lr").interval
    assert low < found.share_of("lr").value < high
    assert found.share_of("lr").n == 4


def test_diverged_cells_weigh_as_the_untrained_network(plain):
    rows = plane(plain, lambda x, y: 1e6 * (x > 0.9))
    (found,) = compute_importance(*plain.tables(rows), METRIC)
    assert found.deviation < plain.INITIAL


def test_what_cannot_be_split_is_refused(plain):
    tables = plain.tables(plane(plain, lambda x, y: x, points=3))
    (found,) = compute_importance(*tables, METRIC, designs={"a": "tpe"})
    assert found.refused.code == "adaptive"
    runs, curves = tables
    runs.loc[0, "status"] = "pending"
    (found,) = compute_importance(runs, curves, METRIC)
    assert found.refused.code == "incomplete"
    (found,) = compute_importance(*plain.tables(plane(plain, lambda x, y: 0.0, points=3)), METRIC)
    assert found.refused.code == "no-variance"
    (found,) = compute_importance(*plain.tables([plain.row()]), METRIC)
    assert found.refused.code == "no-variance"
    assert math.isnan(found.deviation)


def test_noise_explains_nothing():
    rng = np.random.default_rng(6)
    x, noise = rng.random(400), rng.standard_normal((200, 400))
    assert np.mean(explained(x, noise)) < 0.02
    assert explained(x, np.sin(6 * x)[None])[0] == pytest.approx(np.sin(6 * x).var(), rel=0.05)
