import math

import numpy as np
import pytest
from scipy import stats

from sensitivity.analysis.estimates import mean_over_seeds
from sensitivity.analysis.paired import claim_p, compare, equivalence_p, fewest_seeds, holm, seeds_needed, sign_flip_p


@pytest.mark.parametrize("n", [6, 9, 14])
def test_the_sign_flip_test_agrees_with_scipys_permutation_test(n):
    differences = np.random.default_rng(n).standard_normal(n) + 0.5
    found = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
        alternative="two-sided",
    )
    assert sign_flip_p(differences) == pytest.approx(found.pvalue, abs=1e-12)


def test_beyond_fourteen_seeds_patterns_are_drawn_from_the_generator_given():
    differences = np.random.default_rng(0).standard_normal(25) + 0.45
    first = sign_flip_p(differences, np.random.default_rng(1))
    assert first == sign_flip_p(differences, np.random.default_rng(1))
    assert first == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.01)
    assert sign_flip_p(np.ones(30)) > 0


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_fewer_than_six_seeds_are_not_tested(n):
    assert math.isnan(sign_flip_p(np.ones(n)))
    assert fewest_seeds() == 6
    assert sign_flip_p(np.ones(6)) == 2 / 2**6


def test_the_sign_flip_test_holds_its_level():
    rng = np.random.default_rng(2)
    assert np.mean([sign_flip_p(rng.standard_normal(7)) <= 0.05 for _ in range(1500)]) <= 0.06


def test_equivalence_is_the_larger_of_two_one_sided_t_tests():
    differences = np.random.default_rng(3).standard_normal(8) * 0.1
    above = stats.ttest_1samp(differences, -0.2, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, 0.2, alternative="less").pvalue
    assert equivalence_p(differences, 0.2) == pytest.approx(max(above, below))
    assert math.isnan(equivalence_p(np.zeros(5), 0.2))
    assert math.isnan(equivalence_p(np.zeros(1), 0.2))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([0.02, math.nan])[0] == 0.02
    assert holm([0.9, 0.8]) == (1, 1)


def test_a_large_p_is_no_equivalence():
    noisy = np.array([3.0, -3.0, 2.0, -2.0, 1.0, -1.0])
    names = {"candidate": "a", "reference": "b", "label": "x", "margin": 0.1, "larger_is_better": True}
    assert compare(noisy, range(6), **names).answer == "undetermined"
    assert compare(noisy * 0.01, range(6), **names).answer == "equivalent"
    assert compare(noisy * 0.01 + 1, range(6), **names).answer == "better"
    assert compare(noisy * 0.01 - 1, range(6), **names).answer == "worse"
    assert compare(noisy * 0.01 + 0.05, range(6), **names).answer == "equivalent", "real, and too small to matter"
    assert compare(noisy[:5] * 0.01 + 1, range(5), **names).answer == "undetermined"


def test_seeds_needed_reach_the_power_and_the_larger_number_surely():
    """Pilots of five seeds promise 80% power: the lower number falls short on average, the upper does not."""
    rng = np.random.default_rng(4)
    true, delivered = 1.0, {"from": [], "to": []}
    for pilot in true + rng.standard_normal((300, 5)):
        needed = seeds_needed(pilot, 0.2)
        if needed is None or needed[1] is None or pilot.mean() < 0.2:
            continue
        for name, n in zip(("from", "to"), needed, strict=True):
            delivered[name].append(power(true, n))
    assert np.mean(delivered["from"]) < 0.75
    assert np.mean(delivered["to"]) > 0.8


def power(true, n, margin=0.2):
    """Of a two-sided t test that a normal mean of `true` deviations lies beyond the margin."""
    limit = stats.t.ppf(0.975, n - 1)
    return float(stats.nct.sf(limit, n - 1, (true - margin) * math.sqrt(n)))


