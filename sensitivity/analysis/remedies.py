"""What would settle an undetermined question, in runs and device-seconds at the rate that this study's runs took."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from sensitivity.analysis.designs import Edge, levels
from sensitivity.analysis.names import optimizer_name, parameter_name
from sensitivity.analysis.outcomes import OBSERVED, WAITING
from sensitivity.store.schema import PARAM_PREFIX


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """Something to run, and what it costs."""

    code: str
    """finish, seeds, confirm, edge, refine, budget, evaluation, target, unclip, batch-sizes, grid."""
    text: str
    runs: int = 0
    device_seconds: float = math.nan
    """NaN where this study can't tell."""


def _cost(runs: pd.DataFrame, count: int) -> float:
    observed = runs[runs["status"].isin(OBSERVED)]
    return float(observed["seconds"].mean()) * count if len(observed) else math.nan


def finish(runs: pd.DataFrame) -> Remedy | None:
    """Return what is left of the plan; None where nothing is."""
    waiting = runs[runs["status"].isin(WAITING)]
    if not len(waiting):
        return None
    seconds = sum(
        _cost(runs[runs["optimizer"] == optimizer], len(rows)) for optimizer, rows in waiting.groupby("optimizer")
    )
    return Remedy(
        code="finish",
        text=f"Run the study again: {len(waiting):,} of {len(runs):,} planned runs have no result yet.",
        runs=len(waiting),
        device_seconds=seconds,
    )


def more_seeds(runs: pd.DataFrame, seeds: int, needed: int | None) -> Remedy:
    """Return the step from `seeds` to `needed` seeds for every cell of `runs`."""
    if needed is None:
        return Remedy(
            code="seeds",
            text="No sensible number of further seeds would tell the two apart if the difference is as small as it"
            " looks; a wider margin or a harder target might.",
        )
    extra = max(needed - seeds, 1)
    count = extra * int(runs["cell_id"].nunique())
    return Remedy(
        code="seeds",
        text=f"{extra:,} more seeds ({seeds + extra:,} in all) for every cell.",
        runs=count,
        device_seconds=_cost(runs, count),
    )


def extend(runs: pd.DataFrame, optimizer: str, edges: Iterable[Edge]) -> tuple[Remedy, ...]:
    """Return one further grid level beyond each of `edges`, at every batch size and seed; of a box, all runs anew."""
    own = runs[runs["optimizer"] == optimizer]
    remedies = []
    for edge in {(edge.parameter, edge.side): edge for edge in edges}.values():
        values = levels(own[PARAM_PREFIX + edge.parameter])
        count = math.ceil(len(own) / len(values)) if edge.of == "grid" else len(own)
        beyond = f"{parameter_name(edge.parameter)} {'below' if edge.side == 'low' else 'above'} {edge.value:.3g}"
        if edge.of == "grid":
            text = f"Extend {optimizer_name(optimizer)}'s grid to {beyond}: each further level takes {count:,} runs."
        else:
            text = f"Extend {optimizer_name(optimizer)}'s search box to {beyond}, and search it anew."
        remedies.append(Remedy(code="edge", text=text, runs=count, device_seconds=_cost(own, count)))
    return tuple(remedies)
