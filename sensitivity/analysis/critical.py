"""The critical batch size: S(B) = Smin (1 + Bc / B), fitted to log S (McCandlish et al. 2018, arXiv 1812.06162).

At B much below Bc twice the batch halves the steps; much above it, it gains nothing. The fit is least squares in
log S over the batch sizes that were reached; those that were not enter as censored, S being above the budget,
with the probability of that (a Tobit likelihood). log Smin is profiled out and log Bc searched on a grid, so that
thousands of replicates are fitted at once.

Interval: at the true Bc the slope of the profile, one number a seed, has mean zero. The Bc at which Student's t
does not reject that are the interval. It is right with few seeds, where percentiles of resamples fall short, and is
unbounded where data that stop below Bc can't tell it from infinity ("Bc > x"). From ten seeds on it is widened to a
bootstrap that chooses the winners anew (``nested``), where that reaches further.

Arrays: times are log S, [replicates, batches] or [seeds, batches]; B is [batches].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc, log_ndtr

from sensitivity.analysis.estimates import Caution, Estimate, Floats, Interval
from sensitivity.analysis.intervals import t_half_width

COVERS = "seed noise (inverted Student's t)"

_POINTS = 600
"""Of the grid over log Bc; the optimum is interpolated between them."""


@dataclass(frozen=True, kw_only=True)
class CriticalBatchSize:
    """The fitted curve of an optimizer."""

    size: Estimate
    """Bc in examples; infinite where the data scale perfectly, 0 where they don't scale at all."""
    s_min: float
    """Steps that no batch size goes below; NaN without a fit, 0 where Bc is infinite."""
    residual: float
    """Root mean square of the residuals of log S over the batch sizes reached; NaN without."""
    lack_of_fit_p: float
    """p-value of the F test that S(B) has this form, against the seeds' scatter; NaN where it can't be tested."""
    says: str
    """Such as "Bc = 2,000 [1,750, 2,280]" or "Bc > 512"."""

    def steps(self, batch_size: Floats) -> Floats:
        """Return the fitted S at each batch size; NaN without a fit."""
        if not math.isfinite(self.size.value):
            return np.full(np.shape(batch_size), np.nan)
        return np.asarray(self.s_min * (1 + self.size.value / np.asarray(batch_size, dtype=float)))


def size_grid(batch_sizes: Floats) -> Floats:
    """Return the log Bc that are searched: from a thousandth of the smallest batch to a thousand of the largest."""
    return np.linspace(np.log(batch_sizes.min() / 1e3), np.log(batch_sizes.max() * 1e3), _POINTS)


def fit_log_size(
    log_times: Floats, batch_sizes: Floats, censored: NDArray[np.bool_] | None = None, sigma: float = 0.1
) -> Floats:
    """Return log Bc of each replicate [replicates]; infinite, of either sign, at the ends of the grid.

    `censored` [batches] marks times that are lower bounds; `sigma` is the standard deviation of log S, which
    weighs them against the others and without them plays no part.
    """
    grid = size_grid(batch_sizes)
    form = np.log1p(np.exp(grid)[:, None] / batch_sizes)
    hidden = np.zeros(len(batch_sizes), dtype=bool) if censored is None else censored
    seen = ~hidden
    if seen.sum() < 2:
        return np.full(len(log_times), np.nan)
    loss = _squares(log_times[:, seen], form[:, seen]) / 2
    if hidden.any():
        loss = _tobit(log_times, form, hidden, sigma)
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


