import itertools

import numpy as np
import pytest

from sensitivity.analysis.best_of_k import OF_DISTRIBUTION, best_of_k_band, compute_best_of_k, expected_best
from sensitivity.analysis.rates import OF_SEEDS

METRIC = "train_loss"


def test_both_estimators_have_the_golden_values():
    # docs/statistics.md, section 6: U(0, 1), k = 5: true 5/6; with N = 20 U gives .8333 and V .8165.
    sample = np.random.default_rng(0).random((20, 40_000))
    k = np.array([5])
    assert expected_best(sample, k)[0].mean() == pytest.approx(5 / 6, abs=5e-4)
    assert expected_best(sample, k, replacement=True)[0].mean() == pytest.approx(0.8165, abs=5e-4)


@pytest.mark.parametrize("replacement", [False, True])
def test_it_is_the_mean_over_all_choices(replacement):
    scores = np.random.default_rng(1).random(6)
    choices = itertools.product if replacement else itertools.combinations
    for k in range(1, 5):
        picks = itertools.product(scores, repeat=k) if choices is itertools.product else choices(scores, k)
        exact = np.mean([max(pick) for pick in picks])
        assert expected_best(scores, np.array([k]), replacement=replacement)[0] == pytest.approx(exact)


def test_many_draws_stay_finite():
    scores = np.random.default_rng(2).random(5000)
    found = expected_best(scores, np.array([1, 70, 5000]))
    assert found == pytest.approx([scores.mean(), 70 / 71, scores.max()], abs=5e-3)


def test_the_band_covers_for_all_k_at_once_and_does_not_collapse():
    """The spread of shuffles of one sample is 0 at k = N."""
    rng, n, k = np.random.default_rng(3), 40, np.arange(1, 41)
    true = k / (k + 1)
    bands = [best_of_k_band(rng.random(n), k, n, (0.0, 1.0)) for _ in range(600)]
    covered = np.mean([((low <= true) & (true <= high)).all() for low, high in bands])
    assert covered >= 0.95
    widths = np.mean([high - low for low, high in bands], axis=0)
    assert widths[-1] > 0.05
    assert all((low <= expected_best(np.sort(rng.random(n)), k).max() + 1).all() for low, _ in bands[:1])


def lines(plain, finals, seeds=1, **options):
    return [
        plain.row(seed=s, final=float(final), lr=0.01 + 1e-3 * c, **options)
        for c, of_seeds in enumerate(np.reshape(finals, (-1, seeds)))
        for s, final in enumerate(of_seeds)
    ]


def test_a_curve_of_draws_by_hand(plain):
    (curve,) = compute_best_of_k(*plain.tables(lines(plain, [0.4, 0.2, 0.3])), METRIC, designs={"a": "random"})
    assert curve.k == (1, 2, 3)
    assert curve.expected == pytest.approx((0.3, (0.3 + 0.2 + 0.2) / 3, 0.2))
    assert curve.seconds == (50, 100, 150)
    assert (curve.covers, curve.configurations) == (OF_DISTRIBUTION, 3)
    assert all(low <= value <= high for low, value, high in zip(curve.low, curve.expected, curve.high, strict=True))


def test_seeds_are_averaged_not_pooled(plain):
    finals = np.array([[0.4, 0.1], [0.2, 0.5]])
    (curve,) = compute_best_of_k(*plain.tables(lines(plain, finals, 2)), METRIC, designs={"a": "random"})
    assert curve.expected == pytest.approx((0.3, (0.2 + 0.1) / 2))
    assert (curve.configurations, curve.seeds) == (2, 2)


def test_diverged_runs_count_as_untrained_and_cost_what_they_took(plain):
    rows = [*lines(plain, [0.4, 0.2]), plain.row(lr=9.0, status="diverged", steps=10, final=0.01)]
    (curve,) = compute_best_of_k(*plain.tables(rows), METRIC, designs={"a": "random"})
    assert curve.expected[0] == pytest.approx((0.4 + 0.2 + 2.5) / 3)
    assert curve.seconds[0] == pytest.approx((50 + 50 + 5) / 3)


def test_a_grid_is_drawn_from_with_replacement_and_covers_seed_noise(plain):
    finals = np.array([[0.4, 0.42], [0.2, 0.25]])
    (curve,) = compute_best_of_k(*plain.tables(lines(plain, finals, 2)), METRIC, designs={"a": "grid"})
    assert curve.expected[1] == pytest.approx(np.mean([(0.4 + 3 * 0.2) / 4, (0.42 + 3 * 0.25) / 4]))
    assert curve.covers == OF_SEEDS
    assert "grid" in {warning.code for warning in curve.warnings}


def test_adaptive_samples_are_refused(plain):
    (curve,) = compute_best_of_k(*plain.tables(lines(plain, [0.4, 0.2])), METRIC, designs={"a": "tpe"})
    assert curve.refused.code == "adaptive"
    assert curve.k == ()


def test_unfinished_configurations_are_left_out_and_named(plain):
    rows = [*lines(plain, [0.4, 0.2]), plain.row(lr=9.0, status="pending")]
    (curve,) = compute_best_of_k(*plain.tables(rows), METRIC, designs={"a": "random"})
    assert (curve.configurations, curve.warnings[0].code) == (2, "incomplete")
    (curve,) = compute_best_of_k(*plain.tables([plain.row(status="pending")]), METRIC)
    assert curve.refused.code == "no-result"


def test_draws_with_a_seed_of_their_own_each_are_one_draw_each(plain):
    """What a study file's random and Sobol designs run."""
    rows = [plain.row(seed=k, final=final, lr=0.01 + 1e-3 * k) for k, final in enumerate([0.4, 0.2, 0.3])]
    (curve,) = compute_best_of_k(*plain.tables(rows), METRIC, designs={"a": "random"})
    assert curve.expected == pytest.approx((0.3, (0.3 + 0.2 + 0.2) / 3, 0.2))
    assert (curve.configurations, curve.seeds, curve.refused) == (3, 1, None)
