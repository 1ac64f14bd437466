"""The ratio of two critical batch sizes, paired by seed: a test, and the interval by inversion of that test.

To test a ratio rho, both curves are fitted with critical batch sizes of that ratio, each with its own Smin. Each seed's
times are linearised about that fit: the deviation of its log Bc of one optimizer from the fit, minus that of the other.
If the ratio is true, these differences have mean zero, whatever the seeds have in common and whatever the two sizes: if
the data don't bound a size, the interval is unbounded, and the test remains valid. The interval contains the ratios
that are not rejected.

Arrays: log times are [seeds, batches], each optimizer with its own batch sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sensitivity.analysis.critical import fit_log_size, size_grid
from sensitivity.analysis.estimates import Estimate, Floats
from sensitivity.analysis.intervals import t_half_width
from sensitivity.analysis.paired import ALPHA, PairedComparison, claim_p, decide, one_sided_t

COVERS = "seed noise (inverted Student's t), the spacing of evaluations and the choice of winners"
_RATIOS = np.linspace(-9.2, 9.2, 47)
"""Grid of log ratios on which the ends of an interval are searched: ratios up to ten thousand."""
_HALVINGS = 12


@dataclass(frozen=True, eq=False)
class LogTimes:
    """Log times of an optimizer's winners at the batch sizes that were timed."""

    times: Floats
    """[seeds, batches] log T of the winner."""
    batch_sizes: Floats
    """[batches]"""
    bias: Floats
    """[batches] bound on the bias of the means of `times`."""


@dataclass(frozen=True, eq=False)
class _Test:
    """Test statistics of a ratio."""

    differences: Floats
    """[seeds] linearised deviation of each seed's log ratio from the tested one."""
    bias: float
    """Bound on the bias of their mean."""


def compare_sizes(
    one: LogTimes,
    other: LogTimes,
    seeds: Sequence[int],
    *,
    candidate: str,
    reference: str,
    margin: float,
    widen: float = 1.0,
    widen_equivalence: float = 1.0,
    alpha: float = ALPHA,
) -> PairedComparison:
    """Compare the critical batch sizes of two optimizers, `one` over `other`; their rows are the same `seeds`.

    The effect is the log ratio. See ``paired.compare`` for the other arguments.
    """
    test = _tester(one, other)
    value = _size(one) - _size(other)
    upward = value > 0 if not math.isnan(value) else test(0.0).differences.mean() > 0
    at = value if math.isfinite(value) and abs(value) < _RATIOS[-1] else 0.0
    above, below = test(margin), test(-margin)
    beyond = above if upward else below
    side = 1.0 if upward else -1.0
    outside = (side * beyond.differences).mean() > 0
    enough = claim_p(side * beyond.differences, bias=beyond.bias, widen=widen)
    p = enough if outside or math.isnan(enough) else 1.0
    equal = math.nan
    if len(seeds) > 1 and (np.ptp(above.differences) > 0 or above.bias > 0):
        equal = max(
            one_sided_t(-above.differences - above.bias, widen_equivalence),
            one_sided_t(below.differences - below.bias, widen_equivalence),
        )
    centre = test(at)
    return PairedComparison(
        candidate=candidate,
        reference=reference,
        label="log ratio of critical batch sizes",
        batch_size=None,
        seeds=tuple(seeds),
        differences=tuple(float(at + d) for d in centre.differences),
        effect=_estimate(test, at + float(centre.differences.mean()), len(seeds), widen, alpha),
        p=p,
        p_holm=math.nan,
        margin=margin,
        p_equivalence=equal,
        answer=decide(p, equal, upward, alpha),
        bias=centre.bias,
    )


def _size(arm: LogTimes) -> float:
    return float(fit_log_size(arm.times.mean(axis=0, keepdims=True), arm.batch_sizes)[0])


def _tester(one: LogTimes, other: LogTimes) -> Callable[[float], _Test]:
    """Return a function that computes the test statistics of a log ratio."""
    grid = size_grid(np.concatenate([one.batch_sizes, other.batch_sizes]))[::2]

    def test(log_ratio: float) -> _Test:
        sizes = (grid, grid - log_ratio)
        best = int((_loss(one, sizes[0]) + _loss(other, sizes[1])).argmin())
        found, bias = [], 0.0
        for arm, size in zip((one, other), sizes, strict=True):
            above, weight = _linearised(arm, size[best : best + 1])
            found.append(above[0])
            bias += float(np.abs(weight[0]) @ arm.bias)
        return _Test(found[0] - found[1], bias)

    return test


def _linearised(arm: LogTimes, log_sizes: Floats) -> tuple[Floats, Floats]:
    """Return the first-order deviation of each seed's log Bc from `log_sizes` [sizes], and the weights of its times.

    They are [sizes, seeds] and [sizes, batches].
    """
    ratio = np.exp(log_sizes)[:, None] / arm.batch_sizes
    slope = ratio / (1 + ratio)
    slope = slope - slope.mean(axis=1, keepdims=True)
    weight = slope / (slope**2).sum(axis=1, keepdims=True)
    return weight @ arm.times.T - (weight * np.log1p(ratio)).sum(axis=1, keepdims=True), weight