def _tobit(log_times: Floats, form: Floats, hidden: NDArray[np.bool_], sigma: float) -> Floats:
    """Return minus the log-likelihood times sigma^2 with log Smin profiled out by Newton's method."""
    rest = log_times[:, None, :] - form
    seen, bound = rest[..., ~hidden], rest[..., hidden]
    level = seen.mean(axis=-1, keepdims=True)
    for _ in range(12):  # concave in the level: a handful of steps from the mean of what was seen
        z = (level - bound) / sigma
        hazard = np.exp(-0.5 * z**2 - 0.5 * math.log(2 * math.pi) - log_ndtr(z))
        slope = (seen - level).sum(axis=-1, keepdims=True) / sigma + hazard.sum(axis=-1, keepdims=True)
        bend = seen.shape[-1] + (hazard * (hazard + z)).sum(axis=-1, keepdims=True)
        level = level + sigma * slope / bend
    squares = ((seen - level) ** 2).sum(axis=-1) / 2
    return np.asarray(squares - sigma**2 * log_ndtr((level - bound) / sigma).sum(axis=-1))


def size_interval(log_times: Floats, batch_sizes: Floats, widen: float = 1.0) -> tuple[float, float] | None:
    """Return the 95% interval of Bc from log S [seeds, batches], all reached.

    None below two seeds or batch sizes, and where all seeds agree.

    A seed's slope of the squares by log Bc, log Smin profiled out, is sum_i (d_i - mean d) (y_i - f_i), where
    f = log(1 + Bc/B) and d its derivative. The interval holds the Bc that are not rejected.
    """
    n = len(log_times)
    if n < 2 or log_times.shape[1] < 2 or np.ptp(log_times, axis=0).max() == 0:
        return None
    grid = size_grid(batch_sizes)
    ratio = np.exp(grid)[:, None] / batch_sizes
    slope = ratio / (1 + ratio)
    slope = slope - slope.mean(axis=1, keepdims=True)
    scores = (log_times @ slope.T) - (slope * np.log1p(ratio)).sum(axis=1)
    scores /= np.linalg.norm(slope, axis=1)  # the slopes vanish towards both ends, their direction does not
    mean = scores.mean(axis=0)
    half = widen * t_half_width(scores.std(axis=0, ddof=1), np.full(len(grid), n))
    above, below = np.flatnonzero(mean - half > 0), np.flatnonzero(mean + half < 0)
    # The scores fall as Bc grows: those too small a Bc to be true come first, those too large last.
    low = math.exp(_crossing(grid, mean - half, int(above[-1]))) if len(above) else 0.0
    high = math.exp(_crossing(grid, mean + half, int(below[0]) - 1)) if len(below) else math.inf
    return low, high


def _crossing(grid: Floats, values: Floats, left: int) -> float:
    """Return where `values` cross zero between the grid points `left` and `left` + 1; the end, if it has no next."""
    left = min(max(left, 0), len(grid) - 2)
    span = values[left] - values[left + 1]
    share = values[left] / span if span > 0 else 0.0
    return float(grid[left] + min(max(share, 0.0), 1.0) * (grid[left + 1] - grid[left]))


def seed_log_sizes(log_times: Floats, batch_sizes: Floats, log_size: float) -> Floats:
    """Return log Bc as each seed has it, linearised at `log_size`: [seeds].

    Their mean is `log_size` where that is the fit of the mean of `log_times` [seeds, batches]; and wherever it is,
    two optimizers with this Bc have equal expectations, which makes it a score test of equal Bc.
    """
    ratio = np.exp(log_size) / batch_sizes
    slope = ratio / (1 + ratio)
    slope = slope - slope.mean()
    return np.asarray(log_size + (log_times - np.log1p(ratio)) @ slope / (slope @ slope))


def shared_log_size(curves: Sequence[tuple[Floats, Floats]]) -> float:
    """Return log Bc of several curves that share it, each (log S [batches], B [batches]) with its own Smin."""
    sizes = np.concatenate([batch_sizes for _, batch_sizes in curves])
    grid = size_grid(sizes)
    loss = sum(
        (_squares(times[None, :], np.log1p(np.exp(grid)[:, None] / batches))[0] for times, batches in curves),
        start=np.zeros(len(grid)),
    )
    return float(grid[loss.argmin()])


