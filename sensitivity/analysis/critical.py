"""The critical batch size: S(B) = Smin (1 + Bc / B), fitted to log S (McCandlish et al. 2018, arXiv 1812.06162).

For B much smaller than Bc, doubling the batch size halves the steps; for B much larger, it saves none. The fit
maximises the likelihood of the intervals that contain each seed's log T (``censored``): between two evaluations, below
the first one, or above the budget.

The interval inverts a test: at the true Bc, the slope of the profile, one number per seed, has mean zero, and the
interval contains the values of Bc at which Student's t does not reject that. Its coverage is correct with few seeds,
where bootstrap percentiles cover too little. It is unbounded if the data stop below Bc and don't distinguish it from
infinity ("Bc > x"). It uses the midpoints at the batch sizes where every interval has two ends, and is widened by
bounds on their bias from the spacing of evaluations (``grain``) and the selection of winners (``nested``).

Arrays: times are log S, [replicates, batches] or [seeds, batches]; B is [batches].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc

from sensitivity.analysis.censored import fit_size
from sensitivity.analysis.estimates import Caution, Estimate, Floats
from sensitivity.analysis.grain import noise_variance
from sensitivity.analysis.intervals import LEVEL, t_half_width

COVERS = "seed noise (inverted Student's t), the spacing of evaluations and the choice of winners"
LACK_OF_FIT = 0.01
"""p-value below which S(B) = Smin (1 + Bc / B) is rejected as a description of the data."""

_POINTS = 600
"""Points of the grid over log Bc; the optimum is interpolated between them."""


@dataclass(frozen=True, kw_only=True)
class CriticalBatchSize:
    """The fitted curve S(B) = Smin (1 + Bc / B) of an optimizer."""

    size: Estimate
    """Bc in examples; infinite if the data scale perfectly, 0 if they don't scale at all."""
    s_min: float
    """Smin, the number of steps in the limit of large batches; NaN without a fit, 0 if Bc is infinite."""
    residual: float
    """Root mean square of the residuals of log S over the batch sizes reached; NaN without a fit."""
    lack_of_fit_p: float
    """p-value of the F test for lack of fit, against the scatter of the seeds; NaN if it can't be tested."""
    says: str
    """The result in words, such as "Bc = 2,000 [1,750, 2,280]" or "Bc > 512"."""

    def steps(self, batch_size: Floats) -> Floats:
        """Return the fitted S at each batch size; NaN without a fit."""
        if not math.isfinite(self.size.value):
            return np.full(np.shape(batch_size), np.nan)
        return np.asarray(self.s_min * (1 + self.size.value / np.asarray(batch_size, dtype=float)))


def size_grid(batch_sizes: Floats) -> Floats:
    """Return the grid over log Bc, from a thousandth of the smallest to a thousand times the largest batch size."""
    return np.linspace(np.log(batch_sizes.min() / 1e3), np.log(batch_sizes.max() * 1e3), _POINTS)


