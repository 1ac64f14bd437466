"""Learning curves of a cell: one per seed, and their median and range.

After its last finite evaluation, a diverged run counts in the median and the range with the metric of the untrained
network (``outcomes``), so that losing bad runs does not make a cell look better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from sensitivity.analysis.outcomes import LARGEST, OBSERVED, untrained_values
from sensitivity.study.metrics import Metric
from sensitivity.study.results import Status

CurveTime = Literal["epoch", "step"]


@dataclass(frozen=True, kw_only=True)
class SeedCurve:
    """The evaluations of one run with a finite metric, in order."""

    seed: int
    status: str
    times: tuple[float, ...]
    """Epochs or steps of the evaluations, as the cell's `unit` says."""
    measured: tuple[float, ...]

    @property
    def diverged(self) -> bool:
        """Whether the run diverged."""
        return self.status == Status.DIVERGED.value


@dataclass(frozen=True, kw_only=True)
class CellCurves:
    """The learning curves of a cell; statistics are over the runs that completed or diverged."""

    metric: Metric
    cell_id: str
    optimizer: str
    batch_size: int
    planned: int
    seeds: tuple[SeedCurve, ...]
    unit: CurveTime
    times: tuple[float, ...]
    """Epochs or steps at which `median`, `low` and `high` are evaluated."""
    median: tuple[float, ...]
    low: tuple[float, ...]
    """Smallest value over seeds."""
    high: tuple[float, ...]
    """Largest value over seeds."""

    @property
    def n(self) -> int:
        """Number of runs in the median."""
        return len(self.seeds)


def compute_curves(
    runs: pd.DataFrame, curves: pd.DataFrame, metric: Metric, cell_ids: Sequence[str]
) -> tuple[CellCurves, ...]:
    """Return the learning curves of the cells `cell_ids`, in that order, all by epoch or all by step.

    Raises:
        KeyError: a cell id that is not in `runs`.
    """
    chosen = runs[runs["cell_id"].isin(cell_ids)].assign(untrained=lambda rows: untrained_values(rows, curves, metric))
    cells = {str(name): rows for name, rows in chosen.groupby("cell_id")}
    finite = curves[curves["trial_id"].isin(chosen["trial_id"]) & np.isfinite(curves[metric.name])]
    finite = finite.drop_duplicates(["trial_id", "step"], keep="last")
    finite = finite.assign(**{str(metric.name): finite[metric.name].clip(-LARGEST, LARGEST)})
    evaluations = {str(name): rows for name, rows in finite.sort_values("step").groupby("trial_id", sort=False)}
    unit = curve_time(finite)
    return tuple(_cell(cells[cell_id], evaluations, metric, unit) for cell_id in cell_ids)


def curve_time(evaluations: pd.DataFrame) -> CurveTime:
    """Return the unit by which some evaluations are drawn: epochs, or steps if their epochs are not all known."""
    return "epoch" if np.isfinite(evaluations["epoch"].to_numpy(dtype=float)).all() else "step"


def _cell(rows: pd.DataFrame, evaluations: dict[str, pd.DataFrame], metric: Metric, unit: CurveTime) -> CellCurves:
    observed = rows[rows["status"].isin(OBSERVED)].sort_values("seed")
    seeds, columns = [], []
    for run in observed.itertuples():
        of_run = evaluations.get(str(run.trial_id), pd.DataFrame({unit: [], metric.name: []}))
        seeds.append(
            SeedCurve(
                seed=int(str(run.seed)),
                status=str(run.status),
                times=tuple(of_run[unit].astype(float)),
                measured=tuple(of_run[metric.name]),
            )
        )
        columns.append(of_run.set_index(unit)[metric.name].rename(str(run.seed)))
    # One column per seed, on the union of the evaluations [evaluations, seeds].
    table = pd.concat(columns, axis=1).sort_index() if columns else pd.DataFrame()
    for name, seed, untrained in zip(table, seeds, observed["untrained"], strict=True):
        if seed.diverged:
            ended = table.index > max(seed.times, default=-1.0)
            table[name] = table[name].mask(ended, untrained)
    table = table.dropna()
    first = rows.iloc[0]
    return CellCurves(
        metric=metric,
        cell_id=str(first["cell_id"]),
        optimizer=str(first["optimizer"]),
        batch_size=int(first["batch_size"]),
        planned=len(rows),
        seeds=tuple(seeds),
        unit=unit,
        times=tuple(float(time) for time in table.index),
        median=tuple(table.median(axis=1)) if columns else (),
        low=tuple(table.min(axis=1)) if columns else (),
        high=tuple(table.max(axis=1)) if columns else (),
    )