def lack_of_fit(log_times: Floats, batch_sizes: Floats, log_size: float) -> tuple[float, float]:
    """Return the residual of the mean curve (root mean square) and the p-value of the F test for lack of fit.

    `log_times` is [seeds, batches]. The test compares the residuals, on batches - 2 degrees of freedom, with the
    seeds' scatter about each batch size's mean.
    """
    n, k = log_times.shape
    bound = np.clip(log_size, *size_grid(batch_sizes)[[0, -1]])
    rest = log_times.mean(axis=0) - np.log1p(np.exp(bound) / batch_sizes)
    squares = float(((rest - rest.mean()) ** 2).sum())
    residual = math.sqrt(squares / k)
    if n < 2 or k < 3:
        return residual, math.nan
    scatter = float(log_times.var(axis=0, ddof=1).mean())
    if scatter == 0:
        return residual, math.nan
    return residual, float(fdtrc(k - 2, k * (n - 1), n * squares / (k - 2) / scatter))


def describe(size: float, interval: tuple[float, float] | None, batch_sizes: Floats) -> str:
    """Return Bc as a sentence would have it."""
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
    log_times: Floats,
    batch_sizes: Floats,
    censored: NDArray[np.bool_],
    *,
    widen: float = 1.0,
    nested: Interval | None = None,
) -> CriticalBatchSize:
    """Fit the curve to log S [seeds, batches]; `censored` [batches] marks lower bounds.

    The interval and the test of fit use the batch sizes that were reached. `widen` is a factor on the interval's width
    (``winners``), and `nested` an interval that it contains.
    """
    seen = ~censored
    n, k = len(log_times), int(seen.sum())
    if k < 2 or n == 0:
        text = f"The target was reached at {k} batch size{'' if k == 1 else 's'}; a critical batch size needs two."
        return CriticalBatchSize(
            size=Estimate(value=math.nan, n=n, refused=Caution(code="few-batch-sizes", text=text)),
            s_min=math.nan,
            residual=math.nan,
            lack_of_fit_p=math.nan,
            says="Bc unknown",
        )
    said = []
    reached, sizes = log_times[:, seen], batch_sizes[seen]
    scatter = float(reached.var(axis=0, ddof=1).mean()) if n > 1 else 0.0
    sigma = max(math.sqrt(scatter / n), 0.01)  # a likelihood of zero width has no optimum
    log_size = float(fit_log_size(log_times.mean(axis=0, keepdims=True), batch_sizes, censored, sigma)[0])
    residual, p = lack_of_fit(reached, sizes, log_size)
    interval = size_interval(reached, sizes, widen)
    if k == 2:
        said.append(Caution(code="two-batch-sizes", text="Two batch sizes fix the curve and can't contradict it."))
    if p < 0.05:
        said.append(
            Caution(
                code="lack-of-fit",
                text=f"S(B) = Smin (1 + Bc/B) doesn't describe these times (F test, p = {p:.2g}; residuals of"
                f" {100 * residual:.0f}%): take Bc as a summary, not as a law.",
            )
        )
    if n == 1:
        said.append(Caution(code="single-seed", text="One seed: the critical batch size has no interval."))
    size = float(np.exp(log_size))
    if interval is not None:  # the point lies within, but for the censored batch sizes, which only push it up
        low, high = nested or interval
        interval = (min(interval[0], low, size), max(interval[1], high, size))
    level = float((reached.mean(axis=0) - np.log1p(size / sizes)).mean()) if math.isfinite(size) else -math.inf
    return CriticalBatchSize(
        size=Estimate(
            value=size,
            interval=interval,
            n=n,
            covers=""
            if interval is None
            else COVERS + (" and the choice of winners (nested bootstrap)" if nested else ""),
            warnings=tuple(said),
        ),
        s_min=math.exp(level),
        residual=residual,
        lack_of_fit_p=p,
        says=describe(size, interval, sizes),
    )
