"""Cautions of a scaling curve; each states where it applies, why, and what to do."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sensitivity.analysis.designs import edge_words
from sensitivity.analysis.estimates import Caution
from sensitivity.analysis.grain import FEWEST_STEPS
from sensitivity.analysis.names import at_batch_size, optimizer_name
from sensitivity.analysis.scaling_points import ScalingPoint
from sensitivity.analysis.times import TimeUnit


def curve_cautions(optimizer: str, unit: TimeUnit, points: Sequence[ScalingPoint]) -> tuple[Caution, ...]:
    """Return the cautions of a curve in `unit`, by batch size."""
    found = []
    for point in points:
        where = at_batch_size(optimizer, point.batch_size)
        found += [
            Caution(
                code="edge",
                text=f"{where}: the best configuration has {edge_words([edge])[0]}; a better one may lie beyond it.",
            )
            for edge in point.edges
        ]
        found += [_CAUTIONS[point.state](where, point)] if point.state in _CAUTIONS else []
        if point.state == "left-censored" and unit == "steps":
            found.append(first_evaluation(where, point))
        elif point.state == "reached" and unit == "steps" and point.time.value < FEWEST_STEPS:
            found.append(few_steps(where, point))
        if point.waiting:
            text = f"{where}: {point.waiting:,} of {point.planned:,} runs have no result yet."
            found.append(Caution(code="incomplete", text=text))
    if any(point.method == "same-runs" and point.cell_id is not None for point in points):
        text = (
            f"{optimizer_name(optimizer)}: with one seed per setting, the runs that choose the winner also time it, so"
            " its time is biased towards faster."
        )
        found.append(Caution(code="winner", text=text))
    fell = sum(point.fell_back for point in points)
    if fell:
        reached = sum(point.reached for point in points)
        text = (
            f"{optimizer_name(optimizer)}: {fell:,} of the {reached:,} runs that reached the target ended below it."
            " A run counts as having reached it from its first crossing."
        )
        found.append(Caution(code="fell-back", text=text))
    return tuple(found)


def first_evaluation(where: str, point: ScalingPoint) -> Caution:
    """Return the caution that a time is only bounded from above, by the first evaluation."""
    return Caution(
        code="grain",
        text=f"{where}: the target is met at the first evaluation, so its time is only known to be at most"
        f" {point.time.value:,.0f} steps. Evaluate earlier, or choose a harder target.",
    )


def few_steps(where: str, point: ScalingPoint) -> Caution:
    """Return the caution that a time of few steps is too coarse to compare."""
    return Caution(
        code="grain",
        text=f"{where}: the target is met after about {point.time.value:.3g} steps. With fewer than {FEWEST_STEPS}"
        " steps, one step is too large a share of the time to compare times. Choose a harder target.",
    )


def coarse_evaluations(where: str, point: ScalingPoint, margin: float) -> Caution:
    """Return the caution that evaluations are too far apart for `margin`, the log of a ratio."""
    low, high = point.bounds
    return Caution(
        code="grain",
        text=f"{where}: the target is met between evaluations at about {low:,.0f} and {high:,.0f} steps, a factor of"
        f" {math.exp(point.grain):.2f}, which exceeds the margin of {math.exp(margin):.3g}. Evaluate more often.",
    )


def _untrained(where: str, point: ScalingPoint) -> Caution:
    text = (
        f"{where}: the untrained network meets the target with at least one seed, so there is no time to compare."
        " Choose a harder target."
    )
    return Caution(code="untrained", text=text)


def _budget(where: str, point: ScalingPoint) -> Caution:
    return Caution(
        code="budget",
        text=f"{where}: no run reached the target within the budget, so its time is only known to exceed it. Choose a"
        " longer budget or an easier target.",
    )


def _unreliable(where: str, point: ScalingPoint) -> Caution:
    return Caution(
        code="unreliable",
        text=f"{where}: some of the {point.time.n:,} seeds that judge the winner don't reach the target, so its time"
        " has only a lower bound, and no comparison can use it. Choose a longer budget or an easier target.",
    )


def _diverged(where: str, point: ScalingPoint) -> Caution:
    text = f"{where}: every run with a result diverged, so it has no time. Try smaller learning rates."
    return Caution(code="diverged", text=text)


def _failed(where: str, point: ScalingPoint) -> Caution:
    text = f"{where}: no run has a result ({point.failed:,} failed, {point.waiting:,} wait), so it has no time."
    return Caution(code="failed", text=text)


_CAUTIONS = {
    "untrained": _untrained,
    "censored": _budget,
    "unreliable": _unreliable,
    "diverged": _diverged,
    "no-result": _failed,
}
