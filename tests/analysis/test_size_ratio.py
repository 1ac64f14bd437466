"""The ratio of two critical batch sizes: its estimate, its interval by inverting the test, and the claims on it."""

import math

import numpy as np
import pytest

from sensitivity.analysis.size_ratio import LogTimes, compare_sizes, profile_ratios

BATCHES = np.array([32.0, 128, 512])
MARGIN = math.log(1.25)
NAMES = {"candidate": "a", "reference": "b", "margin": MARGIN}


def arm(size, noise, rng, seeds=8, s_min=100.0, batches=BATCHES, bias=0.0):
    level = np.log(s_min * (1 + size / batches)) if math.isfinite(size) else math.log(1e5) - np.log(batches)
    times = level + noise * rng.standard_normal((seeds, len(batches)))
    return LogTimes(times, batches, np.full(len(batches), bias))


@pytest.mark.parametrize("ratio", [0.3, 1.0, 4.0])
def test_exact_times_recover_their_ratio_at_any_batch_sizes(ratio):
    rng = np.random.default_rng(0)
    one, other = arm(100 * ratio, 1e-5, rng), arm(100, 1e-5, rng, batches=np.array([16.0, 64, 256, 1024]), s_min=7)
    found = compare_sizes(one, other, range(8), **NAMES)
    assert math.exp(found.effect.value) == pytest.approx(ratio, rel=3e-3)
    assert found.answer == {0.3: "worse", 1.0: "equivalent", 4.0: "better"}[ratio]


def test_an_unbounded_size_opens_the_interval_and_allows_a_claim():
    """One optimizer scales perfectly as far as it was run: its size is above any, and so is the ratio."""
    rng = np.random.default_rng(1)
    found = compare_sizes(arm(math.inf, 0.05, rng), arm(30, 0.05, rng), range(8), **NAMES)
    low, high = found.effect.interval
    assert math.exp(low) > 1.25
    assert math.isinf(high)
    assert math.isfinite(found.effect.value)
    assert found.answer == "better"
    assert compare_sizes(arm(30, 0.05, rng), arm(math.inf, 0.05, rng), range(8), **NAMES).answer == "worse"


def test_the_interval_covers_at_the_margin_and_says_what_the_answer_says():
    rng = np.random.default_rng(2)
    covered, false, studies = 0, 0, 200
    for _ in range(studies):
        noise = 0.1 * rng.standard_normal((8, 1))  # that a seed's runs share
        one, other = arm(125, 0.06, rng), arm(100, 0.06, rng)
        one, other = (LogTimes(of.times + noise, of.batch_sizes, of.bias) for of in (one, other))
        found = compare_sizes(one, other, range(8), **NAMES)
        low, high = found.effect.interval
        covered += low <= MARGIN <= high
        false += found.answer != "undetermined"
        if found.answer == "equivalent":
            assert -MARGIN < low < high < MARGIN
        if found.answer == "better":
            assert low > MARGIN
    assert 0.91 <= covered / studies <= 0.99
    assert false / studies <= 0.08


def test_bias_widens_the_interval_by_its_weighted_sum():
    rng = np.random.default_rng(3)
    one, other = arm(100, 0.02, rng), arm(100, 0.02, rng)
    plain = compare_sizes(one, other, range(8), **NAMES)
    off = compare_sizes(
        *(LogTimes(of.times, of.batch_sizes, np.full(3, 0.02)) for of in (one, other)), range(8), **NAMES
    )
    slope = 100 / (BATCHES + 100)
    weight = (slope - slope.mean()) / ((slope - slope.mean()) ** 2).sum()
    assert off.bias == pytest.approx(2 * 0.02 * np.abs(weight).sum(), rel=0.05)
    wider = np.diff(off.effect.interval) - np.diff(plain.effect.interval)
    assert wider == pytest.approx(2 * off.bias, rel=0.1)
    assert off.effect.value == plain.effect.value


def test_of_one_seed_there_is_an_estimate_alone():
    rng = np.random.default_rng(4)
    found = compare_sizes(arm(100, 0.1, rng, seeds=1), arm(100, 0.1, rng, seeds=1), [0], **NAMES)
    assert found.effect.interval is None
    assert math.isnan(found.p_equivalence)
    assert found.answer == "undetermined"


@pytest.mark.parametrize(
    ("sizes", "seeds"), [((100, 100), 8), ((300, 100), 20), ((100, 5000), 12), ((math.inf, 30), 8)]
)
def test_the_profile_of_all_ratios_agrees_with_the_test_of_one(sizes, seeds):
    """Its interval at 95%, by interpolation on a grid, is the one that bisection finds."""
    rng = np.random.default_rng(4)
    one, other = (arm(size, 0.08, rng, seeds=seeds, bias=0.01) for size in sizes)
    found = compare_sizes(one, other, range(seeds), **NAMES)
    profile = profile_ratios(one, other)
    bias = sum(np.abs(weight) @ own.bias for weight, own in zip(profile.weights, (one, other), strict=True))
    np.testing.assert_allclose(profile.interval(0.95, bias), found.effect.interval, atol=0.01)
    assert profile.interval(0.99, bias)[0] <= found.effect.interval[0]
    if math.isfinite(sizes[0]):
        assert profile.estimate() == pytest.approx(found.effect.value, abs=0.01)
