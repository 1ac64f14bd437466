"""Number of runs by status and their cost, in total and by optimizer and batch size."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from sensitivity.analysis.cost import total
from sensitivity.study.results import Status

_COLUMNS = ["optimizer", "batch_size", "cell_id", "seed", "status", "steps", "train_seconds", "eval_seconds", "flops"]
"""Columns that a summary is computed from; grouping copies all that a table has."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Number of planned runs by status, and the cost of those with a result."""

    planned: int
    completed: int
    diverged: int
    stopped: int
    failed: int
    interrupted: int
    pending: int
    steps: int
    train_seconds: float
    """Device-seconds of training: sum over runs of each run's share of its pack's time."""
    eval_seconds: float
    flops: float

    @property
    def waiting(self) -> int:
        """Number of runs that the next `run` trains."""
        return self.interrupted + self.pending


@dataclass(frozen=True, kw_only=True)
class Group:
    """The runs of an optimizer at a batch size."""

    optimizer: str
    batch_size: int
    cells: int
    """Number of planned configurations."""
    seeds: int
    tally: Tally


@dataclass(frozen=True, kw_only=True)
class StudySummary:
    """Progress and cost of a study."""

    total: Tally
    groups: tuple[Group, ...]
    """Groups by optimizer in the order of the plan, then by batch size."""
    elapsed_seconds: float
    """Time from the start of the first pack to the last result, including pauses; 0 without results."""

    @property
    def begun(self) -> bool:
        """Whether any planned run has a result."""
        return self.total.waiting < self.total.planned

    @property
    def complete(self) -> bool:
        """Whether no planned run is pending or interrupted."""
        return self.total.waiting == 0


def compute_summary(runs: pd.DataFrame) -> StudySummary:
    """Return the summary of `runs`, one row per planned run."""
    counted = runs[_COLUMNS]
    groups = tuple(
        Group(
            optimizer=str(optimizer),
            batch_size=int(str(batch_size)),
            cells=int(rows["cell_id"].nunique()),
            seeds=int(rows["seed"].nunique()),
            tally=_tally(rows),
        )
        for optimizer, of_optimizer in counted.groupby("optimizer", sort=False)
        for batch_size, rows in of_optimizer.groupby("batch_size")
    )
    started, finished = runs["started_at"].dropna(), runs["finished_at"].dropna()
    elapsed = (finished.max() - started.min()).total_seconds() if len(started) and len(finished) else 0.0
    return StudySummary(total=_tally(counted), groups=groups, elapsed_seconds=elapsed)


def _tally(runs: pd.DataFrame) -> Tally:
    count = runs["status"].value_counts()
    ended = runs[runs["status"] != Status.PENDING.value]
    return Tally(
        planned=len(runs),
        **{status.value: int(count.get(status.value, 0)) for status in Status},
        steps=int(runs["steps"].sum()),
        train_seconds=total(ended["train_seconds"]),
        eval_seconds=total(ended["eval_seconds"]),
        flops=total(ended["flops"]),
    )
