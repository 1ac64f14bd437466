"""Times at which runs reach a target: one row per planned run, the basis of scaling, cost and verdicts.

The time T is that of the first evaluation at which the metric meets the target (docs/statistics.md, section 1). The
true time lies in the interval (`after`, T], where `after` is the previous evaluation that measured the metric: T is
interval-censored. It is left-censored (`after` is 0) if no earlier evaluation of the trained network measured the
metric, and T = 0 if the untrained network meets the target. A completed run that never meets the target is
right-censored at its budget, and one that was stopped early at the time of stopping. A diverged run never reaches the
target, even if it met it before: T is infinite. Failed and waiting runs have no T and keep their row.

Columns: those that identify the run (``trial_id, cell_id, optimizer, batch_size, seed, status, param.*``, and
``confirmation`` and ``design`` where `runs` has them); then

* ``outcome``: reached, censored, diverged, failed, waiting; ``met``: whether any evaluation met the target;
* ``steps, epochs, seconds, flops``: T (the budget where censored, infinite where diverged, NaN without a result);
* ``after.steps`` and so on: the lower end of T's interval (equal to T where censored or diverged);
* ``cap.steps`` and so on: the whole budget;
* ``at_first``: reached by the first evaluation after step 0; ``untrained``: reached at step 0;
* ``share``: position in (0, 1] within the interval at which the line between the two evaluations crosses the target; it
  ranks runs with equal intervals, and is not a measurement of T;
* ``fell_back``: reached, but the last evaluation doesn't meet the target.

Seconds are device-seconds: the run's share of its pack's training time. An evaluation whose metric is NaN did not
measure it. If a run has several evaluations at one step, the last is used.
"""

from __future__ import annotations

from dataclasses import dataclass
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
AFTER = "after."

_CURVE: dict[TimeUnit, str] = {"steps": "step", "epochs": "epoch", "seconds": "train_seconds", "flops": "flops"}
_TOTAL: dict[TimeUnit, str] = {"steps": "steps", "epochs": "epochs", "seconds": "train_seconds", "flops": "flops"}
_KEYS = ["trial_id", "cell_id", "optimizer", "batch_size", "seed", "status"]
_FURTHER = ("confirmation", "design")


def compute_times(runs: pd.DataFrame, curves: pd.DataFrame, metric: MetricName, target: float) -> pd.DataFrame:
    """Return the table described in the module's docstring, with the rows and the index of `runs`."""
    kept = [name for name in runs.columns if name in _FURTHER or str(name).startswith(PARAM_PREFIX)]
    table = runs[_KEYS + kept].copy()
    hits = first_meeting(curves, metric, target)
    place = pd.Index(hits["trial_id"]).get_indexer(runs["trial_id"])
    met = place >= 0
    status = runs["status"].to_numpy(dtype=object)
    sound, diverged = np.isin(status, SOUND), status == Status.DIVERGED.value
    stopped = status == Status.STOPPED.value
    reached = sound & met

    def of_hit(column: str) -> NDArray[np.float64]:
        return hits[column].to_numpy(dtype=float)[place] if len(hits) else np.full(len(runs), np.nan)

    table["outcome"] = np.select(
        [reached, sound, diverged, np.isin(status, WAITING)], ["reached", "censored", "diverged", "waiting"], "failed"
    )
    table["met"] = met
    for unit in UNITS:
        cap = _caps(runs, unit)
        own = runs[_TOTAL[unit]].to_numpy(dtype=float)
        unmet = np.select([stopped, sound, diverged], [own, cap, np.inf], np.nan)
        table[unit] = np.where(reached, of_hit(_CURVE[unit]), unmet)
        table[AFTER + unit] = np.where(reached, of_hit(AFTER + _CURVE[unit]), unmet)
        table[CAP + unit] = cap
    table["untrained"] = reached & (table["steps"] == 0)
    table["at_first"] = reached & (table[AFTER + "steps"] == 0) & ~table["untrained"]
    table["share"] = np.where(reached, of_hit("share"), np.nan)
    table["fell_back"] = reached & (of_hit("fell_back") == 1)
    return table


def known_units(runs: pd.DataFrame) -> tuple[TimeUnit, ...]:
    """Return the units in which the training time of some run is known; all units while no run has trained."""
    known = tuple(unit for unit in UNITS if (runs[_TOTAL[unit]].to_numpy(dtype=float) > 0).any())
    return known or UNITS


