"""Validated tables from the Parquet files of a study directory; errors name file, column and row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pyarrow as pa

from sensitivity.store.directory import Place, first_line
from sensitivity.store.logs import is_log, read_log
from sensitivity.store.parquet import Allowance, read_parquet
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
from sensitivity.store.validation import (
    Fault,
    curves_fault,
    plan_fault,
    planned_ids_fault,
    repeated_evaluation,
    runs_fault,
)
from sensitivity.study.errors import StorageError
from sensitivity.study.spec import StudySpec

_FILES_PER_BATCH = 64
"""Number of files opened concurrently; on an object store each is a request."""
_ROWS_PER_CHECK = 1_000_000
"""Number of evaluations validated together."""


class DamagedError(StorageError):
    """A file is damaged."""


class MergedError(StorageError):
    """A part was merged into another one after its name was read."""


def damaged(directory: Place, name: str, reason: str, *, what: str = "damaged Parquet file") -> StorageError:
    """Return the error for a damaged file, with the way to continue without it."""
    folder, _, part = name.rpartition("/")
    fix = (
        f"Move {directory.uri_of(f'{RUNS}/{part}')} away and run the same study again: only its runs are repeated"
        if folder
        else "Run the same study again: the plan is rewritten"
    )
    return DamagedError(f"{directory.uri_of(name)}: {what} ({reason})\n  {fix}; nothing was changed")


def params(columns: Iterable[str]) -> list[str]:
    """Return the hyperparameters that have a column in `columns`."""
    return [name.removeprefix(PARAM_PREFIX) for name in columns if name.startswith(PARAM_PREFIX)]


def read_plan_table(directory: Place, spec: StudySpec) -> pa.Table:
    """Return plan.parquet.

    Raises:
        StorageError: the file is damaged, or can't be read.
    """
    (table,) = _read(directory, [PLAN], lambda names: plan_schema(params(names)), Allowance())
    _validate(directory, {PLAN: table}, lambda whole: plan_fault(whole, spec))
    return table


def read_planned_ids(directory: Place) -> pa.ChunkedArray:
    """Return the column ``trial_id`` of plan.parquet.

    Raises:
        StorageError: the file is damaged, or can't be read.
    """
    (table,) = _read(directory, [PLAN], lambda _: pa.schema([plan_schema([]).field("trial_id")]), Allowance())
    _validate(directory, {PLAN: table}, planned_ids_fault)
    return table["trial_id"]


def read_run_tables(directory: Place, parts: Sequence[str], columns: Sequence[str] = ()) -> dict[str, pa.Table]:
    """Return parts of runs by name, with all columns or only `columns`.

    Raises:
        StorageError: a part is damaged, or can't be read.
    """

    def schema_of(names: Sequence[str]) -> pa.Schema:
        whole = runs_schema(params(names), further_metrics(names))
        return pa.schema([whole.field(column) for column in columns]) if columns else whole

    written = [part for part in parts if not is_log(part)]
    tables = _read(directory, [f"{RUNS}/{part}" for part in written], schema_of, Allowance())
    found = dict(zip(written, tables, strict=True))
    for part in parts:
        if is_log(part):
            table, _ = read_log(directory, part)
            found[part] = table.select(columns) if columns else table
    for elsewhere, own in _by_origin(found):
        _validate(
            directory,
            {f"{RUNS}/{part}": table for part, table in own.items()},
            partial(runs_fault, elsewhere=elsewhere),
        )
    return found


def read_curve_tables(
    directory: Place, parts: Sequence[str], columns: Sequence[str], allowance: Allowance
) -> Iterator[tuple[str, pa.Table]]:
    """Yield parts of curves by name; ``trial_id`` is dictionary-encoded.

    Raises:
        StorageError: a part is damaged, or can't be read.
    """
    whole = curves_schema(tuple(further_metrics(columns)))
    fields = [whole.field(column) for column in columns]
    schema = pa.schema([f.with_type(pa.dictionary(pa.int32(), f.type)) if f.name == "trial_id" else f for f in fields])
    held: dict[str, pa.Table] = {}
    rows = 0
    for part in parts:
        if is_log(part):
            _, curve = read_log(directory, part)
            held[part] = _with_missing(curve, schema).select(schema.names).cast(schema)
    parts = [part for part in parts if not is_log(part)]
    names = [f"{CURVES}/{part}" for part in parts]
    for part, table in zip(parts, _read(directory, names, lambda _: schema, allowance), strict=True):
        held[part] = table
        rows += len(table)
        if rows >= _ROWS_PER_CHECK:
            yield from _valid_curves(directory, held)
            held, rows = {}, 0
    yield from _valid_curves(directory, held)


def _by_origin(tables: dict[str, pa.Table]) -> Iterator[tuple[bool, dict[str, pa.Table]]]:
    """Yield the parts of runs trained here, then those of runs trained elsewhere."""
    for elsewhere in (False, True):
        yield (
            elsewhere,
            {
                name: own
                for name, own in tables.items()
                if (name.startswith(OBSERVED_PART) or is_log(name)) is elsewhere
            },
        )


def _valid_curves(directory: Place, held: dict[str, pa.Table]) -> Iterator[tuple[str, pa.Table]]:
    for elsewhere, own in _by_origin(held):
        _validate(
            directory,
            {f"{CURVES}/{part}": table for part, table in own.items()},
            partial(curves_fault, elsewhere=elsewhere),
        )
    for part, table in held.items():
        if {"trial_id", "step"} <= set(table.column_names):
            runs = table["trial_id"].combine_chunks().indices.to_numpy()
            row = repeated_evaluation(runs.astype(np.int64), table["step"].to_numpy())
            if row is not None:
                reason = f"column step, row {row}: {table['step'][row].as_py()} occurs twice in the curve of a run"
                raise damaged(directory, f"{CURVES}/{part}", reason, what="impossible value")
        yield part, table


def _read(
    directory: Place, names: Sequence[str], schema_of: Callable[[Sequence[str]], pa.Schema], allowance: Allowance
) -> Iterator[pa.Table]:
    """Yield the tables of files, cast to the schema that `schema_of` returns for each file's columns."""
    schemas: dict[tuple[str, ...], pa.Schema] = {}  # created once for all parts with the same columns

    def schema_for(columns: Sequence[str]) -> pa.Schema:
        key = tuple(columns)
        if key not in schemas:
            schemas[key] = schema_of(columns)
        return schemas[key]

    for name, source in _opened(directory, names):
        try:
            yield _table(source, schema_for, allowance)
        except (KeyError, OSError, ValueError, pa.ArrowException) as error:
            directory.read_through(name)  # raises another error if the file is unreachable rather than damaged
            raise damaged(directory, name, first_line(error)) from None
        finally:
            source.close()


