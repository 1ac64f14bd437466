"""Reads study directories as tidy tables, without torch or Ray."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sensitivity.store.directory import Place
from sensitivity.store.effective import (
    PART,
    effective,
    from_parts,
    in_order,
    rows_of,
)
from sensitivity.store.ledger import read_ledger, settling_place
from sensitivity.store.manifest import MANIFEST, Manifest, read_manifest
from sensitivity.store.notes import read_notes
from sensitivity.store.parquet import Allowance
from sensitivity.store.parts import (
    DamagedError,
    MergedError,
    params,
    read_curve_tables,
    read_plan_table,
    read_planned_ids,
    read_run_tables,
)
from sensitivity.store.schema import (
    PARAM_PREFIX,
    PLAN,
    RUNS,
    TRIAL_COLUMNS,
    curves_schema,
    further_metrics,
    noted_schema,
    runs_schema,
)
from sensitivity.store.writer import plan_table
from sensitivity.study.annotations import Annotation
from sensitivity.study.errors import StorageError, UserError
from sensitivity.study.ledger import Ledger
from sensitivity.study.metrics import MetricName
from sensitivity.study.results import Status
from sensitivity.study.trials import expand

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Study:
    """A study with its runs and curves, as read from its directory."""

    manifest: Manifest
    runs: pd.DataFrame
    """One row per planned run, in the order of the plan, with the columns of ``schema``. No planned run is missing."""
    curves: pd.DataFrame
    """One row per evaluation of a run in `runs`, ordered by run and step."""
    unplanned: int
    """Number of runs in the directory that belong to no cell of the current plan."""
    ledger: Ledger | None = None
    """State of the settlement; None if none has started."""
    running: bool = False
    """Whether a command was writing results when the study was read."""
    settling_runs: pd.DataFrame | None = None
    """One row per run of the settlement, which has its own plan; None if there are none."""

    def at_start(self, metric: MetricName) -> pd.DataFrame:
        """Return the curves, which contain the evaluations of untrained networks."""
        return self.curves

    def meeting(self, metric: MetricName, target: float) -> pd.DataFrame:
        """Return the curves, which contain the evaluations that decide when runs reach a target."""
        return self.curves

    def best(self, metric: MetricName) -> pd.DataFrame:
        """Return the curves, which contain the first and the best evaluation of each run."""
        return self.curves

    def rates(self) -> pd.DataFrame:
        """Return the curves, which contain the effective learning rates."""
        return self.curves

    def curves_of(self, trial_ids: Iterable[str]) -> pd.DataFrame:
        """Return the complete curves of some runs."""
        return self.curves[self.curves["trial_id"].isin(set(trial_ids))]


@dataclass(frozen=True)
class StudyRuns:
    """A study without its curves."""

    manifest: Manifest
    runs: pd.DataFrame
    """As in `Study`."""
    parts: pd.Series[str]
    """Name of the part with the effective result and the curve of each run, by ``trial_id``."""
    unplanned: int
    """As in `Study`."""


def read_study(directory: Place) -> Study:
    """Read a study directory, finished or not.

    Raises:
        StorageError: there is no study, its schema version is another one, or a part is damaged; the message names the
            part and the way to continue.
    """
    try:
        read, curves = _runs_and_curves(directory)
    except MergedError:  # parts of the runs that were just read
        read, curves = _runs_and_curves(directory)
    ledger, settling = read_ledger(directory), read_settling_runs(directory)
    return Study(read.manifest, read.runs, curves, read.unplanned, ledger, settling_runs=settling)


def _runs_and_curves(directory: Place) -> tuple[StudyRuns, pd.DataFrame]:
    read = read_runs(directory)
    return read, _read_curves(directory, read.parts, further_metrics(read.manifest.spec.measured()))


def read_settling_runs(directory: Place) -> pd.DataFrame | None:
    """Return the runs of a study's settlement, one row each; None where it has none.

    Raises:
        StorageError: as `read_study`, of the settlement's folder.
    """
    folder = settling_place(directory)
    return read_runs(folder).runs if folder.exists(MANIFEST) else None


def read_runs(
    directory: Place,
    kept: MutableMapping[str, pa.Table] | None = None,
    notes: MutableMapping[str, Annotation | None] | None = None,
) -> StudyRuns:
    """Read a study's runs without their evaluations, which are far more numerous.

    Args:
        directory: study directory.
        kept: cache of parts by name. Parts never change, so those in it are not read again; new ones are added.
        notes: the same for amendments of notes.

    Raises:
        StorageError: as `read_study`.
    """
    manifest = read_manifest(directory)
    results = from_parts(directory, manifest, partial(_results, directory, {} if kept is None else kept))
    plan = _read_plan(directory, manifest, lambda: results)
    for name in manifest.spec.hyperparameters:
        if PARAM_PREFIX + name not in plan.columns:  # written before the study had the hyperparameter
            plan[PARAM_PREFIX + name] = np.nan
    extra = [name for name in results.columns if name not in plan.columns]
    runs = pd.concat([plan, _aligned(results, plan["trial_id"])[extra].set_axis(plan.index)], axis=1)
    for metric in manifest.spec.measured():
        if metric not in runs.columns:  # not measured in any part yet
            runs[metric.name] = np.nan
    runs["status"] = runs["status"].fillna(Status.PENDING.value)
    for name in ("message", "traceback"):
        runs[name] = runs[name].fillna("")
    noted = read_notes(directory, notes)
    runs["note"] = _texts(runs["trial_id"], {run: each.note for run, each in noted.items()})
    runs["tags"] = _texts(runs["trial_id"], {run: ", ".join(each.tags) for run, each in noted.items()})
    parts = runs.set_index("trial_id")[PART].dropna()
    unplanned = int((~_among(results["trial_id"], plan["trial_id"])).sum())
    return StudyRuns(manifest, runs.drop(columns=PART), parts, unplanned)


def read_evaluations(
    directory: Place, part: str, columns: Sequence[str], trial_ids: Collection[str] | None = None
) -> pa.Table:
    """Return `columns` of the evaluations in one part of curves, for all runs or for `trial_ids`.

    Only these columns are read from the storage; ``trial_id`` is dictionary-encoded. Rows are in the order in which
    they were written: run by run, by step. A part may contain runs whose effective result is in another part
    (``StudyRuns.parts``).

    Raises:
        StorageError: the part is damaged, or can't be read.
    """
    ((_, table),) = read_curve_tables(directory, [part], columns, Allowance())
    if trial_ids is None:
        return table
    return table.filter(pc.is_in(table["trial_id"], pa.array(sorted(trial_ids), pa.string())))


def read_plan(directory: Place) -> pd.DataFrame:
    """Return the plan, one row per planned trial; if the plan is damaged, the trials that have a result.

    Raises:
        StorageError: there is no study, its schema version is another one, or a part is damaged.
    """
    manifest = read_manifest(directory)
    try:
        read = partial(_results, directory, {})
        return _read_plan(directory, manifest, lambda: from_parts(directory, manifest, read))
    except DamagedError as error:
        logger.warning("%s", str(error).partition("\n")[0])
        return _results(directory, {}, directory.child(RUNS).files(".parquet"))


def studies(root: Place) -> tuple[Place, ...]:
    """Return the study directories directly below `root`, or `root` itself if it is one.

    A folder without read permission is included: reading it raises the error, and the others are still listed.

    Raises:
        StorageError: the root can't be read.
    """
    if root.exists(MANIFEST):
        return (root,)  # its subfolders are parts of it, such as the folder of its settlement
    return tuple(folder for folder in root.folders() if _may_be_study(folder))


def export_runs(directory: Place, suffix: str) -> bytes:
    """Return the table of runs as the bytes of a ``.csv`` or ``.parquet`` file.

    Raises:
        UserError: the suffix is another one.
        StorageError: as `read_study`.
    """
    if suffix not in (".csv", ".parquet"):
        raise UserError(f"can't export to a file that ends in {suffix!r}; allowed: .csv, .parquet")
    runs = read_study(directory).runs
    schema = noted_schema(runs_schema(params(runs.columns), further_metrics(runs.columns)))
    # pandas converted integers to floats because of pending runs; the exported table has the types of the schema.
    table = pa.Table.from_pandas(runs[schema.names], schema=schema, preserve_index=False)
    if suffix == ".csv":
        text: str = table.to_pandas(integer_object_nulls=True).to_csv(index=False)
        return text.encode()
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def _may_be_study(folder: Place) -> bool:
    try:
        return folder.exists(MANIFEST)
    except StorageError:
        return True


def _among(values: pd.Series[str], others: pd.Series[str]) -> np.ndarray:
    """Return which of `values` are in `others`; pandas' own ``isin`` makes a Python object of each text."""
    there = pc.is_in(pa.array(values, pa.string()), pa.array(others, pa.string()))
    return np.asarray(there.to_numpy(zero_copy_only=False))


