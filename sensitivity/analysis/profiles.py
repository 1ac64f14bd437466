"""Performance profiles: on what share of the cases an optimizer is within a factor of the best (Dolan & More 2002).

A case is a batch size and a target; what is compared is the time to the target by each optimizer's best
configuration, honestly timed (``scaling``). A case that an optimizer doesn't reach counts against it at every
factor, and stays in the denominator; one that none reaches is left out, and counted. Cases of one study are not
independent, so a profile describes them and has no interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sensitivity.analysis.estimates import Caution
from sensitivity.analysis.scaling import ScalingCurve
from sensitivity.analysis.times import TimeUnit


@dataclass(frozen=True, kw_only=True)
class PerformanceProfile:
    """The profile of an optimizer: steps up at each of `factors`."""

    optimizer: str
    unit: TimeUnit
    factors: tuple[float, ...]
    """Rising from 1."""
    share: tuple[float, ...]
    """Of the cases, on which it is within each factor of the best."""
    solved: int
    """Cases that it reached."""
    cases: int
    unsolved_by_all: int
    """Cases left out, because no optimizer reached them."""
    warnings: tuple[Caution, ...]


def compute_profiles(curves: Mapping[str, Sequence[ScalingCurve]]) -> tuple[PerformanceProfile, ...]:
    """Return a profile for each optimizer of `curves`: name of a target -> its scaling curves, all in one unit.

    Only batch sizes at which every optimizer was run are cases.
    """
    optimizers = list(dict.fromkeys(curve.optimizer for group in curves.values() for curve in group))
    unit: TimeUnit = next((curve.unit for group in curves.values() for curve in group), "steps")
    rows = [row for group in curves.values() for row in _cases(group, optimizers)]
    times = np.array(rows).reshape(len(rows), len(optimizers))
    best = times.min(axis=1, initial=math.inf)
    reachable = np.isfinite(best)
    ratio = np.round(times[reachable] / best[reachable, None], 9)  # equal times give equal factors
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
            share=tuple(float(np.mean(column <= factor)) if cases else math.nan for factor in factors),
            solved=int(np.isfinite(column).sum()),
            cases=cases,
            unsolved_by_all=int((~reachable).sum()),
            warnings=tuple(warnings),
        )
        for optimizer, column in zip(optimizers, ratio.T, strict=True)
    )


def _cases(curves: Sequence[ScalingCurve], optimizers: Sequence[str]) -> list[list[float]]:
    """Return the times [cases, optimizers] of a target; infinite where it wasn't reached by every seed."""
    times = {
        (curve.optimizer, point.batch_size): point.time.value if point.state == "reached" else math.inf
        for curve in curves
        for point in curve.points
    }
    sizes = sorted({size for _, size in times})
    return [
        [times[optimizer, size] for optimizer in optimizers]
        for size in sizes
        if all((optimizer, size) in times for optimizer in optimizers)
    ]
