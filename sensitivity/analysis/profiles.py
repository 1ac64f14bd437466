"""Performance profiles: the fraction of cases in which an optimizer is within a factor of the best (Dolan & More 2002).

A case is a batch size and a target. The times to the target of each optimizer's best configuration are compared, on
seeds that did not select it (``scaling``). A time is known to lie between two evaluations, or below the first; the
profile has bounds for that. A case that an optimizer doesn't reach counts against it at every factor and stays in the
denominator; a case that no optimizer reaches is left out and counted. The cases of one study are not independent, so a
profile is a description without a confidence interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sensitivity.analysis.estimates import Caution, Floats
from sensitivity.analysis.scaling import ScalingCurve
from sensitivity.analysis.scaling_points import ScalingPoint
from sensitivity.analysis.times import TimeUnit


@dataclass(frozen=True, kw_only=True)
class PerformanceProfile:
    """The profile of an optimizer, a step function that increases at each of `factors`."""

    optimizer: str
    unit: TimeUnit
    factors: tuple[float, ...]
    """Factors of the best time, ascending from 1."""
    share: tuple[float, ...]
    """Fraction of the cases within each factor of the best time, with times at the middle of their intervals."""
    low: tuple[float, ...]
    """Lower bound: its own times at the upper ends of their intervals, the others' at the lower ends."""
    high: tuple[float, ...]
    """Upper bound: its own times at the lower ends of their intervals, the others' at the upper ends."""
    solved: int
    """Number of cases in which it reached the target."""
    cases: int
    """Number of cases in which some optimizer reached the target."""
    unsolved_by_all: int
    """Number of cases that are left out because no optimizer reached the target."""
    warnings: tuple[Caution, ...]


def compute_profiles(curves: Mapping[str, Sequence[ScalingCurve]]) -> tuple[PerformanceProfile, ...]:
    """Return a profile per optimizer.

    `curves` maps the name of each target to its scaling curves, all in one unit. Only batch sizes at which every
    optimizer was run are cases.
    """
    optimizers = list(dict.fromkeys(curve.optimizer for group in curves.values() for curve in group))
    unit: TimeUnit = next((curve.unit for group in curves.values() for curve in group), "steps")
    rows = [row for group in curves.values() for row in _cases(group, optimizers)]
    times = np.array(rows).reshape(len(rows), len(optimizers), 3)
    reachable = np.isfinite(times[:, :, 1].min(axis=1, initial=math.inf))
    low, middle, high = (times[reachable][:, :, end] for end in range(3))
    ratio = _ratios(middle, middle)
    factors = np.unique(np.append(ratio[np.isfinite(ratio)], 1.0))
    cases = int(reachable.sum())
    warnings = []
    if cases < 10:
        text = f"{cases} case{'' if cases == 1 else 's'} (batch sizes x targets): a profile of so few is a description."
        warnings.append(Caution(code="few-cases", text=text))
    return tuple(
        PerformanceProfile(
            optimizer=optimizer,
            unit=unit,
            factors=tuple(float(factor) for factor in factors),
            share=_share(column, factors),
            low=_share(worst, factors),
            high=_share(best, factors),
            solved=int(np.isfinite(column).sum()),
            cases=cases,
            unsolved_by_all=int((~reachable).sum()),
            warnings=tuple(warnings),
        )
        for optimizer, column, worst, best in zip(
            optimizers, ratio.T, _ratios(high, low).T, _ratios(low, high).T, strict=True
        )
    )


def _ratios(own: Floats, others: Floats) -> Floats:
    """Return each optimizer's time `own` over the best of itself and `others`' times: [cases, optimizers]."""
    count = own.shape[1]
    ratios = np.ones(own.shape)
    for column in range(count):
        rest = np.delete(others, column, axis=1).min(axis=1, initial=math.inf)
        best = np.minimum(own[:, column], rest)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = own[:, column] / best
        ratios[:, column] = np.where(own[:, column] <= best, 1.0, ratio)
    return np.round(ratios, 9)  # so that equal times have equal factors


def _share(ratio: Floats, factors: Floats) -> tuple[float, ...]:
    return tuple(float(np.mean(ratio <= factor)) if len(ratio) else math.nan for factor in factors)


def _cases(curves: Sequence[ScalingCurve], optimizers: Sequence[str]) -> list[list[tuple[float, float, float]]]:
    """Return (low, middle, high) of each time to a target [cases, optimizers]; infinite unless all seeds reached it."""
    times = {(curve.optimizer, point.batch_size): _ends(point) for curve in curves for point in curve.points}
    sizes = sorted({size for _, size in times})
    return [
        [times[optimizer, size] for optimizer in optimizers]
        for size in sizes
        if all((optimizer, size) in times for optimizer in optimizers)
    ]


def _ends(point: ScalingPoint) -> tuple[float, float, float]:
    if point.state == "reached":
        return (point.bounds[0], point.time.value, point.bounds[1])
    if point.state in ("left-censored", "untrained"):
        return (0.0, point.time.value, point.time.value)
    return (math.inf, math.inf, math.inf)
