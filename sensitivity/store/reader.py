"""Tidy tables from a study directory. A reader never needs torch or Ray."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, MutableMapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sensitivity.store.directory import Place, first_line
from sensitivity.store.manifest import MANIFEST, Manifest, read_manifest
from sensitivity.store.schema import PARAM_PREFIX, curves_schema, plan_schema, runs_schema
from sensitivity.store.writer import CURVES, PLAN, RUNS, plan_table
from sensitivity.study.errors import StorageError, UserError
from sensitivity.study.results import Status
from sensitivity.study.trials import expand

logger = logging.getLogger(__name__)

_PART = "_part"
_FINAL = [status.value for status in Status if status.final]


@dataclass(frozen=True)
class Study:
    """A study as read from its directory."""

    manifest: Manifest
    runs: pd.DataFrame
    """One row a planned run, in the order of the plan; columns of ``schema``. No planned run is missing."""
    curves: pd.DataFrame
    """One row an evaluation of a run in `runs`, ordered by run and step."""
    unplanned: int
    """Runs that are kept in the directory but belong to no cell of the present plan."""


@dataclass(frozen=True)
class StudyRuns:
    """A study without its curves."""

    manifest: Manifest
    runs: pd.DataFrame
    """As of a `Study`."""
    parts: pd.Series[str]
    """The part in which the result that counts of each run stands, and its curve, by ``trial_id``."""
    unplanned: int
    """As of a `Study`."""


def read_study(directory: Place) -> Study:
    """Read a study directory, finished or not.

    Raises:
        StorageError: no study there, another schema version, or a damaged part (named, with the mend).
    """
    read = read_runs(directory)
    return Study(read.manifest, read.runs, _read_curves(directory, read.parts), read.unplanned)


def read_runs(directory: Place, kept: MutableMapping[str, pa.Table] | None = None) -> StudyRuns:
    """Read a study directory's runs, which are few beside their evaluations.

    Parts never change once they are there: those that `kept` holds by name are not read again, and new ones are added.

    Raises:
        StorageError: as `read_study`.
    """
    manifest = read_manifest(directory)
    plan = _read_plan(directory, manifest)
    results = _results(directory, {} if kept is None else kept)
    extra = ["trial_id", *(name for name in results.columns if name not in plan.columns)]
    runs = plan.merge(results[extra], on="trial_id", how="left", validate="one_to_one")
    runs["status"] = runs["status"].fillna(Status.PENDING.value)
    for name in ("message", "traceback"):
        runs[name] = runs[name].fillna("")
    parts = runs.set_index("trial_id")[_PART].dropna()
    unplanned = int((~results["trial_id"].isin(plan["trial_id"])).sum())
    return StudyRuns(manifest, runs.drop(columns=_PART), parts, unplanned)


def read_evaluations(
    directory: Place, part: str, columns: Sequence[str], trial_ids: Collection[str] | None = None
) -> pa.Table:
    """Return `columns` of the evaluations in one part of curves, of all its runs or of `trial_ids`.

    Only these columns are read from the storage; ``trial_id`` comes as a dictionary. Rows are in the order in which
    they were written: run by run, by step. A part may hold runs whose result that counts stands in another
    (``StudyRuns.parts``).

    Raises:
        StorageError: the part is damaged, or can't be read.
    """
    table = _read_columns(directory, f"{CURVES}/{part}", columns)
    if trial_ids is None:
        return table
    return table.filter(pc.is_in(table["trial_id"], pa.array(sorted(trial_ids), pa.string())))


def read_plan(directory: Place) -> pd.DataFrame:
    """Return the plan that a command left: one row a planned trial; of a damaged plan, the trials with a result.

    Raises:
        StorageError: no study there, another schema version, or a damaged part.
    """
    manifest = read_manifest(directory)
    try:
        return _read_plan(directory, manifest)
    except _DamagedError as error:
        logger.warning("%s", str(error).partition("\n")[0])
        return _results(directory, {})


def finished_trials(directory: Place) -> frozenset[str]:
    """Return the ids of the trials whose results are final: `run` leaves them as they are.

    Raises:
        StorageError: a damaged part.
    """
    results = _results(directory, {})
    return frozenset(results.loc[results["status"].isin(_FINAL), "trial_id"])


def studies(root: Place) -> tuple[Place, ...]:
    """Return the study directories directly below `root`, and `root` itself if it is one."""
    candidates = (root, *root.folders())
    return tuple(folder for folder in candidates if folder.exists(MANIFEST))


def export_runs(directory: Place, suffix: str) -> bytes:
    """Return the table of runs as a file's bytes; `suffix` is ``.csv`` or ``.parquet``.

    Raises:
        UserError: another suffix.
        StorageError: as `read_study`.
    """
    if suffix not in (".csv", ".parquet"):
        raise UserError(f"can't export to a file that ends in {suffix!r}; allowed: .csv, .parquet")
    runs = read_study(directory).runs
    schema = runs_schema(_params(runs.columns))
    # Pending runs have made pandas turn integers into floats; a table written for others has its own types again.
    table = pa.Table.from_pandas(runs[schema.names], schema=schema, preserve_index=False)
    if suffix == ".csv":
        text: str = table.to_pandas(integer_object_nulls=True).to_csv(index=False)
        return text.encode()
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def _params(columns: Iterable[str]) -> list[str]:
    return [name.removeprefix(PARAM_PREFIX) for name in columns if name.startswith(PARAM_PREFIX)]


def _read_plan(directory: Place, manifest: Manifest) -> pd.DataFrame:
    if not directory.exists(PLAN):  # a kill between the first two writes of a study
        plan: pd.DataFrame = plan_table(expand(manifest.spec, source=manifest.source)).to_pandas()
    else:
        plan = _read_part(directory, PLAN, lambda table: plan_schema(_params(table.column_names))).to_pandas()
    if not plan["trial_id"].is_unique:
        raise _damaged(directory, PLAN, "a trial stands in it twice")
    return plan


def _results(directory: Place, kept: MutableMapping[str, pa.Table]) -> pd.DataFrame:
    """Return the result that counts of each trial, and the part it stands in.

    That is the last one, except that an interruption never hides a final result, whatever the clocks said.
    """
    tables = [runs_schema([]).append(pa.field(_PART, pa.string())).empty_table()]
    for name in directory.child(RUNS).files(".parquet"):
        if name not in kept:
            table = _read_part(directory, f"{RUNS}/{name}", lambda table: runs_schema(_params(table.column_names)))
            kept[name] = table.append_column(_PART, pa.array([name] * len(table), pa.string()))
        tables.append(kept[name])
    runs: pd.DataFrame = pa.concat_tables(tables, promote_options="default").to_pandas()
    order = runs.assign(final=runs["status"].isin(_FINAL)).sort_values(["final", "finished_at"], kind="stable").index
    return runs.loc[order].drop_duplicates("trial_id", keep="last")


def _read_curves(directory: Place, parts: pd.Series[str]) -> pd.DataFrame:
    """Return the curve of each run from the part that its result stands in, ordered by run and step."""
    tables = [curves_schema().empty_table()]
    for name, group in parts.groupby(parts):
        table = _read_part(directory, f"{CURVES}/{name}", lambda _: curves_schema())
        wanted = pc.is_in(table["trial_id"], pa.array(group.index, pa.string()))
        tables.append(table if pc.all(wanted).as_py() else table.filter(wanted))
    whole = pa.concat_tables(tables)
    tables.clear()
    order = _by_run_and_step(whole)
    columns = {}
    for name in whole.column_names:  # each let go when it is done: as a whole, three copies would be in memory at once
        columns[name] = whole[name].to_pandas().array.take(order)
        whole = whole.drop_columns([name])
    return pd.DataFrame(columns, copy=False)


def _by_run_and_step(table: pa.Table) -> np.ndarray:
    """Return the rows of `table` in the order of their runs' ids and of steps."""
    runs = table["trial_id"].combine_chunks().dictionary_encode()
    ids = np.asarray(runs.dictionary.to_pylist(), dtype=object)
    rank = np.empty(len(ids), dtype=np.int64)
    rank[ids.argsort()] = np.arange(len(ids))
    return np.lexsort((table["step"].to_numpy(), rank[runs.indices.to_numpy()]))


