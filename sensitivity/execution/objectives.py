"""The objective of a run, and of a configuration over its seeds, for searches."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from sensitivity.study.metrics import METRICS
from sensitivity.study.results import Status
from sensitivity.study.search import Objective, SearchSpec, lower_is_better

MISSED = 2.0
"""A run that misses its target counts as so many times its budget (PAR2, as in algorithm configuration)."""

Values = tuple[float, ...] | None
"""The objectives of a run; None for one that diverged or failed, whose worth is the worst observed, and for one that
was stopped early where an objective is what it costs, or a target that it had not reached: a part of a run is cheap."""


def run_values(row: Mapping[str, Any], curve: Sequence[Mapping[str, Any]], search: SearchSpec) -> Values:
    """Return the objectives of a finished run.

    Args:
        row: its row in the table of runs.
        curve: its rows in the table of curves, by step.
        search: which objectives.
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
    """Return the objectives of each configuration over its seeds; None of one without a finished run.

    A run without a value counts as the worst that any has shown; where none has shown any, all are alike.

    Args:
        configurations: of each, its finished runs.
        search: how seeds are put together.
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