def test_where_no_number_of_seeds_would_do_there_is_none():
    assert seeds_needed(np.array([1.0, 1.0, 1.0])) == (6, 6)
    assert seeds_needed(np.array([1.0, -1.0])) is None
    assert seeds_needed(np.array([1e-4, -1e-4, 2e-6])) is None
    assert seeds_needed(np.array([0.21, 0.22, 0.23]), 0.2, bias=0.05) is None, "as near as the grain leaves it open"
    assert seeds_needed(np.array([0.0, 0.01, -0.01]), 0.2)[0] < 6, "equivalence needs no sign-flip test"
    few, many = seeds_needed(np.array([0.3, 0.9, -0.2, 0.6, 1.2]))
    assert few < many
    assert seeds_needed(np.array([1.0, 1.1, 1.2]), alpha=0.01)[0] == 8


def test_a_claim_needs_a_difference_beyond_margin_and_bias():
    differences = 0.5 + 0.1 * np.random.default_rng(5).standard_normal(10)
    expected = stats.ttest_1samp(differences, 0.3, alternative="greater").pvalue
    flips = stats.permutation_test(
        (differences - 0.3,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="greater"
    ).pvalue
    assert claim_p(differences, 0.3) == pytest.approx(2 * max(expected, flips))
    assert claim_p(-differences, 0.3) == claim_p(differences, 0.3)
    assert claim_p(differences, 0.2, bias=0.1) == pytest.approx(claim_p(differences, 0.3))
    assert claim_p(differences, 0.6) == 1
    names = {"candidate": "a", "reference": "b", "label": "x", "margin": 0.3, "larger_is_better": True}
    assert compare(differences, range(10), **names).answer == "better"
    assert compare(differences, range(10), **names, bias=0.2).answer == "undetermined"


@pytest.mark.parametrize("alpha", [0.05, 0.02])
def test_with_many_seeds_a_claim_is_an_interval_beyond_the_margin(alpha):
    for shift in np.linspace(0.2, 0.5, 7):
        differences = shift + 0.2 * stats.norm.ppf((np.arange(14) + 0.5) / 14)
        names = {"candidate": "a", "reference": "b", "label": "x", "margin": 0.15, "larger_is_better": True}
        found = compare(differences, range(14), **names, bias=0.01, alpha=alpha)
        beyond = found.effect.interval[0] > 0.15
        assert (found.answer == "better") <= beyond
        assert np.diff(found.effect.interval) == pytest.approx(
            2 * (0.01 + stats.t.ppf(1 - alpha / 2, 13) * differences.std(ddof=1) / math.sqrt(14))
        )


def test_differences_that_agree_exactly_say_no_more_than_what_they_may_be_off():
    names = {"candidate": "a", "reference": "b", "label": "x", "margin": 0.22, "larger_is_better": True}
    assert compare(np.full(6, 0.05), range(6), **names, bias=0.02).answer == "equivalent"
    assert compare(np.full(6, 0.05), range(6), **names, bias=0.2).answer == "undetermined"
    assert compare(np.full(6, 0.3), range(6), **names, bias=0.1).answer == "undetermined"
    assert compare(np.full(6, 0.3), range(6), **names, bias=0.02).answer == "better"
    assert compare(np.zeros(6), range(6), **names, bias=0.02).effect.interval == pytest.approx((-0.02, 0.02))


@pytest.mark.parametrize(("n", "percentile"), [(3, 0.72), (5, 0.81), (10, 0.90)])
def test_t_covers_where_a_percentile_bootstrap_does_not(n, percentile):
    rng = np.random.default_rng(n)
    samples = rng.standard_normal((4000, n))
    covered = [estimate.interval[0] <= 0 <= estimate.interval[1] for estimate in map(mean_over_seeds, samples)]
    assert 0.92 <= np.mean(covered) <= 0.975
    picks = rng.integers(0, n, (2000, 300, n))
    means = samples[np.arange(2000)[:, None, None], picks].mean(axis=2)
    low, high = np.percentile(means, [2.5, 97.5], axis=1)
    assert np.mean((low <= 0) & (high >= 0)) == pytest.approx(percentile, abs=0.035), "the golden shortfall"


def test_an_interval_is_refused_rather_than_guessed():
    assert mean_over_seeds(np.array([2.0])).interval is None
    agreed = mean_over_seeds(np.array([2.0, 2.0, 2.0]))
    assert (agreed.value, agreed.interval, agreed.warnings[0].code) == (2.0, None, "no-scatter")
    assert mean_over_seeds(np.array([2.0, np.inf])).interval is None
    assert not mean_over_seeds(np.array([])).known
