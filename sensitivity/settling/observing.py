"""What came of runs, as the procedure sees it: their times to the declared target, from the tables of a study."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sensitivity.analysis.times import AFTER, compute_times
from sensitivity.study.amendments import Observation
from sensitivity.study.metrics import MetricName

_WITH_RESULT = ("reached", "censored", "diverged", "failed")


def observe(runs: pd.DataFrame, curves: pd.DataFrame, target: tuple[MetricName, float]) -> Mapping[str, Observation]:
    """Return what came of every run with a final result, by its id.

    Args:
        runs: table of runs, as a study directory has it.
        curves: their evaluations.
        target: the metric and its level.
    """
    metric, level = target
    times = compute_times(runs, curves, metric, level)
    left = _shortfalls(curves, metric, level)
    return {
        str(row["trial_id"]): _observation(row, left.get(str(row["trial_id"])))
        for row in times[["trial_id", "outcome", "steps", AFTER + "steps"]].to_dict("records")
        if row["outcome"] in _WITH_RESULT
    }


def _observation(row: Mapping[Any, Any], shortfall: float | None) -> Observation:
    outcome = row["outcome"]
    if outcome == "reached":
        return Observation(outcome="reached", steps=row["steps"], after=row[AFTER + "steps"])
    if outcome == "censored" and row["steps"] > 0:
        return Observation(outcome="censored", steps=row["steps"], after=row["steps"], shortfall=shortfall)
    return Observation(outcome="diverged" if outcome == "diverged" else "failed")


def _shortfalls(curves: pd.DataFrame, metric: MetricName, level: float) -> dict[str, float]:
    """Return the share of the way from the untrained metric to the target that each run's last evaluation left."""
    measured = curves[np.isfinite(curves[metric].to_numpy(dtype=float))].sort_values(["trial_id", "step"])
    ends = measured.groupby("trial_id")[metric].agg(["first", "last"])
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (level - ends["last"].to_numpy(dtype=float)) / (level - ends["first"].to_numpy(dtype=float))
    return {
        str(trial): max(0.0, float(value))
        for trial, value in zip(ends.index, share, strict=True)
        if math.isfinite(value)
    }
