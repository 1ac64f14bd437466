"""Learning curves of a cell: one per seed, and their median and range.

After its last finite evaluation, a diverged run counts in the median and the range with the metric of the untrained
network (``outcomes``), so that losing bad runs does not make a cell look better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sensitivity.analysis.outcomes import LARGEST, OBSERVED, untrained_values
from sensitivity.study.metrics import Metric
from sensitivity.study.results import Status


@dataclass(frozen=True, kw_only=True)
class SeedCurve:
    """The evaluations of one run with a finite metric, in order."""

    seed: int
    status: str
    epochs: tuple[float, ...]
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
    epochs: tuple[float, ...]
    """Epochs at which `median`, `low` and `high` are evaluated."""
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
    """Return the learning curves of the cells `cell_ids`, in that order.

    Raises:
        KeyError: a cell id that is not in `runs`.
    """
    chosen = runs[runs["cell_id"].isin(cell_ids)].assign(untrained=lambda rows: untrained_values(rows, curves, metric))
    cells = {str(name): rows for name, rows in chosen.groupby("cell_id")}
    finite = curves[curves["trial_id"].isin(chosen["trial_id"]) & np.isfinite(curves[metric.name])]
    finite = finite.drop_duplicates(["trial_id", "step"], keep="last")
    finite = finite.assign(**{str(metric.name): finite[metric.name].clip(-LARGEST, LARGEST)})
    evaluations = {str(name): rows for name, rows in finite.sort_values("step").groupby("trial_id", sort=False)}
    return tuple(_cell(cells[cell_id], evaluations, metric) for cell_id in cell_ids)


def _cell(rows: pd.DataFrame, evaluations: dict[str, pd.DataFrame], metric: Metric) -> CellCurves:
    observed = rows[rows["status"].isin(OBSERVED)].sort_values("seed")
    seeds, columns = [], []
    for run in observed.itertuples():
        of_run = evaluations.get(str(run.trial_id), pd.DataFrame({"epoch": [], metric.name: []}))
        seeds.append(
            SeedCurve(
                seed=int(str(run.seed)),
                status=str(run.status),
                epochs=tuple(of_run["epoch"]),
                measured=tuple(of_run[metric.name]),
            )
        )
        columns.append(of_run.set_index("epoch")[metric.name].rename(str(run.seed)))
    # One column per seed, on the union of the evaluations [evaluations, seeds].
    table = pd.concat(columns, axis=1).sort_index() if columns else pd.DataFrame()
    for name, seed, untrained in zip(table, seeds, observed["untrained"], strict=True):
        if seed.diverged:
            ended = table.index > max(seed.epochs, default=-1.0)
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
        epochs=tuple(float(epoch) for epoch in table.index),
        median=tuple(table.median(axis=1)) if columns else (),
        low=tuple(table.min(axis=1)) if columns else (),
        high=tuple(table.max(axis=1)) if columns else (),
    )