def first_meeting(curves: pd.DataFrame, metric: MetricName, target: float) -> pd.DataFrame:
    """Return each run's first evaluation that meets `target`, with the index of `curves`.

    Columns: trial_id, metric, step, epoch, train_seconds, flops; ``after.step`` and so on, of the previous evaluation
    (0 without one); ``share`` and ``fell_back``, as in the table of the module's docstring.
    """
    found = _crossings(curves, metric, target)
    first, before, rows = found.first, found.before, found.rows
    table = rows.iloc[first][["trial_id", metric, *_CURVE.values()]]
    values = rows[metric].to_numpy(dtype=float)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        share = (values[before] - target) / (values[before] - values[first])
    has_earlier = before >= 0
    earlier = {
        AFTER + name: np.where(has_earlier, rows[name].to_numpy(dtype=float)[before], 0.0) for name in _CURVE.values()
    }
    return table.assign(
        **earlier,
        share=np.where(has_earlier & np.isfinite(share), np.clip(share, 0.0, 1.0), 1.0),
        fell_back=~found.met[found.last],
    )


def deciding_rows(curves: pd.DataFrame, metric: MetricName, target: float) -> pd.DataFrame:
    """Return the few rows of `curves` from which `first_meeting` computes the same result as from all of them.

    For each run that meets `target`, these are the first evaluation that does, the previous one, and the last.
    """
    found = _crossings(curves, metric, target)
    decide = np.zeros(len(found.rows), dtype=bool)
    for places in (found.first, found.before[found.before >= 0], found.last):
        decide[places] = True
    return found.rows[decide]


@dataclass(frozen=True, eq=False)
class _Crossings:
    """Indices, in `rows`, of evaluations of the runs that meet a target."""

    rows: pd.DataFrame
    """Evaluations that measured the metric, sorted by run and step."""
    met: NDArray[np.bool_]
    """[rows] whether the evaluation meets the target."""
    first: NDArray[np.int_]
    """[runs that meet it] first evaluation that does."""
    before: NDArray[np.int_]
    """[runs that meet it] evaluation before `first`; -1 without one."""
    last: NDArray[np.int_]
    """[runs that meet it] last evaluation."""


def _crossings(curves: pd.DataFrame, metric: MetricName, target: float) -> _Crossings:
    rows, starts = _ordered(curves[curves[metric].notna()] if curves[metric].isna().any() else curves)
    values = rows[metric].to_numpy(dtype=float)
    met = np.isfinite(values) & (values <= target if METRICS[metric].lower_is_better else values >= target)
    where = np.flatnonzero(met)
    run = np.cumsum(starts)
    first = where[np.flatnonzero(np.diff(run[where], prepend=0))]
    ends = np.append(np.flatnonzero(starts)[1:], len(rows)) - 1
    return _Crossings(
        rows=rows, met=met, first=first, before=np.where(starts[first], -1, first - 1), last=ends[run[first] - 1]
    )


def _ordered(curves: pd.DataFrame) -> tuple[pd.DataFrame, NDArray[np.bool_]]:
    """Return the evaluations sorted by run and step, one per step, and which of them are the first of a run."""
    starts = _starts(curves)
    if starts is None:
        curves = curves.sort_values(["trial_id", "step"], kind="stable")
        starts = _new(curves["trial_id"])
    steps = curves["step"].to_numpy()
    repeated = ~starts[1:] & (steps[1:] == steps[:-1])
    if repeated.any():
        curves = curves[~np.append(repeated, False)]
        starts = _new(curves["trial_id"])
    return curves, starts


def _starts(curves: pd.DataFrame) -> NDArray[np.bool_] | None:
    """Return which rows are the first of a run; None if the table is not sorted by run and step."""
    starts, steps = _new(curves["trial_id"]), curves["step"].to_numpy()
    falls = steps[1:] < steps[:-1]
    return starts if curves["trial_id"][starts].is_unique and starts[1:][falls].all() else None


def _new(ids: pd.Series[str]) -> NDArray[np.bool_]:
    """Return which ids differ from the previous one."""
    found = np.ones(len(ids), dtype=bool)
    found[1:] = np.asarray(ids.array[1:] != ids.array[:-1], dtype=bool)
    return found


def _caps(runs: pd.DataFrame, unit: TimeUnit) -> NDArray[np.float64]:
    """Return the full budget of every run [runs]: its own total if it completed, else an estimate from other runs.

    For a run that did not complete, the budget in steps and epochs is that of completed runs at its batch size. In
    seconds and FLOPs it is that number of steps times the median per-step cost of completed runs of its optimizer.
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
