"""Which result of a run counts: a study's parts may contain several, and may be merged while they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa

from sensitivity.store.directory import Place
from sensitivity.store.ids import is_unique
from sensitivity.store.logs import log_parts
from sensitivity.store.manifest import Manifest, read_manifest
from sensitivity.store.parts import read_run_tables
from sensitivity.store.schema import RUNS, runs_schema
from sensitivity.study.errors import StorageError
from sensitivity.study.results import Status

T = TypeVar("T")

PART = "_part"
"""Column with the name of the part that contains a run's result."""
STATUS_COLUMNS = ("trial_id", "status", "finished_at")
"""Columns that determine which result of a run counts."""
FINAL = [status.value for status in Status if status.final]


def part_by_trial(directory: Place) -> pd.Series[str]:
    """Return the part with the effective result of each trial.

    Raises:
        StorageError: a part is damaged.
    """
    tables = from_parts(directory, read_manifest(directory), partial(results_by_status, directory))
    return effective(rows_of(tables)).set_index("trial_id")[PART]


def superseded(directory: Place, names: Sequence[str]) -> dict[str, set[str]]:
    """Return the ids of the trials, by part, whose effective result is in another one of these parts.

    Raises:
        StorageError: a part is damaged.
    """
    ids = [table["trial_id"] for table in read_run_tables(directory, names, ("trial_id",)).values()]
    if is_unique(pa.chunked_array([chunk for each in ids for chunk in each.chunks], pa.string())):
        return {}
    rows = rows_of(results_by_status(directory, names))
    kept = effective(rows)
    others = _frame(rows.select(["trial_id", PART])).drop(index=kept.index)
    elsewhere = others[PART] != others["trial_id"].map(kept.set_index("trial_id")[PART])
    return {str(part): set(ids) for part, ids in others[elsewhere].groupby(PART)["trial_id"]}


def part_names(directory: Place, manifest: Manifest | None) -> tuple[str, ...]:
    """Return the parts of runs, and the logs of unfinished runs if `manifest` is of a study trained elsewhere."""
    elsewhere = manifest is not None and manifest.spec.observed is not None
    logs = log_parts(directory) if elsewhere else ()  # before parts: a log becomes a part
    return (*logs, *directory.child(RUNS).files(".parquet"))


def from_parts(directory: Place, manifest: Manifest | None, read: Callable[[Sequence[str]], T]) -> T:
    """Return what `read` makes of the names of all parts, again if parts have been merged meanwhile."""
    names = part_names(directory, manifest)
    while True:
        try:
            return read(names)
        except StorageError:
            now = part_names(directory, manifest)
            if set(names) <= set(now):
                raise
            names = now


def results_by_status(directory: Place, names: Sequence[str]) -> dict[str, pa.Table]:
    """Return parts of runs by name, with the columns that determine which result of a run counts."""
    return read_run_tables(directory, names, STATUS_COLUMNS)


def effective(rows: pa.Table) -> pd.DataFrame:
    """Return the effective result of each trial among all rows of a study (`rows_of`).

    That is the latest final result, whatever the clocks of interrupted runs; without a final result, the latest one.
    """
    runs = _frame(rows)
    if is_unique(rows["trial_id"]):  # sorting a million runs takes a second
        return runs
    return in_order(runs).drop_duplicates("trial_id", keep="last")


def _frame(rows: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = rows.to_pandas()
    return frame.assign(**{PART: frame[PART].astype("str")})


def rows_of(parts: Mapping[str, pa.Table]) -> pa.Table:
    """Return all rows of parts, with the name of each row's part."""
    some = next(iter(parts.values()), runs_schema([]).empty_table())
    whole = pa.concat_tables([some.slice(0, 0), *parts.values()], promote_options="default")
    codes = np.repeat(np.arange(len(parts), dtype=np.int32), [len(table) for table in parts.values()])
    names = pa.DictionaryArray.from_arrays(codes, pa.array(list(parts), pa.string()))
    return whole.append_column(PART, names)


def in_order(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs without a final result, then the others, each by the time at which they were recorded."""
    order = runs.assign(final=runs["status"].isin(FINAL)).sort_values(["final", "finished_at"], kind="stable").index
    return runs.loc[order]
