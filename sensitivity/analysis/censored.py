"""Maximum likelihood of S(B) = Smin (1 + Bc / B) for interval-censored times (Tobit model, interval regression).

Each observation is an interval (low, high] of log T: between two evaluations; without a lower end if the first
evaluation meets the target; without an upper end if the budget was spent. log T is normal about the curve with a given
standard deviation. Newton's method profiles out log Smin, and a grid search, refined once, finds log Bc.

Arrays: low and high are [observations], in natural logarithms; the form log(1 + Bc / B) is [grid, observations].
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import log_ndtr

from sensitivity.analysis.estimates import Floats

_COARSE, _FINE = 61, 41
_STEPS = 30
_LOG_ROOT = 0.5 * math.log(2 * math.pi)


def log_probability(low: Floats, high: Floats) -> Floats:
    """Return the log probability that a standard normal variable lies in (low, high]."""
    # In the upper tail, both distribution functions round to 1: reflect the interval into the lower tail.
    flip = low > 0
    a, b = np.where(flip, -high, low), np.where(flip, -low, high)
    upper, lower = log_ndtr(b), log_ndtr(a)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(upper + np.log(-np.expm1(np.minimum(lower - upper, -1e-300))))


def profile(low: Floats, high: Floats, form: Floats, sigma: float) -> tuple[Floats, Floats]:
    """Return the log Smin of maximum likelihood and that log-likelihood for each row of `form`: [grid] each."""
    start = np.where(np.isfinite(low), np.where(np.isfinite(high), (low + high) / 2, low), high)
    level = (start - form).mean(axis=-1, keepdims=True)
    a = b = log_p = np.empty(())
    for _ in range(_STEPS):  # the log-likelihood is concave in the level
        a, b = (low - form - level) / sigma, (high - form - level) / sigma
        log_p = log_probability(a, b)
        at_low, at_high = np.exp(-0.5 * a**2 - _LOG_ROOT - log_p), np.exp(-0.5 * b**2 - _LOG_ROOT - log_p)
        slope = at_low - at_high
        bend = _times(b, at_high) - _times(a, at_low) + slope**2
        step = sigma * slope.sum(axis=-1, keepdims=True) / np.maximum(bend.sum(axis=-1, keepdims=True), 1e-12)
        # Far from the optimum the tails are nearly flat: limit the step to a few standard deviations.
        step = np.clip(step, -5 * sigma, 5 * sigma)
        level = level + step
        if np.abs(step).max() < 1e-9:
            break
    return level[..., 0], log_p.sum(axis=-1)


def _times(z: Floats, density: Floats) -> Floats:
    return np.where(np.isfinite(z), z, 0.0) * density


def fit_size(low: Floats, high: Floats, batch_sizes: Floats, sigma: float, ends: tuple[float, float]) -> float:
    """Return the maximum-likelihood log Bc between `ends`; infinite, of either sign, if the maximum is at an end.

    `batch_sizes` is [observations].
    """
    grid = np.linspace(*ends, _COARSE)
    best = int(_likelihood(low, high, batch_sizes, sigma, grid).argmax())
    if best in (0, _COARSE - 1):
        return -math.inf if best == 0 else math.inf
    fine = np.linspace(grid[best - 1], grid[best + 1], _FINE)
    found = _likelihood(low, high, batch_sizes, sigma, fine)
    top = int(np.clip(found.argmax(), 1, _FINE - 2))
    left, middle, right = found[top - 1 : top + 2]
    bend = left - 2 * middle + right
    shift = float(np.clip(0.5 * (left - right) / bend, -1, 1)) if bend < 0 else 0.0
    return float(fine[top] + shift * (fine[1] - fine[0]))


def _likelihood(low: Floats, high: Floats, batch_sizes: Floats, sigma: float, grid: Floats) -> Floats:
    return profile(low, high, np.log1p(np.exp(grid)[:, None] / batch_sizes), sigma)[1]
