"""The censored likelihoods against scipy's, written independently of them."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from sensitivity.analysis.censored import fit_size, log_probability, profile
from sensitivity.analysis.grain import bias_bound, noise_variance

BATCHES = np.array([16.0, 32, 64, 128, 256])
TRUE = 100.0


def test_probabilities_of_intervals_are_scipys_far_into_both_tails():
    low = np.array([-np.inf, -1.0, 0.3, 2.0, -40.0, 30.0, -0.001])
    high = np.array([0.5, 1.0, 0.31, np.inf, -39.0, 31.0, 0.001])
    exact = []
    for a, b in zip(low, high, strict=True):
        one, other = (
            (stats.norm.logcdf(a), stats.norm.logcdf(b)) if a < 0 else (stats.norm.logsf(b), stats.norm.logsf(a))
        )
        exact.append(other + math.log1p(-math.exp(one - other)))
    assert log_probability(low, high) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("kinds", ["interval", "left", "right", "all"])
def test_the_level_is_that_of_scipys_censored_fit(kinds):
    rng = np.random.default_rng(1)
    exact = 3.0 + 0.2 * rng.standard_normal(40)
    low, high = np.floor(exact * 5) / 5, np.ceil(exact * 5) / 5
    if kinds in ("left", "all"):
        low, high = np.where(exact < 2.9, -np.inf, low), np.where(exact < 2.9, 2.9, high)
    if kinds in ("right", "all"):
        low, high = np.where(exact > 3.2, 3.2, low), np.where(exact > 3.2, np.inf, high)
    ends = np.isfinite(low) & np.isfinite(high)
    data = stats.CensoredData(
        left=high[~np.isfinite(low)], right=low[~np.isfinite(high)], interval=np.stack([low[ends], high[ends]], axis=1)
    )
    mean, _ = stats.norm.fit(data, fscale=0.2)
    level, log_likelihood = profile(low, high, np.zeros((1, 40)), 0.2)
    assert level[0] == pytest.approx(mean, abs=2e-4)
    assert log_likelihood[0] == pytest.approx(log_probability((low - mean) / 0.2, (high - mean) / 0.2).sum(), abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_critical_batch_size_maximises_a_likelihood_from_scipy(seed):
    rng = np.random.default_rng(seed)
    sizes = np.repeat(BATCHES, 5)
    exact = np.log(50 * (1 + TRUE / sizes)) + 0.1 * rng.standard_normal(len(sizes))
    high = np.ceil(exact / 0.1) * 0.1
    low = high - 0.1
    low, high = np.where(sizes == 16, np.log(100), low), np.where(sizes == 16, np.inf, high)  # above a budget
    low, high = np.where(sizes == 256, -np.inf, low), np.where(sizes == 256, high + 0.3, high)  # below an evaluation

    def loss(at):
        mean = at[0] + np.log1p(np.exp(at[1]) / sizes)
        return -np.log(stats.norm.cdf(high, mean, 0.1) - stats.norm.cdf(low, mean, 0.1)).sum()

    found = optimize.minimize(loss, [math.log(50), math.log(TRUE)], method="Nelder-Mead", options={"xatol": 1e-6})
    ours = fit_size(low, high, sizes, 0.1, (math.log(0.016), math.log(256_000)))
    assert ours == pytest.approx(found.x[1], abs=2e-3)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.2, 0.3, 0.5])
def test_the_grain_biases_means_of_middles_by_no_more_than_its_bound(noise):
    """In units of the grain, over all places of the truth between two evaluations, by integration."""
    at = np.linspace(-0.5, 0.5, 41)
    bins = np.arange(-8, 9)
    chance = np.diff(stats.norm.cdf((np.arange(-8.5, 9.5) - at[:, None]) / max(noise, 1e-9)), axis=1)
    worst = np.abs(chance @ bins - at).max()
    exact = [np.pi * k for k in (1, 2, 3, 4, 5)]
    bound = min(0.5, sum(math.exp(-2 * (p * noise) ** 2) / p for p in exact))
    assert worst <= bound + 1e-3
    many = np.round(noise * np.random.default_rng(0).standard_normal(20_000) + 0.2)
    assert noise_variance(many, np.ones(20_000)) == pytest.approx(noise**2, abs=0.06 if noise < 0.5 else 0.01)
    assert bias_bound(many, np.ones(20_000)) >= min(worst, 0.5) - (0.06 if noise < 0.3 else 0.01)


def test_of_few_seeds_the_noise_is_taken_for_small_so_that_the_bound_is_large():
    values = np.array([0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    few, many = bias_bound(values, np.ones(6)), bias_bound(np.tile(values, 20), np.ones(120))
    assert few > many
    assert bias_bound(np.zeros(6), np.ones(6)) == 0.5
    assert bias_bound(np.zeros(6), np.full(6, np.inf)) == math.inf
    assert bias_bound(np.zeros(0), np.zeros(0)) == 0