def _read_plan(directory: Place, manifest: Manifest, results: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    if manifest.spec.observed is not None and manifest.spec.observed.recorded:
        recorded = in_order(results())
        return recorded[[name for name in recorded if name in TRIAL_COLUMNS or str(name).startswith(PARAM_PREFIX)]]
    if not directory.exists(PLAN):  # the command was killed between the first two writes of a study
        trials = expand(manifest.spec, source=manifest.source)
        planned: pd.DataFrame = plan_table(trials, manifest.spec.hyperparameters).to_pandas()
        return planned
    plan: pd.DataFrame = read_plan_table(directory, manifest.spec).to_pandas()
    return plan


def _aligned(results: pd.DataFrame, ids: pd.Series[str]) -> pd.DataFrame:
    """Return the row of each trial in `ids`, missing values if it has none; pandas' ``merge`` takes thrice as long."""
    places = pc.index_in(pa.array(ids, pa.string()), value_set=pa.array(results["trial_id"], pa.string()))
    return results.reset_index(drop=True).reindex(places.fill_null(-1).to_numpy())


def _texts(ids: pd.Series[str], by_id: Mapping[str, str]) -> pd.Series[str]:
    """Return the text of each id, empty if it has none."""
    if not by_id:
        return pd.Series("", ids.index, dtype="str")
    return ids.map(by_id).fillna("").astype("str")


def planned_ids(directory: Place, manifest: Manifest, results: Callable[[], pd.DataFrame]) -> pa.ChunkedArray:
    """Return the ids of the planned trials in the order of the plan, without reading its other columns."""
    recorded = manifest.spec.observed is not None and manifest.spec.observed.recorded
    if not recorded and directory.exists(PLAN):
        return read_planned_ids(directory)
    return pa.chunked_array([pa.array(_read_plan(directory, manifest, results)["trial_id"], pa.string())])


def _results(directory: Place, kept: MutableMapping[str, pa.Table], names: Sequence[str]) -> pd.DataFrame:
    """Return the effective result of each trial, and the part in `names` that contains it."""
    tables = {name: kept[name] for name in names if name in kept}
    tables |= read_run_tables(directory, [name for name in names if name not in tables])
    kept.update(tables)  # other threads may read other versions of the study
    for merged in set(kept) - set(names):
        kept.pop(merged, None)
    return effective(rows_of({name: tables[name] for name in names}))


def _read_curves(directory: Place, parts: pd.Series[str], metrics: Sequence[str]) -> pd.DataFrame:
    """Return each run's curve from the part that contains its result, ordered by run and step."""
    schema = curves_schema(tuple(metrics))
    tables = [schema.empty_table()]
    groups = dict(list(parts.groupby(parts)))
    for name, table in read_curve_tables(directory, list(map(str, groups)), schema.names, Allowance()):
        wanted = pc.is_in(table["trial_id"], pa.array(groups[name].index, pa.string()))
        tables.append((table if pc.all(wanted).as_py() else table.filter(wanted)).cast(schema))
    whole = pa.concat_tables(tables)
    tables.clear()
    order = _by_run_and_step(whole)
    columns = {}
    for name in whole.column_names:  # column by column, to avoid three copies of the table in memory at once
        columns[name] = whole[name].to_pandas().array.take(order)
        whole = whole.drop_columns([name])
    return pd.DataFrame(columns, copy=False)


def _by_run_and_step(table: pa.Table) -> np.ndarray:
    """Return the rows of `table` ordered by run id and step."""
    runs = table["trial_id"].combine_chunks().dictionary_encode()
    ids = np.asarray(runs.dictionary.to_pylist(), dtype=object)
    rank = np.empty(len(ids), dtype=np.int64)
    rank[ids.argsort()] = np.arange(len(ids))
    return np.lexsort((table["step"].to_numpy(), rank[runs.indices.to_numpy()]))
