"""The table of runs, one page of rows at a time: filtered and sorted on the server, for any number of runs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

from dashboards.listing import Listing, grid_model
from sensitivity.store.schema import PARAM_PREFIX, metric_columns

MAX_ROWS = 500
"""Largest number of rows in one response."""

CHOSEN = "chosen"
"""Column of the table, in no study, that says whether a run is selected for comparison."""
_LEADING = ("optimizer", "batch_size", "seed", "status")
_FOLLOWING = (
    "steps", "epochs", "train_seconds", "flops",
    "device", "host", "finished_at", "message", "trial_id",
)  # fmt: skip
_NOTED = ("tags", "note")
_NEVER = ("traceback",)
"""Columns of many lines, which only the page of a run shows."""


def columns(runs: pd.DataFrame) -> tuple[str, ...]:
    """Return the usual columns of the table, in order, without those that are empty in every run."""
    params = [
        str(name) for name in runs if str(name).startswith(PARAM_PREFIX) and len(runs[name].dropna().unique()) > 1
    ]
    noted = [name for name in _NOTED if name in runs and (runs[name] != "").any()]
    following = [name for name in (*_metrics(runs), *_FOLLOWING) if name in runs and runs[name].notna().any()]
    return (*_LEADING[:2], *params, *_LEADING[2:], *noted, *following)


def available(runs: pd.DataFrame) -> tuple[str, ...]:
    """Return all columns that the table can show: the usual ones, and others with a value in some run."""
    usual = columns(runs)
    rest = [str(name) for name in runs if name in _NOTED or (name not in _NEVER and runs[name].notna().any())]
    return tuple(dict.fromkeys((*usual, *rest)))


def shown_columns(runs: pd.DataFrame, listing: Listing) -> tuple[str, ...]:
    """Return the columns that a listing shows, in the order of the table; by default the usual ones."""
    return tuple(name for name in available(runs) if name in listing.columns) or columns(runs)


def listed(runs: pd.DataFrame, listing: Listing) -> pd.DataFrame:
    """Return the runs that pass the filters of a listing, in its order, with all their columns."""
    model = grid_model(listing.where, numeric(runs))
    sort = [{"colId": name, "sort": "desc" if descending else "asc"} for name, descending in listing.sort]
    return _ordered(_filtered(runs, model), sort)


def numeric(runs: pd.DataFrame) -> set[str]:
    """Return the numeric columns."""
    return {str(name) for name in runs if _is_numeric(runs[name])}


def _is_numeric(values: pd.Series[Any]) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def csv_text(runs: pd.DataFrame, listing: Listing) -> str:
    """Return the rows and columns that a listing shows as CSV, with full precision."""
    table = listed(runs, listing)[list(shown_columns(runs, listing))]
    text: str = table.to_csv(index=False)
    return text


def _metrics(runs: pd.DataFrame) -> list[str]:
    """Return the columns of metrics: the usual ones, and the study's further ones next to those of the same split."""
    known = ("test_accuracy", "train_loss", "test_loss", "train_accuracy")
    return [*known, *(name for name in metric_columns(map(str, runs.columns)) if name not in known)]


def rows_of(
    runs: pd.DataFrame, request: Mapping[str, Any], chosen: Collection[str] = ()
) -> tuple[list[dict[str, Any]], int]:
    """Return the rows that the grid requests, and the total number of rows; invalid filters are ignored.

    `chosen` are the runs selected for comparison.
    """
    left = _ordered(_filtered(runs, request.get("filterModel")), request.get("sortModel"))
    start = _integer(request.get("startRow"))
    stop = min(_integer(request.get("endRow")), start + MAX_ROWS)
    page = left.iloc[start:stop][list(available(runs))].to_dict("records")
    among = set(chosen)
    return [
        {CHOSEN: row["trial_id"] in among, **{str(name): _json_value(value) for name, value in row.items()}}
        for row in page
    ], len(left)


def _filtered(runs: pd.DataFrame, model: Any) -> pd.DataFrame:
    """Return the runs that pass the grid's filter model."""
    there, left = set(available(runs)), runs
    for name, wanted in (model if isinstance(model, dict) else {}).items():
        if name in there and isinstance(wanted, dict):
            left = left[_matches(pd.Series(left[name]), wanted)]
    return left


def _ordered(runs: pd.DataFrame, sorting: Any) -> pd.DataFrame:
    """Return the runs in the order of the grid's sort model."""
    there = set(available(runs))
    by = [s for s in (sorting if isinstance(sorting, list) else []) if isinstance(s, dict) and s.get("colId") in there]
    if not by:
        return runs
    descending = [s.get("sort") == "desc" for s in by]
    names = [s["colId"] for s in by]
    return runs.sort_values(names, ascending=[not each for each in descending], kind="stable", na_position="last")


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
    if wanted.get("filterType") == "number" and _is_numeric(values):
        return _numbers(values.to_numpy(dtype=float), str(kind), given, wanted.get("filterTo"))
    if values.name == "tags" and kind in ("equals", "notEqual"):  # compare with each tag
        has = values.astype(str).str.casefold().str.split(", ").map(lambda tags: str(given).casefold() in tags)
        return np.asarray(has if kind == "equals" else ~has, dtype=bool)
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


def _integer(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) and 0 <= value < 1e9 else 0


def _json_value(value: Any) -> Any:
    if isinstance(value, pd.Timestamp):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if value is None or value is pd.NaT or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value
