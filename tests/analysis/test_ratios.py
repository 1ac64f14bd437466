"""Ratios of block means against scipy's t tests, and a jackknife written out."""

import math

import numpy as np
import pytest
from scipy import stats

from sensitivity.analysis.ratios import Moments, log_ratio_jackknife

RNG = np.random.default_rng(5)
ONE, OTHER = RNG.uniform(0.5, 1.5, 20), RNG.uniform(0.2, 1.2, 20)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.9])
def test_a_ratio_is_tested_by_students_t_of_the_differences(ratio):
    found = Moments.paired(ONE, OTHER)
    above = stats.ttest_1samp(ONE - ratio * OTHER, 0, alternative="greater").pvalue
    assert float(found.p_above(ratio)) == pytest.approx(above)
    assert float(found.p_below(ratio)) == pytest.approx(1 - above)


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_interval_ends_where_the_test_just_rejects(level):
    low, high = Moments.paired(ONE, OTHER).interval(level)
    assert low < ONE.mean() / OTHER.mean() < high
    for end in (low, high):
        assert stats.ttest_1samp(ONE - end * OTHER, 0).pvalue == pytest.approx(1 - level)


def test_independent_arms_of_different_size_add_their_variances():
    few = OTHER[:7]
    found = Moments.separate(ONE, few)
    assert float(found.var_one) == pytest.approx(stats.sem(ONE) ** 2)
    assert float(found.var_other) == pytest.approx(stats.sem(few) ** 2)
    low, high = found.interval(0.95)
    t = stats.t.ppf(0.975, 6)
    for end in (low, high):
        gap = ONE.mean() - end * few.mean()
        assert abs(gap) == pytest.approx(t * math.hypot(stats.sem(ONE), end * stats.sem(few)))


def test_a_denominator_that_may_be_zero_leaves_the_interval_open():
    rare = np.zeros(20)
    rare[:2] = 0.25
    low, high = Moments.paired(ONE, rare).interval(0.95)
    assert math.isinf(high)
    assert low > 0
    low, high = Moments.paired(rare, ONE).interval(0.95)
    assert (low, math.isfinite(high)) == (0.0, True)
    nothing = Moments.paired(np.zeros(20), np.zeros(20))
    assert nothing.interval(0.95) == (0.0, math.inf)
    assert np.isnan(nothing.p_above(1.0))


def test_the_jackknife_of_a_log_ratio_is_that_written_out():
    value, error = log_ratio_jackknife(np.stack([ONE, OTHER]), np.array([1.0, -1.0]))
    assert float(value) == pytest.approx(math.log(ONE.mean() / OTHER.mean()))
    n = len(ONE)
    left_out = [math.log(np.delete(ONE, k).mean() / np.delete(OTHER, k).mean()) for k in range(n)]
    assert float(error) == pytest.approx(math.sqrt((n - 1) / n * np.sum((left_out - np.mean(left_out)) ** 2)))
    single = np.zeros(20)
    single[3] = 1.0
    assert math.isinf(log_ratio_jackknife(np.stack([ONE, single]), np.array([1.0, -1.0]))[1])
