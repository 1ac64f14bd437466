"""What the spacing of evaluations hides: means of logarithms that are only known to lie in intervals.

An evaluation says that T lies in (previous evaluation, this one]. On the scale of log T that interval has a width D,
the grain. The mean of the intervals' midpoints over seeds estimates the mean of log T with a bias that depends on
where the truth lies between two evaluations. If log T is normal with variance v, the bias is a Fourier series in that
position, of amplitude D / (pi k) exp(-2 pi^2 k^2 v / D^2) for the k-th harmonic: D / 2 without noise, and nothing
once the noise is half as large as the grain. The scatter of the midpoints is larger than v by D^2 / 12 (Sheppard's
correction).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import chdtri

from sensitivity.analysis.estimates import Floats

FEWEST_STEPS = 20
"""Below so many steps a whole step is more than 5% of the time, whatever the spacing of evaluations."""
_SURE = 0.9
"""Confidence with which the noise is at least as large as it is taken to be: a noise taken for too large would hide the
grain's bias."""
_HARMONICS = np.arange(1, 6)


def bias_bound(values: Floats, widths: Floats) -> float:
    """Return how far the mean of `values` [seeds], midpoints of intervals of `widths`, may be off for the grain.

    It is infinite where an interval has no lower end.
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
    """Return the variance over seeds of what lies in intervals, from midpoints and widths [seeds, ...] of each column.

    Columns are pooled; 0 with one seed, and where the grain explains all scatter.
    """
    if len(values) < 2:
        return 0.0
    return max(float(values.var(axis=0, ddof=1).mean() - (widths**2).mean() / 12), 0.0)
