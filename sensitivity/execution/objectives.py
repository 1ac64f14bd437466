"""Objectives of runs, and of configurations over their seeds, for searches."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from sensitivity.study.metrics import METRICS
from sensitivity.study.results import Status
from sensitivity.study.search import Objective, SearchSpec, lower_is_better

MISSED = 2.0
"""Factor on the budget of a run that misses its target (PAR2, as in algorithm configuration)."""

Values = tuple[float, ...] | None
"""Objectives of a run. None for a diverged or failed run, which counts as the worst observed one; and for a run that
was stopped early if an objective is its cost, or a target that it had not reached, because partial runs are cheap."""


def run_values(row: Mapping[str, Any], curve: Sequence[Mapping[str, Any]], search: SearchSpec) -> Values:
    """Return the objectives of a finished run.

    Args:
        row: row of the run in the table of runs.
        curve: rows of the run in the table of curves, by step.
        search: the search, which names the objectives.
    """
    if row["status"] not in (Status.COMPLETED, Status.STOPPED):
        return None
    values = tuple(_value(name, row, curve, search) for name in search.objective)
    return values if all(map(math.isfinite, values)) else None


def _value(name: Objective, row: Mapping[str, Any], curve: Sequence[Mapping[str, Any]], search: SearchSpec) -> float:
    if name in METRICS:
        return float(row[name])
    stopped = row["status"] == Status.STOPPED
    if name in ("flops", "device_seconds"):
        whole = row["flops"] if name == "flops" else row["train_seconds"] + row["eval_seconds"]
        return math.nan if stopped else float(whole)
    column = "step" if name == "steps_to_target" else "train_seconds"
    ((metric, level),) = search.target.items()
    reached = (float(m[column]) for m in curve if METRICS[metric].reached(m[metric], level))
    budget = float(row["steps"] if name == "steps_to_target" else row["train_seconds"])
    return next(reached, math.nan if stopped else MISSED * budget)


def configuration_values(
    configurations: Sequence[Sequence[Values]], search: SearchSpec
) -> tuple[tuple[float, ...] | None, ...]:
    """Return the objectives of each configuration over its seeds; None for one without a finished run.

    A run without a value counts as the worst observed one; if no run has a value, all are equal.

    Args:
        configurations: objectives of the finished runs of each configuration.
        search: the search, which defines the average over seeds.
    """
    shown = [values for runs in configurations for values in runs if values is not None]
    worst = tuple(
        (max if lower_is_better(name) else min)((values[k] for values in shown), default=0.0)
        for k, name in enumerate(search.objective)
    )
    middle = statistics.fmean if search.over_seeds == "mean" else statistics.median
    return tuple(
        tuple(middle([(values or worst)[k] for values in runs]) for k in range(len(worst))) if runs else None
        for runs in configurations
    )
