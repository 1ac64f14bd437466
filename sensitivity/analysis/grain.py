"""Bias of mean log times from the spacing of evaluations, which makes times interval-censored.

The evaluation that meets a target shows that T lies in (previous evaluation, this one]. In log T, that interval has a
width D, the grain. The mean over seeds of the midpoints estimates the mean of log T with a bias that depends on the
position of the true value between two evaluations. If log T is normal with variance v, the bias is a Fourier series in
that position whose k-th harmonic has amplitude D / (pi k) exp(-2 pi^2 k^2 v / D^2): at most D / 2 without noise, and
negligible once the standard deviation of the noise is half the grain. The variance of the midpoints exceeds v by
D^2 / 12 (Sheppard's correction).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import chdtri

from sensitivity.analysis.estimates import Floats

FEWEST_STEPS = 20
"""Below this many steps, one step is more than 5% of the time, whatever the spacing of evaluations."""
_SURE = 0.9
"""Confidence level of the lower bound that is used for the noise: overestimated noise would hide the bias."""
_HARMONICS = np.arange(1, 6)


def bias_bound(values: Floats, widths: Floats) -> float:
    """Return a bound on the bias of the mean of `values` [seeds], the midpoints of intervals of `widths` [seeds].

    It is infinite if an interval has no lower end.
    """
    width = float(np.mean(widths)) if len(widths) else 0.0
    if not 0 < width < math.inf:
        return width if len(widths) else 0.0
    variance, n = 0.0, len(values)
    if n > 1:
        spread = float(np.var(values, ddof=1)) * (n - 1) / float(chdtri(n - 1, 1 - _SURE))
        variance = max(spread - width**2 / 12, 0.0)
    amplitudes = width / (math.pi * _HARMONICS) * np.exp(-2 * math.pi**2 * _HARMONICS**2 * variance / width**2)
    return float(min(width / 2, amplitudes.sum()))


def noise_variance(values: Floats, widths: Floats) -> float:
    """Return the variance over seeds of interval-censored values, from their midpoints and widths [seeds, ...].

    Columns are pooled. It is 0 with one seed, and if the grain explains all scatter.
    """
    if len(values) < 2:
        return 0.0
    return max(float(values.var(axis=0, ddof=1).mean() - (widths**2).mean() / 12), 0.0)
