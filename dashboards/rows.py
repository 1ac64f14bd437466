"""The table of runs, a page of rows at a time: filtered and sorted here, so that any number of runs can be read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sensitivity.store.schema import PARAM_PREFIX, metric_columns

MOST_ROWS = 500
"""Of one answer."""

_LEADING = ("optimizer", "batch_size", "seed", "status")
_FOLLOWING = (
    "steps", "epochs", "train_seconds", "flops",
    "device", "host", "finished_at", "message", "trial_id",
)  # fmt: skip


def columns(runs: pd.DataFrame) -> tuple[str, ...]:
    """Return the columns of the table, in order; metrics and hyperparameters that no run has are left out."""
    params = [
        str(name) for name in runs if str(name).startswith(PARAM_PREFIX) and len(runs[name].dropna().unique()) > 1
    ]
    following = [name for name in (*_metrics(runs), *_FOLLOWING) if name in runs and runs[name].notna().any()]
    return (*_LEADING[:2], *params, *_LEADING[2:], *following)


def _metrics(runs: pd.DataFrame) -> list[str]:
    """Return the columns of metrics: the usual ones, and further ones of the study beside those of their split."""
    known = ("test_accuracy", "train_loss", "test_loss", "train_accuracy")
    return [*known, *(name for name in metric_columns(map(str, runs.columns)) if name not in known)]


def rows_of(runs: pd.DataFrame, request: Mapping[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """Return the rows that the grid requests, and their total number; filters that aren't understood are ignored."""
    shown = columns(runs)
    left = runs
    model = request.get("filterModel")
    for name, wanted in (model if isinstance(model, dict) else {}).items():
        if name in shown and isinstance(wanted, dict):
            left = left[_matches(pd.Series(left[name]), wanted)]
    sorting = request.get("sortModel")
    by = [s for s in (sorting if isinstance(sorting, list) else []) if isinstance(s, dict) and s.get("colId") in shown]
    if by:
        left = left.sort_values(
            [s["colId"] for s in by], ascending=[s.get("sort") != "desc" for s in by], kind="stable", na_position="last"
        )
    start = _whole(request.get("startRow"))
    stop = min(_whole(request.get("endRow")), start + MOST_ROWS)
    page = left.iloc[start:stop]
    return [{name: _plain(row[name]) for name in shown} for row in page.to_dict("records")], len(left)


def _matches(values: pd.Series[Any], wanted: Mapping[str, Any]) -> np.ndarray:
    conditions = wanted.get("conditions")
    if isinstance(conditions, list):
        parts = [_matches(values, part) for part in conditions if isinstance(part, dict)]
        together = np.logical_or if wanted.get("operator") == "OR" else np.logical_and
        return np.asarray(together.reduce(parts)) if parts else np.ones(len(values), dtype=bool)
    kind, given = wanted.get("type"), wanted.get("filter")
    if kind in ("blank", "notBlank"):
        empty = (values.isna() | (values.astype(str) == "")).to_numpy()
        return empty if kind == "blank" else ~empty
    if wanted.get("filterType") == "number" and pd.api.types.is_numeric_dtype(values):
        return _numbers(values.to_numpy(dtype=float), str(kind), given, wanted.get("filterTo"))
    return _text(values, str(kind), str(given or "").casefold())


def _numbers(values: np.ndarray, kind: str, given: Any, to: Any) -> np.ndarray:
    if not isinstance(given, (int, float)):
        return np.ones(len(values), dtype=bool)
    compare = {
        "equals": np.isclose(values, given, rtol=1e-6, atol=0),
        "notEqual": ~np.isclose(values, given, rtol=1e-6, atol=0),
        "lessThan": values < given,
        "lessThanOrEqual": values <= given,
        "greaterThan": values > given,
        "greaterThanOrEqual": values >= given,
        "inRange": (values >= given) & (values <= (to if isinstance(to, (int, float)) else math.inf)),
    }
    return np.asarray(compare.get(kind, np.ones(len(values), dtype=bool)))


def _text(values: pd.Series[Any], kind: str, given: str) -> np.ndarray:
    text = values.astype(str).str.casefold()
    compare = {
        "contains": lambda: text.str.contains(given, regex=False),
        "notContains": lambda: ~text.str.contains(given, regex=False),
        "equals": lambda: text == given,
        "notEqual": lambda: text != given,
        "startsWith": lambda: text.str.startswith(given),
        "endsWith": lambda: text.str.endswith(given),
    }
    return np.asarray(compare[kind]() if kind in compare else np.ones(len(values)), dtype=bool)


def _whole(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) and 0 <= value < 1e9 else 0


def _plain(value: Any) -> Any:
    if isinstance(value, pd.Timestamp):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if value is None or value is pd.NaT or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value
