import math

import numpy as np
import pytest

from sensitivity.analysis.critical import (
    compute_critical_batch_size,
    fit_log_size,
    seed_log_sizes,
    shared_log_size,
    size_interval,
)

BATCHES = 2.0 ** np.arange(6, 15)
TRUE = 2000.0


def curve(size=TRUE, batches=BATCHES, s_min=100.0):
    return np.log(s_min * (1 + size / batches))


def noisy(rng, shape, scale=0.1, mean=None):
    mean = curve() if mean is None else mean
    return mean + scale * rng.standard_normal((*shape, len(mean)))


@pytest.mark.parametrize("size", [3.0, 100.0, 2000.0, 50_000.0])
def test_exact_times_give_back_their_critical_batch_size(size):
    found = fit_log_size(curve(size)[None], BATCHES)
    assert np.exp(found[0]) == pytest.approx(size, rel=2e-3)


def test_the_winners_curse_has_the_golden_values():
    # STATISTICS.md section 2: near-ties fall from 16 to 1 as B grows; naive 1591 [1330, 1903], fresh 1996 [1752, 2282].
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
    found = compute_critical_batch_size(times, batches, np.zeros(4, dtype=bool))
    low, high = found.size.interval
    assert math.isinf(high)
    assert 64 < low < 5000
    assert found.says == f"Bc > {low:,.0f}"


def test_times_that_no_batch_size_shortens_bound_it_from_above():
    times = noisy(np.random.default_rng(2), (4,), 0.05, np.full(len(BATCHES), 5.0))
    found = compute_critical_batch_size(times, BATCHES, np.zeros(len(BATCHES), dtype=bool))
    assert found.size.interval[0] == 0
    assert found.says.startswith("Bc < ")


def test_censored_times_raise_the_estimate_no_more_than_they_say():
    # S at the largest batch sizes is only known to exceed a budget that the truth exceeds too.
    rng = np.random.default_rng(4)
    batches = np.array([16.0, 32, 64, 128, 256, 512])
    true = curve(100.0, batches)
    censored = np.array([False] * 4 + [True] * 2)
    times = noisy(rng, (400,), 0.05, true)
    times[:, censored] = true[censored] - 0.02
    with_bounds = np.exp(fit_log_size(times, batches, censored, 0.05))
    without = np.exp(fit_log_size(times[:, ~censored], batches[~censored]))
    assert np.median(with_bounds) == pytest.approx(100, rel=0.1)
    assert with_bounds.std() < without.std(), "the bounds say something"
    ignored = np.exp(fit_log_size(times - 1.0 * censored, batches))
    assert np.median(ignored) > 150, "a bound taken for a time says there is more to gain than there is"


def test_lack_of_fit_is_reported_and_rarely_without_cause():
    rng = np.random.default_rng(5)
    seen = np.zeros(len(BATCHES), dtype=bool)
    alarms = [compute_critical_batch_size(noisy(rng, (4,)), BATCHES, seen).lack_of_fit_p < 0.05 for _ in range(400)]
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.03)
    bent = curve() + 0.4 * np.sin(np.arange(len(BATCHES)))
    found = compute_critical_batch_size(noisy(rng, (4,), mean=bent), BATCHES, seen)
    assert found.lack_of_fit_p < 1e-3
    assert "lack-of-fit" in {warning.code for warning in found.size.warnings}


def test_two_batch_sizes_fit_and_warn_one_is_refused():
    times = noisy(np.random.default_rng(6), (3,))
    two = compute_critical_batch_size(times[:, :2], BATCHES[:2], np.zeros(2, dtype=bool))
    assert "two-batch-sizes" in {warning.code for warning in two.size.warnings}
    one = compute_critical_batch_size(times[:, :1], BATCHES[:1], np.zeros(1, dtype=bool))
    assert one.size.refused.code == "few-batch-sizes"
    assert np.isnan(one.steps(BATCHES)).all()


def test_one_seed_has_no_interval():
    found = compute_critical_batch_size(curve()[None], BATCHES, np.zeros(len(BATCHES), dtype=bool))
    assert found.size.interval is None
    assert "single-seed" in {warning.code for warning in found.size.warnings}
    assert found.steps(BATCHES) == pytest.approx(np.exp(curve()), rel=1e-3)


def test_a_noise_that_all_batch_sizes_share_leaves_the_critical_batch_size_alone():
    """Seeds are resampled, as it were, whole; rliable and others would resample each batch size by itself."""
    times = curve() + np.random.default_rng(7).standard_normal((5, 1))
    low, high = size_interval(times, BATCHES)
    assert (low, high) == pytest.approx((TRUE, TRUE), rel=0.01)


def test_the_linearised_sizes_of_the_seeds_average_to_the_fit():
    times = noisy(np.random.default_rng(8), (6,))
    fitted = fit_log_size(times.mean(axis=0, keepdims=True), BATCHES)[0]
    assert seed_log_sizes(times, BATCHES, fitted).mean() == pytest.approx(fitted, abs=1e-3)


def test_a_shared_size_lies_between_and_gives_equal_curves_equal_scores():
    one, other = curve(500.0), curve(4000.0, s_min=7.0)
    assert 500 < np.exp(shared_log_size([(one, BATCHES), (other, BATCHES)])) < 4000
    at = shared_log_size([(curve(), BATCHES), (curve(s_min=7.0), BATCHES)])
    assert np.exp(at) == pytest.approx(TRUE, rel=0.05)
    scores = [seed_log_sizes(times[None], BATCHES, at)[0] for times in (curve(), curve(s_min=7.0))]
    assert scores[0] == pytest.approx(scores[1])
