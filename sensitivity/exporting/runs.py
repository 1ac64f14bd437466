"""``FinishedRun``: a run in a form common to all trackers, and the finished runs of a study directory."""

from __future__ import annotations

import datetime
import math
from collections import deque
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pyarrow as pa

from sensitivity.store.directory import Place
from sensitivity.store.effective import part_by_trial
from sensitivity.store.parts import MergedError
from sensitivity.store.reader import StudyRuns, read_evaluations
from sensitivity.store.schema import CURVE_COLUMNS, PARAM_PREFIX, PHASE_PREFIX, further_metrics
from sensitivity.study.arms import Arm
from sensitivity.study.results import Status
from sensitivity.study.spec import StudySpec

Setting = str | int | float | bool
_SUMMARY = ("steps", "initial_train_loss", "eval_seconds", "clip_share")
"""Columns of runs that curves do not have; those of phases are added."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation of a run."""

    step: int
    at: float
    """Approximate time in seconds since the epoch: the start of the pack plus the run's own training time."""
    values: Mapping[str, float]
    """Measured values by column of the curves."""


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run with its final result."""

    trial_id: str
    name: str
    """Readable name, such as "sgd, batch 64, lr=0.1, seed 3"."""
    group: str
    """The name without the seed; runs of a group differ only in the seed."""
    cell_id: str
    config: Mapping[str, Setting]
    """Configuration: optimizer, batch size, seed, hyperparameters, problem, budget."""
    status: Status
    message: str
    started_at: float
    """Start in seconds since the epoch."""
    finished_at: float
    evaluations: Sequence[Evaluation]
    summary: Mapping[str, float] = field(default_factory=dict)
    """Numbers that describe the run as a whole, by column of the runs; metrics are the last finite ones."""
    extra: Mapping[str, float] = field(default_factory=dict)
    """Entries of the summary that curves do not have."""

    @property
    def succeeded(self) -> bool:
        """Whether the run was completed, or stopped early by pruning."""
        return self.status in (Status.COMPLETED, Status.STOPPED)


def final_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with a final result; others are pending, or will be trained again."""
    return runs[runs["status"].isin([status.value for status in Status if status.final])]


def finished_runs(
    directory: Place, study: StudyRuns, wanted: pd.DataFrame, more: Mapping[str, Setting]
) -> Iterator[FinishedRun]:
    """Yield runs of a study directory with their curves, part by part.

    Args:
        directory: study directory.
        study: runs of the study.
        wanted: rows of ``study.runs`` to yield.
        more: further entries of each configuration.

    Raises:
        StorageError: a part is damaged, or can't be read.
    """
    spec = study.manifest.spec
    metrics = further_metrics(spec.measured())
    columns = [*CURVE_COLUMNS, *metrics]
    config = {**_shared(spec), **more}
    fixed = {name: _fixed(arm) for name, arm in spec.optimizers.items()}
    by_id = {row["trial_id"]: row for row in wanted.to_dict("records")}
    parts = study.parts[study.parts.index.isin(by_id.keys())]
    waiting = deque(parts.groupby(parts, sort=False))
    while waiting:
        part, own = waiting[0]
        try:
            curves = _by_run(read_evaluations(directory, str(part), columns, set(own.index)))
        except MergedError:
            left = pd.concat([group for _, group in waiting]).index
            parts = part_by_trial(directory).reindex(left).dropna()
            waiting = deque(parts.groupby(parts, sort=False))
            continue
        waiting.popleft()
        for trial_id in own.index:
            row = by_id[trial_id]
            yield _finished(row, curves.get(str(trial_id), []), config, fixed.get(row["optimizer"], frozenset()))


def _fixed(arm: Arm) -> frozenset[str]:
    """Return the hyperparameters with a single value, which names omit."""
    return frozenset(name for name, axis in arm.axes().items() if axis.scale == "values" and len(axis.values) == 1)


def _by_run(table: pa.Table) -> MutableMapping[str, list[dict[str, Any]]]:
    curves: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        curves.setdefault(row.pop("trial_id"), []).append(row)
    return curves


def _shared(spec: StudySpec) -> dict[str, Setting]:
    shared: dict[str, Setting] = {"study": spec.name}
    if spec.problem is not None:
        shared |= {"dataset": str(spec.problem.dataset), "model": str(spec.problem.model)}
    return shared if spec.budget is None else {**shared, "budget": spec.budget_in_words()}


def _finished(
    row: Mapping[Any, Any], curve: Sequence[Mapping[str, Any]], shared: Mapping[str, Setting], fixed: Collection[str]
) -> FinishedRun:
    values = {
        str(name).removeprefix(PARAM_PREFIX): float(value)
        for name, value in row.items()
        if str(name).startswith(PARAM_PREFIX) and not _absent(value)
    }
    status = Status(row["status"])
    varied = [f"{name}={value:g}" for name, value in values.items() if name not in fixed]
    words = ", ".join([str(row["optimizer"]), f"batch {row['batch_size']}", *varied])
    started, finished = _seconds(row["started_at"]), _seconds(row["finished_at"])
    started = finished if math.isnan(started) else started
    extra = {name: row[name] for name in row if name in _SUMMARY or str(name).startswith(PHASE_PREFIX)}
    metrics = {name: row[name] for name in further_metrics(row)}
    usual = ("epochs", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "train_seconds", "flops")
    summary = {**{name: row[name] for name in usual}, **metrics, **extra}
    return FinishedRun(
        trial_id=str(row["trial_id"]),
        name=f"{words}, seed {row['seed']}",
        group=words,
        cell_id=str(row["cell_id"]),
        config={
            **shared,
            "optimizer": str(row["optimizer"]),
            "kind": str(row["kind"]),
            "batch_size": int(row["batch_size"]),
            "seed": int(row["seed"]),
            "confirmation": bool(row["confirmation"]),
            **values,
        },
        status=status,
        message=str(row["message"]),
        started_at=started,
        finished_at=finished,
        evaluations=_evaluations(curve, started, diverged=status is Status.DIVERGED),
        summary=_measured(summary),
        extra=_measured(extra),
    )


def _evaluations(curve: Sequence[Mapping[str, Any]], started: float, *, diverged: bool) -> list[Evaluation]:
    """Return the measured values of a curve, and for a diverged run also the loss at which it diverged."""
    found = []
    for place, row in enumerate(curve, start=1):
        values = {str(name): float(value) for name, value in row.items() if name != "step" and not _absent(value)}
        if diverged and place == len(curve):
            values["train_loss"] = math.nan if _absent(row["train_loss"]) else float(row["train_loss"])
        at = started + values.get("train_seconds", 0.0)
        found.append(Evaluation(step=int(row["step"]), at=at, values=values))
    return found


def _measured(values: Mapping[Any, Any]) -> dict[str, float]:
    return {str(name): float(value) for name, value in values.items() if not _absent(value)}


def _absent(value: Any) -> bool:
    return value is None or value is pd.NaT or (isinstance(value, float) and math.isnan(value))


def _seconds(moment: Any) -> float:
    return moment.timestamp() if isinstance(moment, datetime.datetime) and not _absent(moment) else math.nan