def fit_log_size(log_times: Floats, batch_sizes: Floats) -> Floats:
    """Return the least-squares log Bc of each replicate [replicates]; infinite, of either sign, at an end of the grid.

    `log_times` is [replicates, batches].
    """
    grid = size_grid(batch_sizes)
    loss = _squares(log_times, np.log1p(np.exp(grid)[:, None] / batch_sizes))
    best = loss.argmin(axis=1)
    inner = np.clip(best, 1, len(grid) - 2)
    rows = np.arange(len(loss))
    left, middle, right = (loss[rows, inner + step] for step in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = np.where(bend > 0, 0.5 * (left - right) / np.where(bend > 0, bend, 1.0), 0.0)
    found = grid[inner] + np.clip(shift, -1, 1) * (grid[1] - grid[0])
    return np.where(best == 0, -np.inf, np.where(best == len(grid) - 1, np.inf, found))


def _squares(log_times: Floats, form: Floats) -> Floats:
    """Return the residual sum of squares with log Smin profiled out, [replicates, grid]."""
    y = log_times - log_times.mean(axis=1, keepdims=True)
    f = form - form.mean(axis=1, keepdims=True)
    return np.asarray((y**2).sum(axis=1)[:, None] - 2 * y @ f.T + (f**2).sum(axis=1))


def size_interval(
    log_times: Floats,
    batch_sizes: Floats,
    widen: float = 1.0,
    bias: Floats | None = None,
    level: float = LEVEL,
) -> tuple[float, float] | None:
    """Return the confidence interval of Bc from log S [seeds, batches], all reached.

    It is None below two seeds or batch sizes, and if all seeds agree and `bias` is zero. `widen` is a factor on the
    width of the interval; `bias` [batches] bounds the bias of the means of `log_times`.

    The derivative of a seed's sum of squares by log Bc, with log Smin profiled out, is proportional to
    sum_i (d_i - mean d) (y_i - f_i), where f = log(1 + Bc/B) and d is its derivative. The interval contains the values
    of Bc at which Student's t does not reject that its mean is zero.
    """
    n = len(log_times)
    off = np.zeros(log_times.shape[1]) if bias is None else bias
    if n < 2 or log_times.shape[1] < 2 or (np.ptp(log_times, axis=0).max() == 0 and not off.any()):
        return None
    grid = size_grid(batch_sizes)
    ratio = np.exp(grid)[:, None] / batch_sizes
    slope = ratio / (1 + ratio)
    slope = slope - slope.mean(axis=1, keepdims=True)
    scores = (log_times @ slope.T) - (slope * np.log1p(ratio)).sum(axis=1)
    norm = np.linalg.norm(slope, axis=1)  # the slopes vanish towards both ends of the grid; their direction does not
    scores /= norm
    mean = scores.mean(axis=0)
    half = widen * t_half_width(scores.std(axis=0, ddof=1), np.full(len(grid), n), level)
    half = half + np.abs(slope) @ off / norm
    above, below = np.flatnonzero(mean - half > 0), np.flatnonzero(mean + half < 0)
    # The scores fall as Bc grows: values of Bc that are rejected as too small come first, those too large last.
    low = math.exp(_crossing(grid, mean - half, int(above[-1]))) if len(above) else 0.0
    high = math.exp(_crossing(grid, mean + half, int(below[0]) - 1)) if len(below) else math.inf
    return low, high


def _crossing(grid: Floats, values: Floats, left: int) -> float:
    """Return the zero crossing of `values` between the grid points `left` and `left` + 1, clipped to the grid."""
    left = min(max(left, 0), len(grid) - 2)
    span = values[left] - values[left + 1]
    share = values[left] / span if span > 0 else 0.0
    return float(grid[left] + min(max(share, 0.0), 1.0) * (grid[left + 1] - grid[left]))


def lack_of_fit(
    log_times: Floats, batch_sizes: Floats, log_size: float, bias: Floats | None = None
) -> tuple[float, float]:
    """Return the root mean square residual of the mean curve and the p-value of the F test for lack of fit.

    `log_times` is [seeds, batches]. The test compares the residuals, on batches - 2 degrees of freedom, with the
    scatter of the seeds about the mean at each batch size. Residuals within the bound `bias` [batches] are not counted
    as lack of fit.
    """
    n, k = log_times.shape
    bound = np.clip(log_size, *size_grid(batch_sizes)[[0, -1]])
    rest = log_times.mean(axis=0) - np.log1p(np.exp(bound) / batch_sizes)
    rest = rest - rest.mean()
    residual = math.sqrt(float((rest**2).mean()))
    if n < 2 or k < 3:
        return residual, math.nan
    scatter = float(log_times.var(axis=0, ddof=1).mean())
    # A bias of the means shifts the fit too: each residual by what least squares propagates.
    ratio = np.exp(bound) / batch_sizes
    line = np.stack([np.ones(k), ratio / (1 + ratio)], axis=1)
    propagation = np.abs(np.eye(k) - line @ np.linalg.pinv(line))
    left = np.maximum(np.abs(rest) - (0.0 if bias is None else propagation @ bias) - 1e-6, 0.0)
    squares = float((left**2).sum())
    if scatter == 0:
        return residual, math.nan if bias is None or not np.any(bias) else float(squares == 0)
    return residual, float(fdtrc(k - 2, k * (n - 1), n * squares / (k - 2) / scatter))


def describe(size: float, interval: tuple[float, float] | None, batch_sizes: Floats) -> str:
    """Return Bc with its interval in words."""
    if math.isnan(size):
        return "Bc unknown"
    if interval is None:
        largest = f"{batch_sizes.max():,.0f}"
        return f"Bc = {size:,.0f}, without an interval" if math.isfinite(size) else f"Bc above {largest}, it seems"
    low, high = interval
    if math.isinf(high) and low == 0:
        return "Bc undetermined: any value fits"
    if math.isinf(high):
        return f"Bc > {low:,.0f}"
    if low == 0:
        return f"Bc < {high:,.0f}"
    return f"Bc = {size:,.0f} [{low:,.0f}, {high:,.0f}]"


def compute_critical_batch_size(
    low: Floats, high: Floats, batch_sizes: Floats, *, widen: float = 1.0, bias: Floats | None = None
) -> CriticalBatchSize:
    """Fit the curve to the intervals (`low`, `high`] of each seed's log T, [seeds, batches].

    Minus infinity and infinity mark intervals without that end; NaN marks a seed without a time at a batch size.
    `widen` is a factor on the width of the confidence interval (``winners``); `bias` [batches] bounds the bias of the
    means of midpoints.
    """
    timed = np.asarray((np.isfinite(low) & np.isfinite(high)).all(axis=0))
    n, k = len(low), int(timed.sum())
    if k < 2 or n == 0:
        text = f"The target was timed at {k} batch size{'' if k == 1 else 's'}; a critical batch size needs two."
        return CriticalBatchSize(
            size=Estimate(value=math.nan, n=n, refused=Caution(code="few-batch-sizes", text=text)),
            s_min=math.nan,
            residual=math.nan,
            lack_of_fit_p=math.nan,
            says="Bc unknown",
        )
    cautions = []
    reached, sizes = (low[:, timed] + high[:, timed]) / 2, batch_sizes[timed]
    off = np.zeros(k) if bias is None else bias[timed]
    log_size = _likeliest(low, high, batch_sizes, timed)
    residual, p = lack_of_fit(reached, sizes, log_size, off)
    interval = size_interval(reached, sizes, widen, off)
    if k == 2:
        text = "Two batch sizes determine the curve and can't contradict it."
        cautions.append(Caution(code="two-batch-sizes", text=text))
    if p < LACK_OF_FIT:
        cautions.append(
            Caution(
                code="lack-of-fit",
                text=f"S(B) = Smin (1 + Bc/B) doesn't describe these times (F test, p = {p:.2g}; residuals of"
                f" {100 * residual:.0f}%): Bc summarises them, but does not predict other batch sizes.",
            )
        )
    if n == 1:
        cautions.append(Caution(code="single-seed", text="One seed: the critical batch size has no interval."))
    size = float(np.exp(log_size))
    if interval is not None:  # one-sided times enter the point estimate only, which may then lie outside the interval
        interval = (min(interval[0], size), max(interval[1], size))
    level = float((reached.mean(axis=0) - np.log1p(size / sizes)).mean()) if math.isfinite(size) else -math.inf
    return CriticalBatchSize(
        size=Estimate(
            value=size, interval=interval, n=n, covers="" if interval is None else COVERS, warnings=tuple(cautions)
        ),
        s_min=math.exp(level),
        residual=residual,
        lack_of_fit_p=p,
        says=describe(size, interval, sizes),
    )


def _likeliest(low: Floats, high: Floats, batch_sizes: Floats, timed: NDArray[np.bool_]) -> float:
    """Return the maximum-likelihood log Bc; the noise is estimated at the batch sizes that all seeds timed."""
    width = high[:, timed] - low[:, timed]
    noise = noise_variance((low[:, timed] + high[:, timed]) / 2, width)
    # Without noise the likelihood is flat between two evaluations: noise of 0.3 grains makes its maximum unique.
    sigma = max(math.sqrt(noise), 0.3 * float(width.mean()), 0.01)
    known = ~np.isnan(low) & ~np.isnan(high)
    sizes = np.broadcast_to(batch_sizes, low.shape)[known]
    grid = size_grid(batch_sizes[timed])
    lower, upper = low[known], np.maximum(high[known], low[known] + 1e-6)
    return fit_size(lower, upper, sizes, sigma, (float(grid[0]), float(grid[-1])))
