"""Writes study directories of runs that were trained elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from sensitivity.store.directory import Place
from sensitivity.store.lock import WriterLock
from sensitivity.store.manifest import MANIFEST, read_manifest, write_manifest
from sensitivity.store.schema import (
    CURVES,
    OBSERVED_PART,
    PARAM_PREFIX,
    PLAN,
    RUNS,
    curves_schema,
    further_metrics,
    plan_schema,
    runs_schema,
)
from sensitivity.store.writer import parquet_bytes
from sensitivity.study.errors import StorageError
from sensitivity.study.hashing import content_hash
from sensitivity.study.spec import StudySpec

IMPORTED = f"{OBSERVED_PART}imported-"
"""Prefix of the part that an import writes; a later import of the same source replaces it."""


def write_observed(
    directory: Place, spec: StudySpec, plan: pd.DataFrame, runs: pd.DataFrame, evaluations: pd.DataFrame
) -> None:
    """Write a study directory, or replace that of an earlier import of the same source.

    Args:
        directory: study directory.
        spec: the study; its ``observed.source`` identifies the import.
        plan: one row per run, including missing ones, with the columns of plan.parquet.
        runs: one row per run with a result, with columns of a part of runs; absent columns are unknown.
        evaluations: one row per evaluation, in order: ``run`` (index of its row in `runs`), step, epoch, and further
            columns of curves.

    Raises:
        StorageError: the place can't be written, or contains another study.
    """
    with WriterLock(directory):
        if directory.exists(MANIFEST):
            _refuse_other_source(directory, spec)
        earlier = [name for name in directory.child(RUNS).files(".parquet") if name.startswith(IMPORTED)]
        params = spec.hyperparameters
        run_table = _table(runs, runs_schema(params, further_metrics(map(str, runs.columns))))
        curve_table = _curves(runs, evaluations)
        name = f"{IMPORTED}{content_hash({'rows': runs.index.size, 'at': str(runs['finished_at'].max())})}.parquet"
        directory.write(PLAN, parquet_bytes(_table(plan, plan_schema(params))))
        directory.write(f"{CURVES}/{name}", parquet_bytes(curve_table))
        directory.write(f"{RUNS}/{name}", parquet_bytes(run_table))
        write_manifest(directory, spec, "")
        for old in earlier:
            if old != name:
                directory.delete(f"{RUNS}/{old}")
                directory.delete(f"{CURVES}/{old}")


def _refuse_other_source(directory: Place, spec: StudySpec) -> None:
    known = read_manifest(directory).spec.observed
    if known is None or spec.observed is None or known.source != spec.observed.source or known.recorded:
        what = "a study that was run here" if known is None else f"runs from {known.source or 'your own loop'}"
        raise StorageError(
            f"{directory.uri}: contains {what}\n  Import under another name, or to another place with --storage; the "
            "existing study is unchanged"
        )


def _table(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    """Return a table with the types of `schema`; columns that `frame` lacks are NaN or null."""
    columns = []
    for field in schema:
        if field.name in frame:
            values = pa.Array.from_pandas(frame[field.name])
            columns.append(
                pa.nulls(len(frame), field.type) if pa.types.is_null(values.type) else values.cast(field.type)
            )
        elif pa.types.is_floating(field.type):
            columns.append(pa.array(np.full(len(frame), math.nan)))
        else:
            columns.append(pa.nulls(len(frame), field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _curves(runs: pd.DataFrame, evaluations: pd.DataFrame) -> pa.Table:
    places = runs.index.get_indexer(pd.Index(evaluations["run"]))
    ids = pa.DictionaryArray.from_arrays(pa.array(places, pa.int32()), pa.array(runs["trial_id"], pa.string()))
    schema = curves_schema(tuple(further_metrics(map(str, evaluations.columns))))
    rest = _table(evaluations.drop(columns="run"), pa.schema([field for field in schema if field.name != "trial_id"]))
    return rest.add_column(0, schema.field("trial_id"), ids.cast(pa.string())).cast(schema)


def write_observed_plan(directory: Place, rows: Sequence[Mapping[str, Any]], hyperparameters: Iterable[str]) -> None:
    """Write the plan of a study whose runs are trained elsewhere: one row per trial.

    Raises:
        StorageError: the place can't be written.
    """
    schema = plan_schema(hyperparameters)
    flat = [{**row, **{PARAM_PREFIX + name: value for name, value in row["hyperparameters"].items()}} for row in rows]
    directory.write(PLAN, parquet_bytes(pa.Table.from_pylist(flat, schema=schema)))
