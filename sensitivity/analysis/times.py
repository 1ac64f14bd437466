"""When each run reaches a target: one row a planned run, from which scaling, cost and verdict are computed.

The time T is that of the first crossing: of the first evaluation at which the metric meets the target
(docs/statistics.md, section 1). What such an evaluation says is that T lies in the interval (`after`, T], where `after`
is the evaluation before it at which the metric was measured. So T is interval-censored. It is left-censored (`after` is
0) where no earlier evaluation of the trained network measured the metric, and T = 0 where the untrained network meets
the target. A completed run that never meets it is right-censored at its budget, one that was stopped early where it
stopped. A diverged run never reaches it, even one that met it on its way: T is infinite. Failed and waiting runs have
no T, and keep their row.

Columns: those that identify the run (``trial_id, cell_id, optimizer, batch_size, seed, status, param.*``, and
``confirmation`` and ``design`` where `runs` has them); then

* ``outcome``: reached, censored, diverged, failed, waiting; ``met``: whether any evaluation met the target;
* ``steps, epochs, seconds, flops``: T (the budget where censored, infinite where diverged, NaN without a result);
* ``after.steps`` and so on: the lower end of T's interval (equal to T where censored or diverged);
* ``cap.steps`` and so on: the whole budget;
* ``at_first``: reached by the first evaluation after step 0; ``untrained``: reached at step 0;
* ``share``: where the line between the two evaluations crosses the target, as a share of the interval in (0, 1]; it
  ranks runs whose intervals are equal, and is no measurement of T;
* ``fell_back``: reached, and the last evaluation doesn't meet the target.

Seconds are device-seconds: the run's share of its pack's training time. An evaluation whose metric is NaN did not
measure it. Of several evaluations of a run at one step the last counts.
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
    """Return the table that the module describes, with the rows and the index of `runs`."""
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
    """Return the units in which some run says how long it trained; all, while none has trained."""
    known = tuple(unit for unit in UNITS if (runs[_TOTAL[unit]].to_numpy(dtype=float) > 0).any())
    return known or UNITS


def first_meeting(curves: pd.DataFrame, metric: MetricName, target: float) -> pd.DataFrame:
    """Return each run's first evaluation that meets `target`, with the index of `curves`.

    Columns: trial_id, metric, step, epoch, train_seconds, flops; ``after.step`` and so on, of the evaluation before it
    (0 without one); ``share`` and ``fell_back``, as in the module's table.
    """
    found = _crossings(curves, metric, target)
    first, before, rows = found.first, found.before, found.rows
    table = rows.iloc[first][["trial_id", metric, *_CURVE.values()]]
    values = rows[metric].to_numpy(dtype=float)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        share = (values[before] - target) / (values[before] - values[first])
    there = before >= 0
    earlier = {AFTER + name: np.where(there, rows[name].to_numpy(dtype=float)[before], 0.0) for name in _CURVE.values()}
    return table.assign(
        **earlier,
        share=np.where(there & np.isfinite(share), np.clip(share, 0.0, 1.0), 1.0),
        fell_back=~found.met[found.last],
    )


def deciding_rows(curves: pd.DataFrame, metric: MetricName, target: float) -> pd.DataFrame:
    """Return the few rows of `curves` of which `first_meeting` makes what it makes of all.

    They are, of each run that meets `target`, the first evaluation that does, the one before it, and the last.
    """
    found = _crossings(curves, metric, target)
    places = np.unique(np.concatenate([found.first, found.before[found.before >= 0], found.last]))
    return found.rows.iloc[places]


@dataclass(frozen=True, eq=False)
class _Crossings:
    """Positions in `rows` of the runs that meet a target."""

    rows: pd.DataFrame
    """Evaluations that measured the metric, by run and step."""
    met: NDArray[np.bool_]
    """[rows]"""
    first: NDArray[np.int_]
    """[runs that meet it]"""
    before: NDArray[np.int_]
    """The evaluation before; -1 without one."""
    last: NDArray[np.int_]


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
    """Return evaluations by run and step, the last of several at one step, and which of them begin a run."""
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
    """Return the rows at which a run begins; None where runs or their steps are out of order, as any table's may be."""
    starts, steps = _new(curves["trial_id"]), curves["step"].to_numpy()
    falls = steps[1:] < steps[:-1]
    return starts if curves["trial_id"][starts].is_unique and starts[1:][falls].all() else None


def _new(ids: pd.Series[str]) -> NDArray[np.bool_]:
    """Return where an id differs from the one before."""
    found = np.ones(len(ids), dtype=bool)
    found[1:] = np.asarray(ids.array[1:] != ids.array[:-1], dtype=bool)
    return found


def _caps(runs: pd.DataFrame, unit: TimeUnit) -> NDArray[np.float64]:
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
