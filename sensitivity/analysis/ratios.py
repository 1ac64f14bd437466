"""Ratios of two means over independent blocks, with Fieller's interval and one-sided tests.

A block is drawn independently of the other blocks, such as a seed with all of its configurations. `one` and `other`
contain the mean of each block, paired if both come from the same blocks. The test of the null hypothesis that the ratio
of means is r is Student's t test of one - r other over the blocks (Fieller 1954). It needs no assumption on the
variation between blocks or the dependence of the two means. The interval is unbounded above if the mean of the
denominator is not significantly different from zero.

Arrays: [..., blocks]; leading dimensions are replicates, as in a simulation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from sensitivity.analysis.estimates import Floats


@dataclass(frozen=True, eq=False)
class Moments:
    """Means of `one` and `other` over blocks, and the variances and covariance of these means."""

    one: Floats
    other: Floats
    var_one: Floats
    var_other: Floats
    covariance: Floats
    degrees: int
    """Degrees of freedom: number of blocks minus one."""

    @classmethod
    def paired(cls, one: Floats, other: Floats) -> Moments:
        """Return the moments of two arrays [..., blocks] with the same blocks; at least two blocks are needed."""
        n = one.shape[-1]
        a, b = one.mean(axis=-1), other.mean(axis=-1)
        da, db = one - a[..., None], other - b[..., None]
        scale = n * (n - 1)
        products = ((da * da).sum(axis=-1), (db * db).sum(axis=-1), (da * db).sum(axis=-1))
        return cls(a, b, products[0] / scale, products[1] / scale, products[2] / scale, n - 1)

    @classmethod
    def separate(cls, one: Floats, other: Floats) -> Moments:
        """Return the moments of two arrays [..., blocks] with independent blocks; each needs at least two."""
        n, m = one.shape[-1], other.shape[-1]
        a, b = one.mean(axis=-1), other.mean(axis=-1)
        return cls(a, b, one.var(axis=-1, ddof=1) / n, other.var(axis=-1, ddof=1) / m, np.zeros_like(a), min(n, m) - 1)

    def p_above(self, ratio: float) -> Floats:
        """Return the one-sided p-value of the null hypothesis that the ratio is at most `ratio`."""
        gap = self.one - ratio * self.other
        variance = self.var_one - 2 * ratio * self.covariance + ratio**2 * self.var_other
        known = variance > 1e-15
        t = gap / np.sqrt(np.where(known, variance, 1.0))
        return np.where(known, stdtr(self.degrees, -t), np.nan)

    def p_below(self, ratio: float) -> Floats:
        """Return the one-sided p-value of the null hypothesis that the ratio is at least `ratio`: 1 - p_above."""
        return 1.0 - self.p_above(ratio)

    def interval(self, level: float) -> tuple[Floats, Floats]:
        """Return Fieller's two-sided interval of the ratio at `level`, within [0, infinity]."""
        t2 = float(stdtrit(self.degrees, 0.5 + level / 2)) ** 2
        # The test does not reject the ratios r with curve r^2 - 2 middle r + end <= 0.
        curve = self.other**2 - t2 * self.var_other
        middle = self.one * self.other - t2 * self.covariance
        end = self.one**2 - t2 * self.var_one
        root = np.sqrt(np.maximum(middle**2 - curve * end, 0.0))
        closed = curve > 0
        safe = np.where(closed, curve, 1.0)
        high = np.where(closed, (middle + root) / safe, np.inf)
        # end / (middle + root) is the smaller root in a form that is stable for curve = 0.
        total = middle + root
        low = np.where((end > 0) & (total > 0), end / np.where(total > 0, total, 1.0), 0.0)
        return low, high


def log_ratio_jackknife(parts: Floats, signs: Floats) -> tuple[Floats, Floats]:
    """Return the log of a product of means raised to the powers `signs` [means], and its jackknife standard error.

    `parts` is [..., means, blocks]. The error is infinite if a mean is zero without one of the blocks.
    """
    n = parts.shape[-1]
    total = parts.sum(axis=-1)
    without = (total[..., None] - parts) / (n - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.einsum("...m,m->...", np.log(total / n), signs)
        left_out = np.einsum("...mk,m->...k", np.log(without), signs)
        spread = ((left_out - left_out.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    error = np.sqrt((n - 1) / n * spread)
    return value, np.where(np.isfinite(error), error, np.inf)
