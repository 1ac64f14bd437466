"""Outcomes of runs with respect to targets: which reach one, and when (docs/statistics.md, sections 0, 1 and 3).

The time to a target is that of the first evaluation of a completed run at which the metric meets it, which bounds it
from above; the evaluation before bounds it from below (``times``). A completed run
that never does is censored at its budget. A diverged run never reaches a target, even one that it met on its
way (its time is infinite); the number of those is reported. Failed and waiting runs stay in the denominator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from sensitivity.analysis.intervals import wilson
from sensitivity.analysis.outcomes import OBSERVED, SOUND, WAITING
from sensitivity.analysis.times import AFTER, first_meeting
from sensitivity.study.metrics import MetricName
from sensitivity.study.results import Status


@dataclass(frozen=True, kw_only=True)
class TargetOutcome:
    """Number of runs of an optimizer at a batch size by outcome for a target, and statistics of their times."""

    metric: str
    target: float
    optimizer: str
    batch_size: int
    planned: int
    reached: int
    fell_back: int
    """Number of runs that reached the target and whose last evaluation doesn't meet it."""
    at_first: int
    """Number of runs that reached the target at step 0 or at their first evaluation after it."""
    censored: int
    """Number of runs that completed without meeting the target."""
    diverged: int
    diverged_after_meeting: int
    """Number of diverged runs that met the target before they diverged."""
    failed: int
    waiting: int
    interval: tuple[float, float] | None
    """Wilson's interval for the fraction of drawn configurations that reach the target; None for a grid, with several
    seeds per configuration, or if runs failed or wait."""
    median_steps: float
    """Median over the runs that reached the target; NaN if none did."""
    median_steps_after: float
    """Median step of the evaluations before; 0 if half of the runs met the target at their first evaluation, so that
    `median_steps` is an upper bound."""
    median_epochs: float
    """Median over the runs that reached the target; NaN if none did."""
    median_seconds: float
    """Median device-seconds of training over the runs that reached the target; NaN if none did."""
    expected_steps: float
    """Expected running time: steps of all observed runs, unsuccessful ones at the full budget, divided by the number of
    successes; NaN without a success, when `spent_steps` bounds it from below."""
    spent_steps: float
    """Numerator of `expected_steps`."""


def compute_targets(
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    targets: Mapping[MetricName, Sequence[float]],
    *,
    designs: Mapping[str, str] | None = None,
) -> tuple[TargetOutcome, ...]:
    """Return an outcome per metric, target, optimizer and batch size, in that order.

    `designs` maps optimizers to their designs; an optimizer that it lacks counts as a grid.
    """
    outcomes = []
    for name, levels in targets.items():
        for level in levels:
            first = first_meeting(curves, name, level)
            table = runs[["trial_id", "cell_id", "optimizer", "batch_size", "seed", "status", "steps"]].merge(
                first, on="trial_id", how="left"
            )
            for optimizer, of_optimizer in table.groupby("optimizer", sort=False):
                drawn = (designs or {}).get(str(optimizer), "grid") in ("random", "sobol")
                outcomes += [
                    _outcome(rows, name, level, str(optimizer), int(str(batch_size)), drawn)
                    for batch_size, rows in of_optimizer.groupby("batch_size")
                ]
    return tuple(outcomes)


def _outcome(
    rows: pd.DataFrame, metric: str, target: float, optimizer: str, batch_size: int, drawn: bool
) -> TargetOutcome:
    completed, stopped = rows["status"].isin(SOUND), rows["status"] == Status.STOPPED.value
    diverged = rows["status"] == Status.DIVERGED.value
    met = rows["step"].notna()
    reached = rows[completed & met]
    unsuccessful = int((completed & ~stopped & ~met).sum() + diverged.sum())
    waiting = int(rows["status"].isin(WAITING).sum())
    budget = float(rows.loc[completed if completed.any() else diverged, "steps"].max())
    spent = float(reached["step"].sum()) + (unsuccessful * budget if unsuccessful else 0.0)
    spent += float(rows.loc[stopped & ~met, "steps"].sum())
    independent = drawn and rows["status"].isin(OBSERVED).all() and rows["cell_id"].is_unique
    return TargetOutcome(
        metric=metric,
        target=target,
        optimizer=optimizer,
        batch_size=batch_size,
        planned=len(rows),
        reached=len(reached),
        fell_back=int(reached["fell_back"].astype(bool).sum()),
        at_first=int((reached[AFTER + "step"] == 0).sum()),
        censored=int((completed & ~met).sum()),
        diverged=int(diverged.sum()),
        diverged_after_meeting=int((diverged & met).sum()),
        failed=int((rows["status"] == Status.FAILED.value).sum()),
        waiting=waiting,
        interval=wilson(len(reached), len(rows)) if independent else None,
        median_steps=float(reached["step"].median()),
        median_steps_after=float(reached[AFTER + "step"].median()),
        median_epochs=float(reached["epoch"].median()),
        median_seconds=float(reached["train_seconds"].median()),
        expected_steps=spent / len(reached) if len(reached) else math.nan,
        spent_steps=spent,
    )
