"""Tidy tables from a study directory. A reader never needs torch or Ray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sensitivity.store.directory import Place
from sensitivity.store.manifest import MANIFEST, Manifest, read_manifest
from sensitivity.store.schema import PARAM_PREFIX, curves_schema, runs_schema
from sensitivity.store.writer import CURVES, PLAN, RUNS
from sensitivity.study.errors import StorageError, UserError
from sensitivity.study.results import Status


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
    plan = _read_part(directory, PLAN).to_pandas() if directory.exists(PLAN) else pd.DataFrame({"trial_id": []})
    names = directory.child(RUNS).files(".parquet")
    results = _latest(_concat(directory, RUNS, names, lambda table: runs_schema(_params(table))))
    extra = ["trial_id", *(name for name in results.columns if name not in plan.columns)]
    runs = plan.merge(results[extra], on="trial_id", how="left", validate="one_to_one")
    runs["status"] = runs["status"].fillna(Status.PENDING.value)
    for name in ("message", "traceback"):
        runs[name] = runs[name].fillna("")
    curves = _concat(directory, CURVES, names, lambda _: curves_schema())
    curves = curves[curves["trial_id"].isin(runs["trial_id"])]
    curves = curves.drop_duplicates(["trial_id", "step"], keep="last").sort_values(["trial_id", "step"])
    unplanned = int((~results["trial_id"].isin(plan["trial_id"])).sum())
    return Study(manifest, runs, curves.reset_index(drop=True), unplanned)


def finished_trials(directory: Place) -> frozenset[str]:
    """Return the ids of the trials whose results are final: `run` leaves them as they are.

    Raises:
        StorageError: a damaged part.
    """
    names = directory.child(RUNS).files(".parquet")
    results = _latest(_concat(directory, RUNS, names, lambda table: runs_schema(_params(table))))
    final = [status.value for status in Status if status.final]
    return frozenset(results.loc[results["status"].isin(final), "trial_id"])


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
        raise UserError(f"can't export to {suffix or 'a file without a suffix'!r}; allowed: .csv, .parquet")
    runs = read_study(directory).runs
    if suffix == ".csv":
        return runs.to_csv(index=False).encode()
    return bytes(runs.to_parquet(index=False))


def _params(table: pa.Table) -> list[str]:
    return [name.removeprefix(PARAM_PREFIX) for name in table.column_names if name.startswith(PARAM_PREFIX)]


def _latest(runs: pd.DataFrame) -> pd.DataFrame:
    """Keep the last result of each trial: a retry comes after the interruption that it mends."""
    return runs.sort_values("finished_at", kind="stable").drop_duplicates("trial_id", keep="last")


def _concat(
    directory: Place, folder: str, names: tuple[str, ...], schema: Callable[[pa.Table], pa.Schema]
) -> pd.DataFrame:
    tables = []
    for name in names:
        table = _read_part(directory, f"{folder}/{name}")
        try:
            tables.append(table.select(schema(table).names).cast(schema(table)))
        except (KeyError, pa.ArrowInvalid) as error:
            raise _damaged(directory, f"{folder}/{name}", str(error).splitlines()[0]) from None
    empty = runs_schema([]).empty_table() if folder == RUNS else curves_schema().empty_table()
    merged: pd.DataFrame = pa.concat_tables([empty, *tables], promote_options="default").to_pandas()
    return merged


def _read_part(directory: Place, name: str) -> pa.Table:
    try:
        return pq.read_table(pa.BufferReader(directory.read(name)))
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(directory, name, str(error).splitlines()[0]) from None


def _damaged(directory: Place, name: str, reason: str) -> StorageError:
    mend = (
        "Run the same study again: the plan is written anew"
        if name == PLAN
        else "Move this file away and run the same study again: only its runs are done again"
    )
    return StorageError(f"{directory.uri}/{name}: damaged Parquet file ({reason})\n  {mend}; nothing was changed")
