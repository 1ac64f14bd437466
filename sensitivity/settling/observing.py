"""Conversion of the tables of a study to observations of its runs, for one target.

As in all analyses, a run reaches the target at its first crossing, unless it diverges (``analysis.times``).
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from sensitivity.analysis.times import AFTER, compute_times
from sensitivity.study.amendments import Observation
from sensitivity.study.metrics import MetricName


def observe(runs: pd.DataFrame, curves: pd.DataFrame, target: tuple[MetricName, float]) -> dict[str, Observation]:
    """Return the observation of every run that has a result, by ``trial_id``.

    Args:
        runs: one row per run, with the columns of ``store.schema``.
        curves: all evaluations of these runs, with the columns of ``store.schema``.
        target: metric and its target level.
    """
    metric, level = target
    times = compute_times(runs, curves, metric, level)
    known = curves[curves[metric].notna()].sort_values(["trial_id", "step"], kind="stable")
    values = known.groupby("trial_id", sort=False)[metric]
    untrained, last = values.first().to_dict(), values.last().to_dict()
    found = {}
    for row in times[["trial_id", "outcome", "steps", AFTER + "steps"]].itertuples(index=False, name=None):
        trial, outcome, steps, after = str(row[0]), str(row[1]), float(row[2]), float(row[3])
        if outcome == "reached":
            found[trial] = Observation(outcome="reached", steps=steps, after=after)
        elif outcome == "censored":
            ends = untrained.get(trial, math.nan), last.get(trial, math.nan)
            found[trial] = Observation(outcome="censored", steps=steps, shortfall=_shortfall(*ends, level))
        elif outcome in ("diverged", "failed"):
            found[trial] = Observation.model_validate({"outcome": outcome})
    return found


def _shortfall(untrained: float, last: float, level: float) -> float | None:
    """Return the remaining fraction of the way from the untrained metric to the target; None if unknown."""
    if not np.isfinite([untrained, last]).all() or untrained == level:
        return None
    return max((level - last) / (level - untrained), 0.0)
