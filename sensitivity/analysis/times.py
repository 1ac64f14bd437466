"""When each run reaches a target: one row a planned run, from which scaling, cost and verdict are computed.

The time T is the first evaluation of a completed run at which the metric meets the target (STATISTICS.md,
section 1). A completed run that never does is censored at its budget, one that was stopped early where it
stopped. A diverged run never reaches it, even one that met it on its way: T is infinite. Failed and waiting runs
have no T, and keep their row.

Columns: those that identify the run (``trial_id, cell_id, optimizer, batch_size, seed, status, param.*``); then
``outcome`` (reached, censored, diverged, failed, waiting); ``met``, whether any evaluation met the target; T in
the four units ``steps, epochs, seconds, flops`` (the budget where censored, infinite where diverged, NaN without
a result); and ``cap.steps`` and so on, the whole budget in each unit. Seconds are device-seconds: the run's share
of its pack's training time.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sensitivity.analysis.outcomes import SOUND, WAITING
from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.metrics import METRICS, MetricName
from sensitivity.study.results import Status

TimeUnit = Literal["steps", "epochs", "seconds", "flops"]
UNITS: tuple[TimeUnit, ...] = ("steps", "epochs", "seconds", "flops")
CAP = "cap."

_CURVE: dict[TimeUnit, str] = {"steps": "step", "epochs": "epoch", "seconds": "train_seconds", "flops": "flops"}
_TOTAL: dict[TimeUnit, str] = {"steps": "steps", "epochs": "epochs", "seconds": "train_seconds", "flops": "flops"}
_KEYS = ["trial_id", "cell_id", "optimizer", "batch_size", "seed", "status"]


def compute_times(runs: pd.DataFrame, curves: pd.DataFrame, metric: MetricName, target: float) -> pd.DataFrame:
    """Return the table that the module describes, with the rows and the index of `runs`."""
    params = [name for name in runs.columns if str(name).startswith(PARAM_PREFIX)]
    table = runs[_KEYS + params].copy()
    hits = first_meeting(curves, metric, target)
    place = pd.Index(hits["trial_id"]).get_indexer(runs["trial_id"])
    met = place >= 0
    status = runs["status"].to_numpy(dtype=object)
    sound, diverged = np.isin(status, SOUND), status == Status.DIVERGED.value
    stopped = status == Status.STOPPED.value
    table["outcome"] = np.select(
        [sound & met, sound, diverged, np.isin(status, WAITING)],
        ["reached", "censored", "diverged", "waiting"],
        "failed",
    )
    table["met"] = met
    for unit in UNITS:
        at = hits[_CURVE[unit]].to_numpy(dtype=float)[place] if len(hits) else np.full(len(runs), np.nan)
        cap = _caps(runs, unit)
        own = runs[_TOTAL[unit]].to_numpy(dtype=float)
        time = np.select([sound & met, stopped, sound, diverged], [at, own, cap, np.inf], np.nan)
        table[unit], table[CAP + unit] = time, cap
    return table


def first_meeting(curves: pd.DataFrame, metric: MetricName, target: float) -> pd.DataFrame:
    """Return each run's first evaluation that meets `target`: trial_id, metric, step, epoch, train_seconds, flops."""
    columns = ["trial_id", metric, *_CURVE.values()]
    starts = _starts(curves)
    if starts is None:
        curves = curves[columns].sort_values(["trial_id", "step"], kind="stable")
        starts = _new(curves["trial_id"])
    values = curves[metric].to_numpy(dtype=float)
    met = np.flatnonzero(values <= target if METRICS[metric].lower_is_better else values >= target)
    run = np.cumsum(starts)[met]
    return curves.iloc[met[np.flatnonzero(np.diff(run, prepend=0))]][columns]


def _starts(curves: pd.DataFrame) -> NDArray[np.bool_] | None:
    """Return the rows at which a run begins; None where runs or their steps are out of order, as any table's may be."""
    starts, steps = _new(curves["trial_id"]), curves["step"].to_numpy()
    falls = steps[1:] < steps[:-1]
    return starts if curves["trial_id"][starts].is_unique and starts[1:][falls].all() else None


def _new(ids: pd.Series[str]) -> NDArray[np.bool_]:
    """Return where an id differs from the one before."""
    found = np.ones(len(ids), dtype=bool)
    found[1:] = np.asarray(ids.array[1:] != ids.array[:-1], dtype=bool)
    return found


def _caps(runs: pd.DataFrame, unit: TimeUnit) -> np.ndarray:
    """Return the whole budget of every run [runs]: its own where it completed, else that of its peers.

    A diverged run stopped early. In steps and epochs it would have had what any completed run of its batch size
    had; in seconds and FLOPs, what its own rate a step makes of those steps.
    """
    total = runs[_TOTAL[unit]].to_numpy(dtype=float)
    completed = (runs["status"] == Status.COMPLETED.value).to_numpy()
    if unit in ("steps", "epochs"):
        whole = runs.assign(total=np.where(completed, total, np.nan)).groupby("batch_size")["total"].transform("max")
        longest = runs.assign(total=total).groupby("batch_size")["total"].transform("max")
        return np.where(completed, total, whole.fillna(longest).to_numpy(dtype=float))
    steps = runs["steps"].to_numpy(dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.where(steps > 0, total / steps, np.nan)
    groups = [runs["optimizer"], runs["batch_size"]]
    typical = pd.Series(np.where(completed, rate, np.nan), index=runs.index).groupby(groups, sort=False)
    filled = typical.transform("median").fillna(pd.Series(rate, index=runs.index)).to_numpy(dtype=float)
    return np.where(completed, total, filled * _caps(runs, "steps"))
