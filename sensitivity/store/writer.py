"""Writes a study directory: the plan, then one part of curves and one of runs per pack."""

from __future__ import annotations

import datetime
import math
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sensitivity.store.directory import Place
from sensitivity.store.last_values import last_values
from sensitivity.store.manifest import MANIFEST
from sensitivity.store.memory import release_memory
from sensitivity.store.schema import (
    CURVES,
    PARAM_PREFIX,
    PHASE_PREFIX,
    PLAN,
    RUNS,
    curves_schema,
    plan_schema,
    runs_schema,
)
from sensitivity.study.errors import StorageError
from sensitivity.study.redaction import redacted
from sensitivity.study.results import PHASES, PackResult, RunResult
from sensitivity.study.trials import Trial

_KEPT_CHARACTERS = 50_000
"""Characters kept at the beginning and at the end of a long message or traceback; see ``validation.MAX_TEXT``."""
_ROWS_AT_ONCE = 10_000
"""Rows of the plan that are Python objects at a time; as a table they take a tenth of the memory."""


def write_plan(directory: Place, trials: Sequence[Trial], hyperparameters: Iterable[str] = ()) -> None:
    """Replace the plan, one row per planned trial; `hyperparameters` as for ``append``."""
    directory.write(PLAN, parquet_bytes(plan_table(trials, hyperparameters)))
    release_memory()


def plan_table(trials: Sequence[Trial], hyperparameters: Iterable[str] = ()) -> pa.Table:
    """Return the plan as a table, one row per planned trial; `hyperparameters` as for ``append``."""
    schema = plan_schema({*_param_names(trials), *hyperparameters})
    tables = [
        pa.Table.from_pylist([trial_row(trial) for trial in trials[first : first + _ROWS_AT_ONCE]], schema=schema)
        for first in range(0, len(trials), _ROWS_AT_ONCE)
    ]
    return pa.concat_tables(tables) if tables else schema.empty_table()


def append(
    directory: Place, result: PackResult, *, spec_hash: str, code_version: str, hyperparameters: Iterable[str] = ()
) -> None:
    """Append a pack's results atomically: all are valid once this returns, and none if it is interrupted.

    Args:
        directory: study directory.
        result: results of a pack.
        spec_hash: hash of the current study.
        code_version: version of this package.
        hyperparameters: names of the hyperparameters of all the study's optimizers (``StudySpec.hyperparameters``).
            Each part has a column for each, so that readers that take the schema from one part find all of them.

    Raises:
        StorageError: the place can't be written, or no longer contains the study.
    """
    if not directory.exists(MANIFEST):
        # Results written to an empty mount point would be hidden once the storage is mounted again.
        raise StorageError(
            f"{directory.uri}: the study is no longer here (no {MANIFEST})\n"
            "  Mount the storage again, or restore the directory, and run the same study again",
            passing=True,
        )
    started = datetime.datetime.fromtimestamp(result.started_at, tz=datetime.UTC)
    shared = {
        "pack_id": result.pack_id,
        "pack_size": len(result.runs),
        "host": result.host,
        "device": result.device,
        "started_at": started,
        "finished_at": datetime.datetime.now(tz=datetime.UTC),
        "spec_hash": spec_hash,
        "code_version": code_version,
    }
    rows = [{**trial_row(run.trial), **result_row(run), **shared} for run in result.runs]
    curves = [{"trial_id": run.trial.id, **measured.row()} for run in result.runs for measured in run.measurements]
    further = tuple(dict.fromkeys(name for run in result.runs for m in run.measurements for name in m.further))
    name = f"{result.pack_id}-{uuid.uuid4().hex[:8]}.parquet"
    schema = runs_schema({*_param_names(run.trial for run in result.runs), *hyperparameters}, further)
    curve_table = pa.Table.from_pylist(curves, schema=curves_schema(further))
    directory.write(f"{CURVES}/{name}", parquet_bytes(curve_table))
    directory.write(f"{RUNS}/{name}", parquet_bytes(pa.Table.from_pylist(rows, schema=schema)))


def _param_names(trials: Iterable[Trial]) -> set[str]:
    return {name for trial in trials for name, _ in trial.hyperparameters}


def parquet_bytes(table: pa.Table) -> pa.Buffer:
    """Return a table as the bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def trial_row(trial: Trial) -> dict[str, Any]:
    """Return the columns of a run that are known before training."""
    return {
        "trial_id": trial.id,
        "cell_id": trial.cell_id,
        "optimizer": trial.arm,
        "kind": trial.settings["kind"],
        "batch_size": trial.batch_size,
        "seed": trial.seed,
        "confirmation": trial.confirmation,
        **{PARAM_PREFIX + name: value for name, value in trial.hyperparameters},
    }


def _truncated(text: str) -> str:
    """Return a text with unencodable characters replaced and, if it is very long, its middle removed."""
    text = text.encode(errors="replace").decode()
    return text if len(text) <= 2 * _KEPT_CHARACTERS else f"{text[:_KEPT_CHARACTERS]}\n...\n{text[-_KEPT_CHARACTERS:]}"


def result_row(run: RunResult) -> dict[str, Any]:
    """Return the columns of a run that depend on its result."""
    return {
        "status": run.status.value,
        "message": _truncated(redacted(run.message)),
        "traceback": _truncated(redacted(run.traceback)),
        "steps": run.steps,
        "epochs": run.epochs,
        "initial_train_loss": run.measurements[0].train_loss if run.measurements else math.nan,
        **last_values([measured.row() for measured in run.measurements]),
        "train_seconds": run.train_seconds,
        "eval_seconds": run.eval_seconds,
        "flops": run.flops,
        "clip_share": run.clip_share,
        **{PHASE_PREFIX + phase: run.phase_seconds.get(phase, math.nan) for phase in PHASES},
    }
