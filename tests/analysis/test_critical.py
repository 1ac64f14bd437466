import math

import numpy as np
import pytest

from sensitivity.analysis.critical import (
    compute_critical_batch_size,
    fit_log_size,
    lack_of_fit,
    size_interval,
)

BATCHES = 2.0 ** np.arange(6, 15)
TRUE = 2000.0


def curve(size=TRUE, batches=BATCHES, s_min=100.0):
    return np.log(s_min * (1 + size / batches))


def fit(times, batches, censored=None, **options):
    """Fit to log `times` [seeds, batches] that are exactly known, but for those of `censored` [batches], lower
    bounds."""
    hidden = np.zeros(len(batches), dtype=bool) if censored is None else censored
    return compute_critical_batch_size(times - 1e-4, np.where(hidden, np.inf, times + 1e-4), batches, **options)


def fit_between(low, high, batches):
    return compute_critical_batch_size(low, high, batches).size.value


def noisy(rng, shape, scale=0.1, mean=None):
    mean = curve() if mean is None else mean
    return mean + scale * rng.standard_normal((*shape, len(mean)))


@pytest.mark.parametrize("size", [3.0, 100.0, 2000.0, 50_000.0])
def test_exact_times_give_back_their_critical_batch_size(size):
    found = fit_log_size(curve(size)[None], BATCHES)
    assert np.exp(found[0]) == pytest.approx(size, rel=2e-3)


def test_the_winners_curse_has_the_golden_values():
    # docs/statistics.md, section 2: near-ties fall from 16 to 1; naive 1591 [1330, 1903], fresh 1996 [1752, 2282].
    rng = np.random.default_rng(0)
    ties = np.round(np.geomspace(16, 1, len(BATCHES))).astype(int)
    draws = rng.standard_normal((4000, len(BATCHES), 16))
    best = np.stack([draws[:, k, :count].min(axis=1) for k, count in enumerate(ties)], axis=1)
    naive = np.exp(fit_log_size(curve() + 0.1 * best, BATCHES))
    fresh = np.exp(fit_log_size(noisy(rng, (4000, 3)).mean(axis=1), BATCHES))
    assert np.median(naive) == pytest.approx(1591, rel=0.05)
    assert np.percentile(naive, [2.5, 97.5]) == pytest.approx([1330, 1903], rel=0.07)
    assert np.median(fresh) == pytest.approx(1996, rel=0.01)
    assert np.percentile(fresh, [2.5, 97.5]) == pytest.approx([1752, 2282], rel=0.04)


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("shared", [0.0, 0.1])
def test_the_interval_covers_as_claimed_with_few_seeds(n, shared):
    """Also where a seed is slow at every batch size alike."""
    rng = np.random.default_rng(n)
    studies = noisy(rng, (1500, n)) + shared * rng.standard_normal((1500, n, 1))
    intervals = np.array([size_interval(study, BATCHES) for study in studies])
    covered = np.mean((intervals[:, 0] <= TRUE) & (intervals[:, 1] >= TRUE))
    assert 0.92 <= covered <= 0.975


def test_data_that_stop_below_the_critical_batch_size_bound_it_from_below():
    batches = np.array([8.0, 16, 32, 64])
    times = noisy(np.random.default_rng(1), (4,), 0.05, curve(5000, batches))
    found = fit(times, batches)
    low, high = found.size.interval
    assert math.isinf(high)
    assert 64 < low < 5000
    assert found.says == f"Bc > {low:,.0f}"


def test_times_that_no_batch_size_shortens_bound_it_from_above():
    times = noisy(np.random.default_rng(2), (4,), 0.05, np.full(len(BATCHES), 5.0))
    found = fit(times, BATCHES)
    assert found.size.interval[0] == 0
    assert found.says.startswith("Bc < ")


def test_censored_times_raise_the_estimate_no_more_than_they_say():
    # S at the largest batch sizes is only known to exceed a budget that the truth exceeds too.
    rng = np.random.default_rng(4)
    batches = np.array([16.0, 32, 64, 128, 256, 512])
    true = curve(100.0, batches)
    censored = np.array([False] * 4 + [True] * 2)
    cap = np.where(censored, true + 0.02, np.inf)
    studies = noisy(rng, (80, 4), 0.1, true)
    low, high = np.minimum(studies, cap) - 1e-4, np.where(studies > cap, np.inf, studies + 1e-4)
    with_bounds = np.array([fit_between(*ends, batches) for ends in zip(low, high, strict=True)])
    without = np.array([fit(times[:, ~censored], batches[~censored]).size.value for times in studies])
    assert np.median(with_bounds) == pytest.approx(100, rel=0.1)
    assert np.log(with_bounds).std() < np.log(without).std(), "the bounds say something"
    ignored = np.exp(fit_log_size(np.minimum(studies, cap - 1.0).mean(axis=1), batches))
    assert np.median(ignored) > 150, "a bound taken for a time says there is more to gain than there is"


def test_lack_of_fit_is_reported_and_rarely_without_cause():
    rng = np.random.default_rng(5)
    alarms = [
        lack_of_fit(times, BATCHES, fit_log_size(times.mean(axis=0)[None], BATCHES)[0])[1] < 0.05
        for times in noisy(rng, (400, 4))
    ]
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.03)
    bent = curve() + 0.4 * np.sin(np.arange(len(BATCHES)))
    found = fit(noisy(rng, (4,), mean=bent), BATCHES)
    assert found.lack_of_fit_p < 1e-3
    assert "lack-of-fit" in {warning.code for warning in found.size.warnings}


def test_two_batch_sizes_fit_and_warn_one_is_refused():
    times = noisy(np.random.default_rng(6), (3,))
    two = fit(times[:, :2], BATCHES[:2])
    assert "two-batch-sizes" in {warning.code for warning in two.size.warnings}
    one = fit(times[:, :1], BATCHES[:1])
    assert one.size.refused.code == "few-batch-sizes"
    assert np.isnan(one.steps(BATCHES)).all()


def test_one_seed_has_no_interval():
    found = fit(curve()[None], BATCHES)
    assert found.size.interval is None
    assert "single-seed" in {warning.code for warning in found.size.warnings}
    assert found.steps(BATCHES) == pytest.approx(np.exp(curve()), rel=1e-3)


def test_noise_common_to_all_batch_sizes_cancels_in_the_critical_one():
    """Seeds are resampled, as it were, whole; rliable and others would resample each batch size by itself."""
    times = curve() + np.random.default_rng(7).standard_normal((5, 1))
    low, high = size_interval(times, BATCHES)
    assert (low, high) == pytest.approx((TRUE, TRUE), rel=0.01)


def test_what_the_means_may_be_off_is_no_lack_of_fit_and_widens_the_interval():
    """Exact times, rounded up to evaluations 20% apart: their scatter is nothing, and the residuals are the
    rounding's."""
    exact = np.exp(curve())
    at = np.ceil(np.log(exact) / np.log(1.2))
    times = np.tile((at - 0.5) * np.log(1.2), (4, 1))
    bias = np.full(len(BATCHES), np.log(1.2) / 2)
    wrong = lack_of_fit(times + 1e-6 * np.random.default_rng(1).standard_normal(times.shape), BATCHES, np.log(TRUE))[1]
    assert wrong < 1e-6
    found = compute_critical_batch_size(times - bias, times + bias, BATCHES, bias=bias)
    assert found.lack_of_fit_p == 1
    low, high = found.size.interval
    assert low < TRUE < high
    assert size_interval(times, BATCHES) is None, "seeds that agree show no scatter"