def _read_part(directory: Place, name: str, schema: Callable[[pa.Table], pa.Schema]) -> pa.Table:
    if not directory.exists(name):
        raise _damaged(directory, name, "it is missing")
    data = directory.read(name)
    try:
        table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
        if name.startswith(RUNS) or name == PLAN:
            table = _with_confirmation(table)
        return table.select(schema(table).names).cast(schema(table))
    except (KeyError, OSError, pa.ArrowException) as error:
        raise _damaged(directory, name, first_line(error)) from None


def _read_columns(directory: Place, name: str, columns: Sequence[str]) -> pa.Table:
    """Return some columns of a part of curves, in the schema's types, ``trial_id`` as a dictionary."""
    schema = curves_schema()
    fields = [schema.field(column) for column in columns]
    if not directory.exists(name):
        raise _damaged(directory, name, "it is missing")
    try:
        with directory.filesystem.open_input_file(f"{directory.path}/{name}") as stream:
            file = pq.ParquetFile(
                stream, read_dictionary=["trial_id"], page_checksum_verification=True, pre_buffer=True
            )
            table = file.read(list(columns))
        wanted = [pa.field(f.name, pa.dictionary(pa.int32(), f.type)) if f.name == "trial_id" else f for f in fields]
        return table.select(list(columns)).cast(pa.schema(wanted))
    except (KeyError, OSError, pa.ArrowException):
        # Damaged or out of reach: to read it whole tells which.
        whole = _read_part(directory, name, lambda _: schema).select(list(columns))
        place = whole.column_names.index("trial_id") if "trial_id" in columns else None
        return whole if place is None else whole.set_column(place, "trial_id", whole["trial_id"].dictionary_encode())


def _with_confirmation(table: pa.Table) -> pa.Table:
    """Add the column to what was written before there were confirmations."""
    if "confirmation" in table.column_names:
        return table
    return table.append_column("confirmation", pa.array([False] * len(table), pa.bool_()))


class _DamagedError(StorageError):
    """What a file holds is not what was written."""


def _damaged(directory: Place, name: str, reason: str) -> StorageError:
    folder, _, part = name.rpartition("/")
    mend = (
        f"Move {directory.uri_of(f'{RUNS}/{part}')} away and run the same study again: only its runs are done again"
        if folder
        else "Run the same study again: the plan is written anew"
    )
    return _DamagedError(f"{directory.uri_of(name)}: damaged Parquet file ({reason})\n  {mend}; nothing was changed")
