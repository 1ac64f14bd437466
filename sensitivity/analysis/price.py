"""The price of tuning: the expected cost of random search until a setting reaches the target.

p is the probability that a setting drawn from an optimizer's declared box, with a random seed, reaches the target
within the budget. The expected number of trials until one succeeds is 1/p, and they cost (mean cost of a draw)/p, in
FLOPs and in device-seconds; diverged and failed draws count with their cost. A further hyperparameter reduces p if it
has to be tuned, and leaves p unchanged if it is inert, however wide its box. The price is therefore comparable between
optimizers with different numbers of hyperparameters, which decades per dimension are not (docs/statistics.md,
section 4b). It depends on the box, which is reported with it.

Over batch sizes, p is averaged: it is the probability for a batch size drawn at random from those studied. The mean of
log p, the alternative, is undefined if a single batch size has no success.

p has Wilson's interval, on the effective number of draws from the scatter of independent blocks (``draws``); costs and
ratios of prices have Fieller's (``ratios``), and ratios of costs a jackknife's, all over the same blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from sensitivity.analysis.draws import Draws
from sensitivity.analysis.estimates import NO_SCATTER, Caution, Estimate, Floats, Interval
from sensitivity.analysis.intervals import LEVEL, exponential, t_half_width, wilson_interval
from sensitivity.analysis.rates import OF_SEEDS, TINY
from sensitivity.analysis.ratios import Moments, log_ratio_jackknife

OF_PRICE = {
    "seeds": "the draw of settings and seeds (blocks are seeds)",
    "configurations": "the draw of settings, for the seeds that ran (blocks are configurations)",
}


@dataclass(frozen=True, kw_only=True)
class TuningPrice:
    """The price of tuning of an optimizer."""

    optimizer: str
    batch_size: int | None
    """None for the mean over all batch sizes."""
    prior: str
    """The prior distribution of settings, in words."""
    draws: int
    """With a result."""
    reached: int
    success: Estimate
    """p."""
    trials: Estimate
    """1/p; without a success NaN, and its interval has a lower bound only."""
    flops: Estimate
    """Expected until a setting works."""
    seconds: Estimate
    """Device-seconds, evaluation included."""
    warnings: tuple[Caution, ...]
    refused: Caution | None


@dataclass(frozen=True, kw_only=True)
class PriceRatio:
    """Price of tuning the candidate as a multiple of the price of tuning the reference."""

    candidate: str
    reference: str
    batch_size: int | None
    trials: Estimate
    flops: Estimate
    seconds: Estimate


def compute_prices(draws: Sequence[Draws]) -> tuple[TuningPrice, ...]:
    """Return the price per optimizer and batch size, ascending, followed by the mean over batch sizes if several."""
    found = []
    for own in draws:
        places = range(len(own.batch_sizes))
        if own.refused is None:
            found += [_price(own, [place], own.batch_sizes[place]) for place in places]
            found += [_price(own, list(places), None)] if len(places) > 1 else []
        else:
            nothing = Estimate(value=math.nan, refused=own.refused)
            found.append(
                TuningPrice(
                    optimizer=own.optimizer,
                    batch_size=None,
                    prior=own.prior,
                    draws=sum(own.count),
                    reached=sum(own.reached),
                    success=nothing,
                    trials=nothing,
                    flops=nothing,
                    seconds=nothing,
                    warnings=own.warnings,
                    refused=own.refused,
                )
            )
    return tuple(found)


def _price(own: Draws, places: list[int], batch_size: int | None) -> TuningPrice:
    whole = ~np.isnan(own.success[:, places]).any(axis=1)
    success, flops, seconds = (
        values[whole][:, places].mean(axis=1) for values in (own.success, own.flops, own.seconds)
    )
    count = sum(own.count[place] for place in places)
    p = _success(own, success, count)
    return TuningPrice(
        optimizer=own.optimizer,
        batch_size=batch_size,
        prior=own.prior,
        draws=count,
        reached=sum(own.reached[place] for place in places),
        success=p,
        trials=_trials(p),
        flops=_cost(flops, success, p),
        seconds=_cost(seconds, success, p),
        warnings=(*own.warnings, *((own.unjudged,) if own.unjudged else ())),
        refused=None,
    )


def _success(own: Draws, success: Floats, count: int) -> Estimate:
    n = len(success)
    if n == 0:
        return Estimate(value=math.nan)
    p = float(success.mean())
    interval: Interval | None
    if own.design == "grid":
        deviation = float(success.std(ddof=1)) if n > 1 else 0.0
        half = float(t_half_width(deviation, n)) if deviation > TINY else math.nan
        interval = None if math.isnan(half) else (max(p - half, 0.0), min(p + half, 1.0))
        return Estimate(value=p, interval=interval, n=n, covers=OF_SEEDS if interval else "")
    variance = float(success.var(ddof=1)) / n if n > 1 else 0.0
    effective = min(max(p * (1 - p) / variance, n), max(count, n)) if variance > 0 else n
    low, high = wilson_interval(p, effective)
    return Estimate(value=p, interval=(float(low), float(high)), n=n, of=own.of, covers=OF_PRICE[own.of])


def _trials(p: Estimate) -> Estimate:
    value = 1 / p.value if p.known and p.value > 0 else math.nan
    if p.interval is None:
        return Estimate(value=value, n=p.n, of=p.of)
    low, high = (1 / end if end > 0 else math.inf for end in p.interval[::-1])
    return Estimate(value=value, interval=(low, high), n=p.n, of=p.of, covers=p.covers)


def _cost(cost: Floats, success: Floats, p: Estimate) -> Estimate:
    mean = float(cost.mean()) if len(cost) else math.nan
    if not mean > 0:  # the table has no costs
        return Estimate(value=math.nan)
    value = mean / p.value if p.value > 0 else math.nan
    if p.interval is None or len(cost) < 2:
        return Estimate(value=value, n=p.n, of=p.of)
    if np.ptp(success) <= TINY:  # without scatter, only Wilson's interval is available
        low, high = (mean / end if end > 0 else math.inf for end in p.interval[::-1])
        return Estimate(value=value, interval=(low, high), n=p.n, of=p.of, covers=p.covers)
    low, high = (float(end) for end in Moments.paired(cost / mean, success).interval(LEVEL))
    return Estimate(value=value, interval=(mean * low, mean * high), n=p.n, of=p.of, covers=p.covers)


@dataclass(frozen=True, eq=False)
class Pair:
    """Blocks of draws of two optimizers, (candidate, reference), averaged over batch sizes: arrays [blocks]."""

    paired: bool
    """Whether equal indices are the same block; otherwise the blocks are independent and may differ in number."""
    of: str
    """Kind of block: seeds or configurations."""
    blocks: tuple[int, ...]
    """Blocks of the candidate."""
    success: tuple[Floats, Floats]
    flops: tuple[Floats, Floats]
    seconds: tuple[Floats, Floats]

    @property
    def moments(self) -> Moments:
        """Moments of the ratio of the candidate's success rate to the reference's."""
        return Moments.paired(*self.success) if self.paired else Moments.separate(*self.success)

    @property
    def n(self) -> int:
        """Number of blocks of the optimizer that has fewer."""
        return min(len(values) for values in self.success)


def pair_draws(candidate: Draws, reference: Draws, batch_size: int | None = None) -> Pair:
    """Return the blocks of two optimizers at one batch size, or averaged over all common ones.

    Seeds are paired, and only common seeds are used; configurations are independent.
    """
    shared = [size for size in candidate.batch_sizes if size in reference.batch_sizes]
    sizes = shared if batch_size is None else [batch_size]
    paired = candidate.of == reference.of == "seeds"
    columns = [[own.batch_sizes.index(size) for size in sizes] for own in (candidate, reference)]
    rows = [
        {block: row for row, block in enumerate(own.blocks) if not np.isnan(own.success[row, at]).any()}
        for own, at in zip((candidate, reference), columns, strict=True)
    ]
    both = [block for block in rows[0] if block in rows[1]]
    kept = [list(own.values()) if not paired else [own[block] for block in both] for own in rows]

    def values(name: str) -> tuple[Floats, Floats]:
        one: Floats = getattr(candidate, name)[kept[0]][:, columns[0]].mean(axis=1)
        other: Floats = getattr(reference, name)[kept[1]][:, columns[1]].mean(axis=1)
        return one, other

    return Pair(
        paired=paired,
        of=candidate.of if candidate.of == reference.of else "configurations",
        blocks=tuple(candidate.blocks[row] for row in kept[0]),
        success=values("success"),
        flops=values("flops"),
        seconds=values("seconds"),
    )


def compute_price_ratios(candidate: Draws, reference: Draws, level: float = LEVEL) -> tuple[PriceRatio, ...]:
    """Return the ratios at each common batch size, and then over all; empty unless both optimizers have valid draws."""
    if any(own.refused or own.unjudged for own in (candidate, reference)):
        return ()
    sizes = [size for size in candidate.batch_sizes if size in reference.batch_sizes]
    return tuple(
        _ratio(pair_draws(candidate, reference, size), candidate.optimizer, reference.optimizer, size, level)
        for size in (*sizes, *((None,) if len(sizes) > 1 else ()))
    )


def _ratio(pair: Pair, candidate: str, reference: str, batch_size: int | None, level: float) -> PriceRatio:
    return PriceRatio(
        candidate=candidate,
        reference=reference,
        batch_size=batch_size,
        trials=trials_ratio(pair, level),
        flops=_cost_ratio(pair, pair.flops, level),
        seconds=_cost_ratio(pair, pair.seconds, level),
    )


def trials_ratio(pair: Pair, level: float = LEVEL) -> Estimate:
    """Return the ratio of expected trials, candidate over reference."""
    if pair.n < 2:
        return Estimate(value=math.nan, n=pair.n, of=pair.of)
    moments = pair.moments
    one, other = float(moments.one), float(moments.other)
    low, high = (float(end) for end in moments.interval(level))
    bounds = (0.0, math.inf)
    if high > 0:  # otherwise the candidate has no success, and zeros without scatter give no bound
        bounds = (1 / high if math.isfinite(high) else 0.0, 1 / low if low > 0 else math.inf)
    if float(moments.var_one + moments.var_other) < TINY**2:
        value = other / one if one > 0 and other > 0 else math.nan
        return Estimate(value=value, n=pair.n, of=pair.of, warnings=(NO_SCATTER,))
    return Estimate(
        value=other / one if one > 0 and other > 0 else math.nan,
        interval=bounds,
        n=pair.n,
        of=pair.of,
        covers=OF_PRICE[pair.of],
    )


def _cost_ratio(pair: Pair, costs: tuple[Floats, Floats], level: float) -> Estimate:
    """Return the ratio of expected costs, with the jackknife interval of its logarithm."""
    means = [float(part.mean()) if len(part) else 0.0 for part in (*pair.success, *costs)]
    if pair.n < 2 or not all(mean > 0 for mean in means):
        return Estimate(value=math.nan, n=pair.n, of=pair.of)
    signs = np.array([-1.0, 1.0, 1.0, -1.0])
    parts = [*pair.success, *costs]
    if pair.paired:
        value, error = (float(x) for x in log_ratio_jackknife(np.stack(parts), signs))
    else:
        halves = [log_ratio_jackknife(np.stack(parts[k::2]), signs[k::2]) for k in (0, 1)]
        value, error = float(halves[0][0] + halves[1][0]), math.hypot(float(halves[0][1]), float(halves[1][1]))
    half = float(stdtrit(pair.n - 1, 0.5 + level / 2)) * error
    interval = (exponential(value - half), exponential(value + half)) if math.isfinite(half) else (0.0, math.inf)
    return Estimate(value=exponential(value), interval=interval, n=pair.n, of=pair.of, covers=OF_PRICE[pair.of])
