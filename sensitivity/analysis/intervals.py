"""Confidence intervals for proportions and for few seeds (docs/statistics.md, sections 3 and 8).

With few seeds, a percentile bootstrap covers far less than its nominal level (72% with three seeds), so means over
seeds have Student's t interval. A sign-flip test with n seeds has no two-sided p-value below 2^(1-n).
"""

from __future__ import annotations

import math
import sys

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

LEVEL = 0.95
"""Confidence level of the intervals in this package."""
_LARGEST_EXPONENT = math.log(sys.float_info.max)


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Return Wilson's score interval for a proportion (Wilson 1927), both ends in [0, 1].

    It assumes independent draws, so it does not apply to the points of a grid.

    >>> low, high = wilson(5, 5)
    >>> print(f"{low:.3f} to {high:.3f}")
    0.566 to 1.000

    Raises:
        ValueError: `n` is 0, or `successes` is not in [0, n].
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"a proportion needs 0 <= successes <= n and n > 0; got {successes} of {n}")
    low, high = wilson_interval(successes / n, n)
    return float(low), float(high)


def wilson_interval(share: ArrayLike, n: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return Wilson's interval for an array of proportions, each of `n` draws.

    `n` may be fractional: the effective number of draws of a clustered sample.
    """
    z2 = float(ndtri(0.5 + LEVEL / 2)) ** 2
    p, count = np.asarray(share, dtype=float), np.asarray(n, dtype=float)
    centre = (p + z2 / (2 * count)) / (1 + z2 / count)
    half = math.sqrt(z2) / (1 + z2 / count) * np.sqrt(p * (1 - p) / count + z2 / (4 * count**2))
    return np.where(p == 0, 0.0, centre - half), np.where(p == 1, 1.0, centre + half)


def exponential(value: float) -> float:
    """Return e to the power of `value`; infinity on overflow, which the interval of few seeds may cause."""
    return math.inf if value > _LARGEST_EXPONENT else math.exp(value)


def t_half_width(deviation: ArrayLike, n: ArrayLike, level: float = LEVEL) -> NDArray[np.float64]:
    """Return the half-width of Student's t interval for a mean at `level`; NaN below two observations.

    `deviation` is the sample standard deviation (n - 1 in the denominator) of `n` observations; both are
    numbers or arrays of one shape.
    """
    count = np.asarray(n, dtype=float)
    enough = count >= 2
    degrees = np.where(enough, count - 1, 1.0)
    width = stdtrit(degrees, 0.5 + level / 2) * np.asarray(deviation, dtype=float) / np.sqrt(degrees + 1)
    return np.where(enough, width, np.nan)


def smallest_sign_flip_p(n: int) -> float:
    """Return the smallest two-sided p-value that a sign-flip test of `n` paired differences can have."""
    return float(min(1.0, 2.0 ** (1 - n)))
