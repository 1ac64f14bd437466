"""Numbers of single runs that figures use as axes: hyperparameters, metrics and costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.axes import is_reversed
from sensitivity.figures.labels import metric_value, number, safe
from sensitivity.figures.scales import metric_scale
from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.hyperparameters import hyperparameter
from sensitivity.study.metrics import Metric, named
from sensitivity.study.words import duration

COSTS: Mapping[str, str] = {
    "batch_size": "batch size",
    "seed": "seed",
    "steps": "steps",
    "epochs": "epochs",
    "train_seconds": "training time, s",
    "flops": "floating-point operations",
    "clip_share": "share of steps clipped",
    "initial_train_loss": "training loss of the untrained network",
}
"""Numeric columns of the table of runs other than hyperparameters and metrics -> their labels."""
_LABELS = {"trial_id": "run", "cell_id": "cell", "started_at": "started", "finished_at": "ended"}
_WHOLE = ("batch_size", "steps", "pack_size")
_LOG_FROM = 20.0
"""Positive numbers are drawn on a logarithmic axis if the largest is at least this many times the smallest."""
_MAX_TICKS = 7


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Positions of runs along an axis, with the labelled positions."""

    label: str
    places: np.ndarray
    """[runs]; NaN for a run without the number."""
    tickvals: tuple[float, ...]
    ticktext: tuple[str, ...]
    reversed: bool = False


def column_label(column: str, measured: Iterable[Metric]) -> str:
    """Return the label of a column of the table of runs."""
    metric = named(column, measured)
    if metric is not None:
        return metric.label
    if column.startswith(PARAM_PREFIX):
        return hyperparameter(column.removeprefix(PARAM_PREFIX)).label
    return _LABELS.get(column) or COSTS.get(column) or column.replace("_", " ").replace(".", " of ")


def column_value(column: str, value: object, measured: Iterable[Metric]) -> str:
    """Return a value of a column of the table of runs as text; a dash if there is none."""
    if value is None or value is pd.NaT or value != value or value == "":
        return "–"
    metric = named(column, measured)
    if metric is not None and isinstance(value, float):
        return metric_value(metric, value)
    if isinstance(value, pd.Timestamp):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if column in ("train_seconds", "eval_seconds") and isinstance(value, float):
        return duration(value)
    if isinstance(value, float):
        return f"{int(value):,}" if column in _WHOLE and value.is_integer() else number(value, 4)
    return f"{value:,}" if isinstance(value, int) and column in _WHOLE else str(value)


def run_numbers(results: StudyResults) -> dict[str, str]:
    """Return column -> label of each number that some run has: varied hyperparameters, metrics, costs."""
    runs = results.runs
    parameters = {PARAM_PREFIX + name: safe(hyperparameter(name).label) for name in results.varying}
    metrics = {metric.name: metric.label for metric in dict.fromkeys((results.metric, *results.metrics))}
    costs = {name: label for name, label in COSTS.items() if name in runs and runs[name].notna().any()}
    return parameters | metrics | costs


def axis_of(results: StudyResults, runs: pd.DataFrame, column: str) -> Axis:
    """Return the axis of a number of `runs`, in the same coordinate as in other figures."""
    values = runs[column].to_numpy(dtype=float)
    metric = named(column, results.spec.measured())
    if metric is not None:
        return _of_metric(metric, values)
    if column.startswith(PARAM_PREFIX):
        name = column.removeprefix(PARAM_PREFIX)
        declared = hyperparameter(name)
        placed = np.array([declared.coordinate(value) if np.isfinite(value) else np.nan for value in values])
        return _of_numbers(safe(declared.coordinate_label), placed, reverse=is_reversed(name))
    return _of_numbers(run_numbers(results)[column], values)


def _of_metric(metric: Metric, values: np.ndarray) -> Axis:
    scale = metric_scale(metric, values)
    places = np.array([scale.position(value) if np.isfinite(value) else np.nan for value in values])
    return Axis(label=metric.label, places=places, tickvals=scale.tickvals, ticktext=scale.ticktext)


def _of_numbers(label: str, values: np.ndarray, *, reverse: bool = False) -> Axis:
    known = np.unique(values[np.isfinite(values)])
    log = bool(len(known) and known[0] > 0 and known[-1] >= _LOG_FROM * known[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        places = np.where(np.isfinite(values), np.log10(values) if log else values, np.nan)
    at = np.log10(known) if log else known
    if len(at) > _MAX_TICKS:
        low, high = float(at[0]), float(at[-1])
        whole = np.arange(np.ceil(low), np.floor(high) + 1) if log else np.array([])
        at = whole if len(whole) >= 3 else np.linspace(low, high, _MAX_TICKS - 1)
        at = at[:: -(-len(at) // _MAX_TICKS)]
    text = tuple(number(10**value if log else value, 3) for value in at.tolist())
    return Axis(label=label, places=places, tickvals=tuple(at.tolist()), ticktext=text, reversed=reverse)
