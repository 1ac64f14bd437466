"""Reasons that rule out a claim on scaling, whatever the tests result in, and remarks that accompany a claim.

All obstacles are reported at once, each with a remedy and its price, so that none shows up only after another was
removed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from sensitivity.analysis.critical import LACK_OF_FIT
from sensitivity.analysis.designs import CHOSEN
from sensitivity.analysis.estimates import Caution
from sensitivity.analysis.grain import FEWEST_STEPS
from sensitivity.analysis.names import at_batch_size, optimizer_name, parameter_name
from sensitivity.analysis.paired import fewest_seeds
from sensitivity.analysis.remedies import Remedy
from sensitivity.analysis.remedies_edge import extend
from sensitivity.analysis.remedies_scaling import (
    budget_remedy,
    confirm_remedy,
    evaluation_remedy,
    refine_remedy,
    target_remedy,
)
from sensitivity.analysis.scaling import ScalingCurve
from sensitivity.analysis.scaling_cautions import coarse_evaluations
from sensitivity.analysis.verdict import unfinished
from sensitivity.study.words import count

_BLOCKING = ("edge", "budget", "unreliable", "winner", "grain", "untrained", "diverged", "failed")
_SHORT = ("censored", "unreliable")
"""States of points whose budget is too short."""
_UNEQUAL = 2.0
"""Ratio of the numbers of configurations from which the effort of two searches is called unequal."""


@dataclass
class Findings:
    """Obstacles, remedies and remarks; the functions of this module append to them."""

    blocks: list[Caution]
    remedies: list[Remedy]
    remarks: list[Caution]


def scaling_obstacles(priced: pd.DataFrame, both: Sequence[ScalingCurve], margin: float, *, alpha: float) -> Findings:
    """Return the obstacles to a claim at the level `alpha` on the curves of a pair; `margin` is the log of a ratio."""
    found = Findings(*unfinished(priced), [])
    points = [point for curve in both for point in curve.points]
    easy = any(point.state == "left-censored" or point.time.value < FEWEST_STEPS for point in points)
    short = any(point.state in _SHORT for point in points)
    for curve in both:
        found.blocks += [warning for warning in curve.warnings if warning.code in _BLOCKING]
        found.remarks += [warning for warning in curve.warnings if warning.code == "fell-back"]
        found.remedies += extend(priced, curve.optimizer, [edge for point in curve.points for edge in point.edges])
        found.remedies += [
            budget_remedy(priced, curve, point, easier=not easy) for point in curve.points if point.state in _SHORT
        ]
    _grain(found, priced, both, margin)
    if easy:
        found.remedies.append(target_remedy(short=short))
    _biased(found, priced, both, alpha)
    _fit(found, both)
    _effort(found, both)
    _grids(found, priced, both, margin)
    return found


def _grain(found: Findings, priced: pd.DataFrame, both: Sequence[ScalingCurve], margin: float) -> None:
    points = [(curve, point) for curve in both for point in curve.points]
    coarse = [
        coarse_evaluations(at_batch_size(curve.optimizer, point.batch_size), point, margin)
        for curve, point in points
        if point.state == "reached" and point.grain > margin and point.time.value >= FEWEST_STEPS
    ]
    found.blocks += coarse
    first = [point for _, point in points if point.state == "left-censored"]
    if coarse or any(point.time.value >= FEWEST_STEPS for point in first):
        found.remedies.append(evaluation_remedy(priced, margin / 3))


def _biased(found: Findings, priced: pd.DataFrame, both: Sequence[ScalingCurve], alpha: float) -> None:
    """Block claims on winners that were selected and timed by a biased sample, until fresh seeds confirm them."""
    suspect = []
    for curve in both:
        timed = [point for point in curve.points if point.cell_id is not None]
        if all(point.method == "confirmed" for point in timed):
            continue
        name, stopped = optimizer_name(curve.optimizer), sum(point.stopped for point in timed)
        if curve.design in CHOSEN:
            how = "by an adaptive search" if curve.design == "adaptive" else "in an unknown way, possibly by success"
            text = (
                f"{name}: its configurations were chosen {how}, and the same runs time the winners. Confirm them on"
                " fresh seeds first."
            )
            found.blocks.append(Caution(code="adaptive", text=text))
        if stopped:
            planned = sum(point.planned for point in timed)
            text = (
                f"{name}: {stopped:,} of {planned:,} runs were stopped early because others were better, so which"
                " cells and seeds have times depends on the times. Confirm the winners on fresh seeds first."
            )
            found.blocks.append(Caution(code="stopped", text=text))
        if curve.design in CHOSEN or stopped:
            suspect.append(curve)
    if suspect:
        names = " and ".join(optimizer_name(curve.optimizer) for curve in suspect)
        seeds = max(fewest_seeds(alpha), 12)
        found.remedies.append(confirm_remedy(priced, suspect, seeds, f"Confirm the winners of {names}"))


def _fit(found: Findings, both: Sequence[ScalingCurve]) -> None:
    for curve in both:
        if curve.critical is not None and curve.critical.lack_of_fit_p < LACK_OF_FIT:
            text = next(w.text for w in curve.critical.size.warnings if w.code == "lack-of-fit")
            found.blocks.append(
                Caution(
                    code="lack-of-fit",
                    text=f"{optimizer_name(curve.optimizer)}: {text} The ratio of speed-ups does not need this model.",
                )
            )


def _effort(found: Findings, both: Sequence[ScalingCurve]) -> None:
    counts = [[point.configurations for point in curve.points] for curve in both]
    if not all(counts):
        return
    most = [max(count) for count in counts]
    words = []
    for curve, tried in zip(both, most, strict=True):
        optimism = [p.optimism for p in curve.points if math.isfinite(p.optimism)]
        regrets = [p.regret for p in curve.points if math.isfinite(p.regret)]
        effort = f"{optimizer_name(curve.optimizer)}: {count(tried, 'configuration')}"
        if optimism:
            effort += f", winners up to {100 * max(0.0, *optimism):.0f}% slower on the seeds that judge them"
        if regrets:
            effort += f", expected regret of their choice up to {100 * max(regrets):.1f}%"
        words.append(effort)
    if max(most) >= _UNEQUAL * min(most):
        text = (
            f"The searches are of unequal effort. {'; '.join(words)}. The smaller one may be further from its optimum,"
            " which the test doesn't take into account."
        )
        found.remarks.append(Caution(code="effort", text=text))


def _grids(found: Findings, priced: pd.DataFrame, both: Sequence[ScalingCurve], margin: float) -> None:
    for curve in both:
        steep: dict[str, list[int]] = {}
        for point in curve.points:
            for parameter, factor in point.steepness:
                if factor > math.exp(margin):
                    steep.setdefault(parameter, []).append(point.batch_size)
        for parameter, sizes in steep.items():
            text = (
                f"{optimizer_name(curve.optimizer)}: at batch size {', '.join(f'{size:,}' for size in sizes)} both"
                f" neighbours of the best {parameter_name(parameter)} are slower by more than the margin, so a value"
                " between grid points may be faster."
            )
            found.remarks.append(Caution(code="coarse-grid", text=text))
            found.remedies.append(refine_remedy(priced, curve, parameter))
