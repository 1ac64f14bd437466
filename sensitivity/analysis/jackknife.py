"""Shares of a variance with intervals: over seeds, whose noise is taken off, or over draws of configurations.

A share is a ratio of variances, each a mean of squares: noise adds to every one, and Student's t over the shares of the
seeds would be an interval of what includes it. With 10 seeds whose noise is a quarter of the scatter it would hold a
share of .81 in 5% of simulated studies, the jackknife's in 96% (``benchmarks/coverage.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sensitivity.analysis.estimates import Floats
from sensitivity.analysis.intervals import t_half_width
from sensitivity.analysis.rates import TINY

_GROUPS = 10
"""Of draws, each of which the jackknife leaves out in turn."""

Variances = dict[tuple[int, ...], Floats]
Part = tuple[tuple[int, ...], float, float]
"""Hyperparameters, their share of the variance, and half the width of its interval, NaN without one."""


def over_seeds(variances: Callable[[Floats], Variances], scores: Floats) -> list[Part]:
    """Return the parts of the mean over seeds of `scores` [seeds, configurations], without the seeds' noise.

    Noise adds to every variance. `variances` are quadratic in the scores, so their mean over pairs of different seeds,
    whose noises don't correlate, has none of it: that is (n^2 Q(mean) - sum Q(each)) / (n (n - 1)). With one seed it
    stays in. The interval is the jackknife's over seeds, with Student's t; it needs three.
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
    """Return the parts of `scores` [1, configurations] at `x`, with the interval of a jackknife by groups.

    Of fewer draws than twice the groups there is no interval.
    """
    n = len(x)
    group = np.random.default_rng(0).permutation(n) % _GROUPS
    kept = [np.ones(n, dtype=bool), *((group != k) for k in range(_GROUPS if n >= 2 * _GROUPS else 0))]
    found = [variances(x[rows], scores[:, rows]) for rows in kept]
    return _jackknifed({key: np.concatenate([one[key] for one in found]) for key in found[0]})


def _jackknifed(estimates: Variances) -> list[Part]:
    """Return parts from variances [1 + groups], of all data first and then without each group."""
    parts = []
    for key, variance in estimates.items():
        if key:
            total = estimates[()]
            share = np.where(total > 0, variance / np.where(total > 0, total, 1.0), np.nan)
            fewer = share[1:]
            n = len(fewer)
            spread = math.sqrt((n - 1) * float(fewer.var())) if n > 1 else math.nan
            # The jackknife's standard error is that of a mean of n values whose deviation is sqrt(n) times it.
            half = float(t_half_width(math.sqrt(n) * spread if spread > TINY else math.nan, n))
            parts.append((key, float(share[0]), half))
    return parts
