"""Remedies: runs that would settle an undetermined question, priced at the device-seconds of this study's runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from sensitivity.analysis.outcomes import OBSERVED, WAITING, made_elsewhere

Edit = tuple[tuple[str, ...], str]
"""A change of the study file: the path of a field, and its value as TOML; an empty one removes the field."""


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """A change that would help to settle a question, and its cost."""

    code: str
    """finish, seeds, confirm, edge, refine, budget, evaluation, target, unclip, batch-sizes or grid."""
    text: str
    """The change in words, as an instruction."""
    runs: int = 0
    """Number of runs that it adds."""
    device_seconds: float = math.nan
    """Device-seconds of these runs; NaN if they can't be estimated."""
    edits: tuple[Edit, ...] = ()
    """Changes of the study file, if they are known exactly."""


def _cost(runs: pd.DataFrame, count: int) -> float:
    observed = runs[runs["status"].isin(OBSERVED)]
    return float(observed["seconds"].mean()) * count if len(observed) else math.nan


def finish(runs: pd.DataFrame) -> Remedy | None:
    """Return the remedy to complete the plan; None if no run is missing."""
    waiting = runs[runs["status"].isin(WAITING)]
    if not len(waiting):
        return None
    seconds = sum(
        _cost(runs[runs["optimizer"] == optimizer], len(rows)) for optimizer, rows in waiting.groupby("optimizer")
    )
    begun = len(waiting) < len(runs)
    fix = "Run the study again" if begun else "Run the study"
    if made_elsewhere(runs):
        fix = "Make the missing runs and import them"
    planned = f"of {len(runs):,} planned runs"
    lacking = f"{len(waiting):,} {planned} have no" if begun else f"none {planned} has a"
    return Remedy(
        code="finish",
        text=f"{fix}: {lacking} result yet.",
        runs=len(waiting),
        device_seconds=seconds,
    )
