"""Remedies for the question which of two optimizers scales further: edits of the study file, and their costs.

Runs are priced at the mean of the runs concerned: those of the winners, or of the optimizer and batch size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from sensitivity.analysis.designs import levels
from sensitivity.analysis.names import optimizer_name, parameter_name
from sensitivity.analysis.outcomes import OBSERVED
from sensitivity.analysis.remedies import Remedy
from sensitivity.analysis.scaling import ScalingCurve
from sensitivity.analysis.scaling_points import ScalingPoint
from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.hyperparameters import hyperparameter


def seeds_remedies(
    priced: pd.DataFrame, curves: Sequence[ScalingCurve], needed: tuple[int, int | None] | None
) -> list[Remedy]:
    """Return the remedies that add evaluating seeds, for all cells or for the winners alone.

    `needed` is the range of seeds of ``paired.seeds_needed``; None if no number is enough.
    """
    if needed is None:
        text = (
            "More seeds would not settle it: the ratio is so close to the margin that the spacing of evaluations and"
            " the choice of winners leave it open. Try closer evaluations, or a target that takes more steps."
        )
        return [Remedy(code="seeds", text=text)]
    few, many = needed
    aim = few if many is None else many
    seeds = int(priced.loc[~confirming(priced), "seed"].nunique())
    total = max(2 * aim - 1, seeds + 1)  # the second half of a split evaluates
    each = _observed(priced[~confirming(priced)]).groupby("cell_id")["seconds"].mean()
    cells = int(priced["cell_id"].nunique())
    effect = "the smallest effect that these seeds allow" if many is not None else "the observed effect, at best"
    promise = f"{aim:,} judging seeds detect {effect} in 80% of studies" + (
        f" ({few:,} for the observed effect)." if many is not None and few < many else "."
    )
    return [
        Remedy(
            code="seeds",
            text=f"Set seeds = {total:,} in the study file: {total - seeds:,} more for every cell. {promise}",
            runs=(total - seeds) * cells,
            device_seconds=float(each.mean()) * cells * (total - seeds) if len(each) else math.nan,
            edits=((("seeds",), str(total)),),
        ),
        confirm_remedy(priced, curves, aim, "Or confirm the winners alone"),
    ]


def confirm_remedy(priced: pd.DataFrame, curves: Sequence[ScalingCurve], seeds: int, what: str) -> Remedy:
    """Return the remedy that runs only the winners of `curves` on `seeds` fresh seeds, which then evaluate them."""
    winners = [point.cell_id for curve in curves for point in curve.points if point.cell_id is not None]
    each = _observed(priced[priced["cell_id"].isin(winners)]).groupby("cell_id")["seconds"].mean()
    return Remedy(
        code="confirm",
        text=f"{what}: set confirm = {seeds:,} under [search] in the study file, together with objective = "
        f'"steps_to_target" and the verdict\'s target. {len(winners):,} best cells run on {seeds:,} fresh seeds.',
        runs=len(winners) * seeds,
        device_seconds=float(each.sum()) * seeds if len(each) == len(winners) else math.nan,
        edits=((("search", "objective"), '"steps_to_target"'), (("search", "confirm"), str(seeds))),
    )


def evaluation_remedy(priced: pd.DataFrame, grain: float) -> Remedy:
    """Return the remedy that spaces evaluations by `grain`, the log of the ratio of successive steps, in new runs."""
    growth = min(0.1, max(float(f"{math.expm1(grain):.1g}"), 0.001))
    return Remedy(
        code="evaluation",
        text=f"Set growth = {growth:g} under [evaluation] in the study file (in place of every_epochs or every_steps,"
        f" if set): each evaluation then comes {100 * growth:g}% later than the last. All {len(priced):,} runs are"
        " repeated.",
        runs=len(priced),
        device_seconds=float(_observed(priced)["seconds"].mean()) * len(priced),
        edits=(
            (("evaluation", "growth"), f"{growth:g}"),
            (("evaluation", "every_epochs"), ""),
            (("evaluation", "every_steps"), ""),
        ),
    )


def target_remedy(*, short: bool) -> Remedy:
    """Return the remedy of a harder target; `short` means that some budget does not even reach the present one."""
    text = "Choose a harder target under [targets] in the study file, one that takes more steps"
    if short:
        text += ", together with a longer [budget]: some batch sizes don't reach the present target within theirs."
        return Remedy(code="target", text=text)
    return Remedy(code="target", text=f"{text}. It needs no new run.", device_seconds=0.0)


def budget_remedy(priced: pd.DataFrame, curve: ScalingCurve, point: ScalingPoint, *, easier: bool) -> Remedy:
    """Return the remedy of a longer budget, with its size if the fitted curve predicts it.

    `easier` adds an easier target as an alternative.
    """
    where = f"{optimizer_name(curve.optimizer)} at batch size {point.batch_size:,}"
    size = math.nan if curve.critical is None else float(curve.critical.steps(np.array([point.batch_size]))[0])
    own = priced[(priced["optimizer"] == curve.optimizer) & (priced["batch_size"] == point.batch_size)]
    if point.state == "unreliable" or math.isnan(size) or size <= point.time.value:
        text = f"A longer budget for {where} ([budget] in the study file)" + (
            ", or an easier target." if easier else "."
        )
        return Remedy(code="budget", text=text)
    needed = 1.5 * size  # S(B) is a mean, and the slower half of the seeds needs more
    return Remedy(
        code="budget",
        text=f"A budget of about {needed:,.0f} steps for {where} ([budget] in the study file), where"
        f" {point.time.value:,.0f} were run.",
        runs=len(own),
        device_seconds=float(_observed(own)["seconds"].mean()) * len(own) * needed / point.time.value,
    )


def refine_remedy(priced: pd.DataFrame, curve: ScalingCurve, parameter: str) -> Remedy:
    """Return the remedy that adds grid values between a winner's value and its neighbours."""
    own = priced[priced["optimizer"] == curve.optimizer]
    grid = levels(own[PARAM_PREFIX + parameter])
    best = sorted({dict(point.parameters)[parameter] for point in curve.points if point.parameters})
    places = {grid.index(value) for value in best if value in grid}
    gaps = sorted({gap for place in places for gap in (place - 1, place) if 0 <= gap < len(grid) - 1})
    between = [
        math.sqrt(grid[gap] * grid[gap + 1]) if grid[gap] > 0 else (grid[gap] + grid[gap + 1]) / 2 for gap in gaps
    ]
    count = math.ceil(len(own) / len(grid)) * len(between)
    return Remedy(
        code="refine",
        text=f"Refine {optimizer_name(curve.optimizer)}'s grid: add {parameter_name(parameter)}"
        f" {', '.join(f'{value:.3g}' for value in between)}.",
        runs=count,
        device_seconds=float(_observed(own)["seconds"].mean()) * count,
        edits=(
            (
                ("optimizers", curve.optimizer, *hyperparameter(parameter).path),
                f"[{', '.join(f'{value:.6g}' for value in sorted([*grid, *between]))}]",
            ),
        ),
    )


def confirming(priced: pd.DataFrame) -> pd.Series[bool]:
    """Return which runs are confirmation runs of winners."""
    if "confirmation" not in priced:
        return pd.Series(False, index=priced.index)
    return priced["confirmation"].fillna(False).astype(bool)


def _observed(priced: pd.DataFrame) -> pd.DataFrame:
    return priced[priced["status"].isin(OBSERVED)]
