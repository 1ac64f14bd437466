"""Shares of a variance with jackknife intervals, over seeds with their noise subtracted, or over draws.

A share is a ratio of variances, and noise adds to each of them, so Student's t over the shares of single seeds would be
an interval of a biased quantity. With 10 seeds whose noise is a quarter of the scatter, it would contain a true share
of .81 in 5% of simulated studies, the jackknife's interval in 96% (``benchmarks/coverage.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sensitivity.analysis.estimates import Floats
from sensitivity.analysis.intervals import t_half_width
from sensitivity.analysis.rates import TINY

_GROUPS = 10
"""Number of groups of draws; the jackknife leaves out one at a time."""

Variances = dict[tuple[int, ...], Floats]
Part = tuple[tuple[int, ...], float, float]
"""Hyperparameters, their share of the variance, and the half-width of its interval, NaN without one."""


def over_seeds(variances: Callable[[Floats], Variances], scores: Floats) -> list[Part]:
    """Return the shares of the variance of the mean over seeds of `scores` [seeds, configurations], without seed noise.

    `variances` is quadratic in the scores, so its mean over pairs of different seeds, whose noise is uncorrelated, is
    free of the noise: (n^2 Q(mean) - sum Q(each)) / (n (n - 1)). With one seed the noise remains. The interval is that
    of the jackknife over seeds, with Student's t; it needs three seeds.
    """
    n = len(scores)
    mean = scores.mean(axis=0, keepdims=True)
    others = (n * mean - scores) / max(n - 1, 1)
    found = variances(np.concatenate([scores, mean, others]))
    estimates = {}
    for key, values in found.items():
        each, whole, without = values[:n], values[n], values[n + 1 :]
        if n == 1:
            estimates[key] = np.array([whole])
            continue
        estimate = (n**2 * whole - each.sum()) / (n * (n - 1))
        fewer = ((n - 1) ** 2 * without - (each.sum() - each)) / max((n - 1) * (n - 2), 1)
        estimates[key] = np.append(estimate, fewer if n > 2 else [])
    return _jackknifed(estimates)


def over_draws(variances: Callable[[Floats, Floats], Variances], x: Floats, scores: Floats) -> list[Part]:
    """Return the shares of the variance of `scores` [1, configurations] at `x`, with a grouped jackknife's interval.

    `x` is [configurations, dimensions]. There is no interval with fewer than two draws per group.
    """
    n = len(x)
    group = np.random.default_rng(0).permutation(n) % _GROUPS
    kept = [np.ones(n, dtype=bool), *((group != k) for k in range(_GROUPS if n >= 2 * _GROUPS else 0))]
    found = [variances(x[rows], scores[:, rows]) for rows in kept]
    return _jackknifed({key: np.concatenate([one[key] for one in found]) for key in found[0]})


def _jackknifed(estimates: Variances) -> list[Part]:
    """Return the shares from variances [1 + groups]: of all data, then without each group in turn."""
    parts = []
    for key, variance in estimates.items():
        if key:
            total = estimates[()]
            share = np.where(total > 0, variance / np.where(total > 0, total, 1.0), np.nan)
            fewer = share[1:]
            n = len(fewer)
            spread = math.sqrt((n - 1) * float(fewer.var())) if n > 1 else math.nan
            # `t_half_width` divides by sqrt(n); `spread` already is the jackknife's standard error.
            half = float(t_half_width(math.sqrt(n) * spread if spread > TINY else math.nan, n))
            parts.append((key, float(share[0]), half))
    return parts
