import math
import sys

import numpy as np
import pytest

from sensitivity.analysis.intervals import exponential, smallest_sign_flip_p, t_half_width, wilson

STATISTICS_MD = [(3, 3, 0.438, 1.0), (0, 3, 0.0, 0.562), (5, 5, 0.566, 1.0)]


@pytest.mark.parametrize(("k", "n", "low", "high"), STATISTICS_MD)
def test_wilson_has_the_golden_values(k, n, low, high):
    assert wilson(k, n) == pytest.approx((low, high), abs=6e-4)


def test_wilson_is_the_set_that_the_score_test_accepts():
    # Both ends p solve |k/n - p| = z * sqrt(p (1 - p) / n): the definition, not the closed form.
    k, n, z = 37, 120, 1.959963984540054
    for p in wilson(k, n):
        assert abs(k / n - p) == pytest.approx(z * np.sqrt(p * (1 - p) / n), rel=1e-9)


@pytest.mark.parametrize(("k", "n"), [(1, 0), (0, 0), (4, 3), (-1, 3)])
def test_wilson_refuses_what_is_no_proportion(k, n):
    with pytest.raises(ValueError, match="0 <= successes <= n"):
        wilson(k, n)


def test_t_half_width_has_the_tabled_quantiles():
    # Student's t at 97.5%: 12.706 (1 degree of freedom), 4.303 (2), 2.262 (9).
    n = np.array([2, 3, 10])
    assert t_half_width(np.ones(3), n) * np.sqrt(n) == pytest.approx([12.7062, 4.30265, 2.26216], rel=1e-5)
    assert np.isnan(t_half_width(1.0, 1))


def test_t_interval_covers_as_claimed_with_three_seeds():
    rng = np.random.default_rng(0)
    sample = rng.standard_normal((20_000, 3))
    half = t_half_width(sample.std(axis=1, ddof=1), np.full(20_000, 3))
    assert np.mean(np.abs(sample.mean(axis=1)) <= half) == pytest.approx(0.95, abs=0.005)


def test_five_seeds_never_reach_five_percent():
    assert smallest_sign_flip_p(5) == 0.0625
    assert smallest_sign_flip_p(6) == 0.03125


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.0, math.e), (-math.inf, 0.0), (-1e4, 0.0), (709.7, sys.float_info.max), (1e4, math.inf), (math.inf, math.inf)],
)
def test_a_ratio_beyond_what_a_float_holds_is_infinite(value, expected):
    # A log ratio of 709.7 is within 10% of the largest float; two seeds that disagree give ends in the thousands.
    assert exponential(value) == pytest.approx(expected, rel=0.1)
    assert math.isnan(exponential(math.nan))