@dataclass(frozen=True, eq=False)
class RatioProfile:
    """Test statistics for every ratio on a grid, from which intervals at any level follow."""

    log_ratios: Floats
    """[ratios], evenly spaced."""
    differences: Floats
    """[ratios, seeds] linearised deviation of each seed's log ratio from the tested one."""
    weights: tuple[Floats, Floats]
    """[ratios, batches] weights of the log times, for each optimizer."""

    def interval(self, level: float, bias: Floats, widen: float = 1.0) -> tuple[float, float]:
        """Return the log ratios that Student's t doesn't reject at a two-sided `level`, such as 0.95.

        `bias` [ratios] bounds the bias of the mean difference; `widen` is a factor on its standard error. An end is
        infinite if the data don't bound it.
        """
        count = np.full(len(self.log_ratios), self.differences.shape[1])
        half = bias + widen * t_half_width(self.differences.std(axis=1, ddof=1), count, level)
        mean = self.differences.mean(axis=1)
        above, below = np.flatnonzero(mean - half > 0), np.flatnonzero(mean + half < 0)
        low = self._zero(mean - half, int(above[-1])) if len(above) else -math.inf
        return low, self._zero(mean + half, int(below[0]) - 1) if len(below) else math.inf

    def estimate(self) -> float:
        """Return the log ratio at which the mean difference is zero; infinite if there is none."""
        mean = self.differences.mean(axis=1)
        above = np.flatnonzero(mean > 0)
        return self._zero(mean, int(above[-1])) if len(above) else -math.inf

    def _zero(self, values: Floats, left: int) -> float:
        """Return the zero crossing of falling `values` between the grid points `left` and `left` + 1."""
        if not 0 <= left < len(values) - 1:
            return -math.inf if left < 0 else math.inf
        share = values[left] / (values[left] - values[left + 1])
        return float(self.log_ratios[left] + share * (self.log_ratios[left + 1] - self.log_ratios[left]))


def profile_ratios(one: LogTimes, other: LogTimes) -> RatioProfile:
    """Compute the test statistics of ``compare_sizes`` for every ratio on a grid.

    Sizes and ratios have the same spacing, so that the other optimizer's size under each ratio is a grid point too.
    """
    grid = size_grid(np.concatenate([one.batch_sizes, other.batch_sizes]))[::2]
    spacing = grid[1] - grid[0]
    largest = math.ceil(_RATIOS[-1] / spacing)
    steps = np.arange(-largest, largest + 1)
    wide = grid[0] + spacing * np.arange(-largest, len(grid) + largest)
    losses = [_loss(arm, sizes) for arm, sizes in ((one, grid), (other, wide))]
    # Row m has the other optimizer's losses at grid - log ratio m: the ratios increase as its sizes decrease.
    shifted = np.lib.stride_tricks.sliding_window_view(losses[1], len(grid))[::-1]
    best = (losses[0] + shifted).argmin(axis=1)
    log_ratios = steps * spacing
    found, weights = zip(_linearised(one, grid[best]), _linearised(other, grid[best] - log_ratios), strict=True)
    return RatioProfile(log_ratios, found[0] - found[1], (weights[0], weights[1]))


def _loss(arm: LogTimes, log_sizes: Floats) -> Floats:
    """Return the sum of squared residuals of the mean curve at each size [sizes], over the variance between seeds."""
    noise = max(float(arm.times.var(axis=0).mean()), 1e-6)
    rest = arm.times.mean(axis=0) - np.log1p(np.exp(log_sizes)[:, None] / arm.batch_sizes)
    return np.asarray(((rest**2).mean(axis=1) - rest.mean(axis=1) ** 2) * len(arm.batch_sizes) / noise)


def _estimate(test: Callable[[float], _Test], value: float, n: int, widen: float, alpha: float) -> Estimate:
    if n < 2:
        return Estimate(value=value, n=n)

    def ends(log_ratio: float) -> tuple[float, float]:
        """Return the confidence interval of the mean difference at a log ratio."""
        found = test(log_ratio)
        mean = float(found.differences.mean())
        half = found.bias + widen * float(t_half_width(found.differences.std(ddof=1), n, 1 - alpha))
        return mean - half, mean + half

    tried = np.array([ends(float(log_ratio)) for log_ratio in _RATIOS])
    if np.ptp(tried, axis=1).max() == 0:
        return Estimate(value=value, n=n)
    above, below = np.flatnonzero(tried[:, 0] > 0), np.flatnonzero(tried[:, 1] < 0)
    low = _crossing(lambda x: ends(x)[0], int(above[-1])) if len(above) else -math.inf
    high = _crossing(lambda x: ends(x)[1], int(below[0]) - 1) if len(below) else math.inf
    return Estimate(value=value, interval=(min(low, value), max(high, value)), n=n, covers=COVERS)


def _crossing(falling: Callable[[float], float], left: int) -> float:
    """Return the zero crossing, by bisection, of a falling function between the grid points `left` and `left` + 1."""
    if not 0 <= left < len(_RATIOS) - 1:
        return -math.inf if left < 0 else math.inf
    low, high = float(_RATIOS[left]), float(_RATIOS[left + 1])
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2
