"""The value of each run in statistics over runs.

A completed run counts with its final metric. A diverged run counts with the metric of the untrained network of its
seed, before the first step (docs/statistics.md, section 5, which defines this for the loss); for the accuracy, that is
chance level. Divergence therefore costs all that was learned, and is never dropped from a median. A loss beyond
`LARGEST` counts as `LARGEST`, so that sums and squares of losses stay finite. A run that was stopped early counts with
its value at that time. Failed, interrupted and pending runs are no evidence about the optimizer: they have no value,
and stay in the denominators.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from sensitivity.study.metrics import Metric, most_informative_first
from sensitivity.study.observed import OBSERVED as ELSEWHERE
from sensitivity.study.results import Status

SOUND = (Status.COMPLETED.value, Status.STOPPED.value)
"""Statuses of runs that trained without an error or divergence until they ended."""
OBSERVED = (*SOUND, Status.DIVERGED.value)
WAITING = (Status.PENDING.value, Status.INTERRUPTED.value)
"""Statuses of runs that the next `run` trains."""

LARGEST = 1e100
"""Upper bound that recorded losses are clipped to."""


def made_elsewhere(runs: pd.DataFrame) -> bool:
    """Whether runs were trained elsewhere, so that `run` can't train the missing ones."""
    return "kind" in runs and bool((runs["kind"] == ELSEWHERE).any())


def available_metrics(runs: pd.DataFrame, measured: Iterable[Metric]) -> tuple[Metric, ...]:
    """Return the metrics of `measured` that some run has a finite value of, the most informative first."""
    there = [name for name in measured if name in runs and np.isfinite(runs[name].to_numpy(dtype=float)).any()]
    return most_informative_first(there)


def untrained_values(runs: pd.DataFrame, curves: pd.DataFrame, metric: Metric) -> pd.Series[float]:
    """Return each run's metric before its first step, with the index of `runs`.

    A run without an evaluation at step 0 has the median over those with one; NaN if there is none.
    """
    start = curves.loc[curves["step"] == 0].drop_duplicates("trial_id")
    known = pa.array(start["trial_id"], pa.string())
    places = pc.index_in(pa.array(runs["trial_id"], pa.string()), value_set=known).fill_null(len(known)).to_numpy()
    values = pd.Series(np.append(start[metric.name].to_numpy(dtype=float), np.nan)[places], runs.index)
    if metric.name == "train_loss":
        values = values.fillna(runs["initial_train_loss"].astype(float))
    values = values.where(np.isfinite(values)).clip(-LARGEST, LARGEST)
    return values.fillna(values.median())


def counted_values(runs: pd.DataFrame, curves: pd.DataFrame, metric: Metric) -> pd.Series[float]:
    """Return the value that each run counts with, with the index of `runs`; NaN where it has none."""
    measured = runs[metric.name].astype(float)
    measured = measured.where(~np.isfinite(measured), measured.clip(-LARGEST, LARGEST))
    finished_well = runs["status"].isin(SOUND) & np.isfinite(measured)
    observed = runs["status"].isin(OBSERVED)
    return measured.where(finished_well, untrained_values(runs, curves, metric).where(observed))