def _opened(directory: Place, names: Sequence[str]) -> Iterator[tuple[str, pa.NativeFile]]:
    if len(names) == 1:
        yield names[0], _present(directory, names[0], directory.open(names[0]))
        return
    with ThreadPoolExecutor(8) as threads:
        for start in range(0, len(names), _FILES_PER_BATCH):
            some = names[start : start + _FILES_PER_BATCH]
            for name, source in zip(some, threads.map(directory.open, some), strict=True):
                yield name, _present(directory, name, source)


def _present(directory: Place, name: str, source: pa.NativeFile | None) -> pa.NativeFile:
    if source is None:
        part = name.partition("/")[2]
        if part and not directory.exists(f"{RUNS}/{part}"):
            raise MergedError(
                f"{directory.uri}: results were merged into larger files, or moved away, while they were read\n"
                "  Run the same command again; nothing was changed"
            )
        raise damaged(directory, name, "it is missing")
    return source


def _table(source: pa.NativeFile, schema_of: Callable[[Sequence[str]], pa.Schema], allowance: Allowance) -> pa.Table:
    chosen: list[pa.Schema] = []

    def columns_of(names: Sequence[str]) -> list[str]:
        chosen.append(schema_of(names))
        absent = {"confirmation", *further_metrics(chosen[0].names)}
        return [name for name in chosen[0].names if name in names or name not in absent]

    encoded = ["trial_id"] if pa.types.is_dictionary(_type_of(schema_of([]), "trial_id")) else []
    table = read_parquet(source, columns_of, allowance, dictionaries=encoded)
    (schema,) = chosen
    if "confirmation" in schema.names and "confirmation" not in table.column_names:
        # An older version without confirmation runs wrote the part.
        table = table.append_column("confirmation", pa.array([False] * len(table), pa.bool_()))
    table = _with_missing(table, schema)
    if table.schema.equals(schema):
        return table
    return table.select(schema.names).cast(schema)


def _with_missing(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Add the metrics of `schema` that a part lacks, because they were not measured yet, as columns of NaN."""
    for name in further_metrics(schema.names):
        if name not in table.column_names:
            table = table.append_column(name, pa.array(np.full(len(table), np.nan)))
    return table


def _type_of(schema: pa.Schema, name: str) -> pa.DataType:
    return schema.field(name).type if name in schema.names else pa.null()


def _validate(directory: Place, tables: dict[str, pa.Table], check: Callable[[pa.Table], Fault | None]) -> None:
    """Raise for the first fault in `tables` by file name; many tables are checked together for speed."""
    tables = {name: table for name, table in tables.items() if len(table)}
    if not tables:
        return
    try:
        whole = pa.concat_tables(tables.values(), promote_options="default")
        whole.validate(full=True)  # checks lengths of strings, and that they are UTF-8
        whole = whole.unify_dictionaries().combine_chunks()
    except (ValueError, pa.ArrowException) as error:
        name = next((name for name, table in tables.items() if not _is_valid(table)), next(iter(tables)))
        raise damaged(directory, name, first_line(error)) from None
    if check(whole) is None:
        return
    for name, table in tables.items():
        if (fault := check(table)) is not None:
            raise damaged(directory, name, fault.reason, what="impossible value")
    raise AssertionError("a fault in the concatenated tables is a fault in one of them")


def _is_valid(table: pa.Table) -> bool:
    try:
        table.validate(full=True)
    except pa.ArrowException:
        return False
    return True
