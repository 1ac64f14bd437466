"""Tidy tables from a study directory. A reader never needs torch or Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

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


def read_study(directory: Place) -> Study:
    """Read a study directory, finished or not.

    Raises:
        StorageError: no study there, another schema version, or a damaged part (named, with the mend).
    """
    manifest = read_manifest(directory)
    plan = _read_plan(directory, manifest)
    results = _results(directory)
    extra = ["trial_id", *(name for name in results.columns if name not in plan.columns)]
    runs = plan.merge(results[extra], on="trial_id", how="left", validate="one_to_one")
    runs["status"] = runs["status"].fillna(Status.PENDING.value)
    for name in ("message", "traceback"):
        runs[name] = runs[name].fillna("")
    curves = _read_curves(directory, runs)
    unplanned = int((~results["trial_id"].isin(plan["trial_id"])).sum())
    return Study(manifest, runs.drop(columns=_PART), curves, unplanned)


def read_plan(directory: Place) -> pd.DataFrame:
    """Return the plan that a command left: one row a planned trial.

    Raises:
        StorageError: no study there, another schema version, or a damaged plan.
    """
    return _read_plan(directory, read_manifest(directory))


def finished_trials(directory: Place) -> frozenset[str]:
    """Return the ids of the trials whose results are final: `run` leaves them as they are.

    Raises:
        StorageError: a damaged part.
    """
    results = _results(directory)
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


def _results(directory: Place) -> pd.DataFrame:
    """Return the result that counts of each trial, and the part it stands in.

    That is the last one, except that an interruption never hides a final result, whatever the clocks said.
    """
    tables = [runs_schema([]).append(pa.field(_PART, pa.string())).empty_table()]
    for name in directory.child(RUNS).files(".parquet"):
        table = _read_part(directory, f"{RUNS}/{name}", lambda table: runs_schema(_params(table.column_names)))
        tables.append(table.append_column(_PART, pa.array([name] * len(table), pa.string())))
    runs: pd.DataFrame = pa.concat_tables(tables, promote_options="default").to_pandas()
    order = runs.assign(final=runs["status"].isin(_FINAL)).sort_values(["final", "finished_at"], kind="stable").index
    return runs.loc[order].drop_duplicates("trial_id", keep="last")


def _read_curves(directory: Place, runs: pd.DataFrame) -> pd.DataFrame:
    """Return the curves of `runs`, each from the part that its result stands in."""
    tables = [curves_schema().empty_table()]
    for name, group in runs.groupby(_PART)["trial_id"]:
        table = _read_part(directory, f"{CURVES}/{name}", lambda _: curves_schema())
        tables.append(table.filter(pc.is_in(table["trial_id"], pa.array(group, pa.string()))))
    curves: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    return curves.sort_values(["trial_id", "step"], ignore_index=True)


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


def _with_confirmation(table: pa.Table) -> pa.Table:
    """Add the column to what was written before there were confirmations."""
    if "confirmation" in table.column_names:
        return table
    return table.append_column("confirmation", pa.array([False] * len(table), pa.bool_()))


def _damaged(directory: Place, name: str, reason: str) -> StorageError:
    folder, _, part = name.rpartition("/")
    mend = (
        f"Move {directory.uri_of(f'{RUNS}/{part}')} away and run the same study again: only its runs are done again"
        if folder
        else "Run the same study again: the plan is written anew"
    )
    return StorageError(f"{directory.uri_of(name)}: damaged Parquet file ({reason})\n  {mend}; nothing was changed")
