"""Merges small parts of a study, so that what many packs have written is read from few files.

At every moment each result is in a part: merged curves are written before merged runs, and these before the parts that
they replace are removed, runs first. A result that is in two parts counts once (``effective.py``), so a merge
that was killed leaves a valid study. The end of the next command removes curves without runs, and its merge, or a
later one, removes results that another part supersedes.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sensitivity.store.directory import Place
from sensitivity.store.effective import superseded
from sensitivity.store.parquet import Allowance, read_parquet
from sensitivity.store.parts import damaged, read_curve_tables, read_run_tables
from sensitivity.store.schema import CURVES, OBSERVED_PART, RUNS, curves_schema, further_metrics
from sensitivity.store.writer import parquet_bytes
from sensitivity.study.errors import StorageError

logger = logging.getLogger(__name__)

_FEWEST = 512
"""Number of small parts from which on they are merged; fewer are read about as fast."""
_MERGED_BYTES = 8 * 2**20
"""Size of the parts that are merged into one. Merged parts are smaller, and are read with one request."""


def merge_parts(directory: Place, *, require: Callable[[], None], fewest: int = _FEWEST) -> int:
    """Merge the small parts of a study if there are at least `fewest`; return the number of parts that were removed.

    Results that another part supersedes, such as those of an interrupted run that was trained again, are left out.
    Parts that readers would refuse together remain as they are.

    Args:
        directory: study directory, whose lock the caller holds.
        require: called before anything is removed; raises if the caller has lost the lock.
        fewest: number of small parts below which nothing is done.

    Raises:
        StorageError: a part is damaged, or the place can't be read or written; all results are still there.
    """
    runs, curves = (directory.child(folder).sizes(".parquet") for folder in (RUNS, CURVES))
    sizes = {name: size + curves.get(name, 0) for name, size in runs.items() if not name.startswith(OBSERVED_PART)}
    # Curves whose runs were never written, or were removed by a merge that was killed. A list of runs may be older than
    # that of curves, on a store whose lists lag.
    alone = [name for name in curves.keys() - runs.keys() if not name.startswith(OBSERVED_PART)]
    left = [name for name in alone if not directory.exists(f"{RUNS}/{name}")]
    if left:
        require()
        _delete(directory, [f"{CURVES}/{name}" for name in left])
    small = [name for name, size in sizes.items() if size < _MERGED_BYTES // 4]
    if len(small) < fewest:
        return 0
    logger.info("%s: merging %s small files of results into larger ones", directory.uri, f"{len(small):,}")
    removed, left_out = 0, superseded(directory, list(runs))
    for group in _groups(small, sizes):
        merged = _merged(directory, group, left_out)
        if merged is None:
            continue
        if merged.rows[RUNS]:
            _write(directory, f"merged-{uuid.uuid4().hex[:12]}.parquet", merged)
        removed += len(group)
        require()
        _delete(directory, [f"{RUNS}/{each}" for each in group])
        _delete(directory, [f"{CURVES}/{each}" for each in group])
    return removed


def _groups(names: Iterable[str], sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Cut names into groups of about `_MERGED_BYTES`."""
    group: list[str] = []
    size = 0
    for name in names:
        group.append(name)
        size += sizes[name]
        if size >= _MERGED_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


@dataclass(frozen=True)
class _Merged:
    """A merged part, in the order in which its files are written. Their tables take ten times as much memory."""

    files: Mapping[str, pa.Buffer]
    rows: Mapping[str, int]
    curve_columns: Sequence[str]


def _merged(directory: Place, group: Sequence[str], left_out: Mapping[str, Collection[str]]) -> _Merged | None:
    """Return the merged part of a group, or None if readers would refuse it."""
    runs = _merged_runs(directory, group, left_out)
    curves = _merged_curves(directory, group, left_out, runs.column_names)
    columns, rows = curves.column_names, {RUNS: len(runs), CURVES: len(curves)}
    run_file, curve_file = parquet_bytes(runs), parquet_bytes(curves)
    del runs, curves
    if not (_is_readable(run_file) and _is_readable(curve_file)):
        return None
    return _Merged({CURVES: curve_file, RUNS: run_file}, rows, columns)


def _merged_runs(directory: Place, group: Sequence[str], left_out: Mapping[str, Collection[str]]) -> pa.Table:
    tables = [_without(table, left_out.get(name, ())) for name, table in read_run_tables(directory, group).items()]
    whole = pa.concat_tables(tables, promote_options="default")
    for name in further_metrics(whole.column_names):  # a part that did not measure it yet
        whole = whole.set_column(whole.column_names.index(name), name, pc.fill_null(whole[name], np.nan))
    return whole


def _merged_curves(
    directory: Place, group: Sequence[str], left_out: Mapping[str, Collection[str]], run_columns: Sequence[str]
) -> pa.Table:
    schema = curves_schema(tuple(further_metrics(run_columns)))
    tables = read_curve_tables(directory, group, schema.names, Allowance())
    return pa.concat_tables([_without(table, left_out.get(name, ())).cast(schema) for name, table in tables])


def _without(table: pa.Table, ids: Collection[str]) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table["trial_id"], pa.array(sorted(ids), pa.string())))) if ids else table


def _is_readable(content: pa.Buffer) -> bool:
    """Whether a file is within the limit of readers on its own, however many others they read.

    The long tracebacks of runs that all failed alike compress too well together.
    """
    try:
        read_parquet(pa.BufferReader(content), lambda names: names, Allowance(free=0))
    except pa.ArrowInvalid:
        return False
    return True


def _write(directory: Place, name: str, merged: _Merged) -> None:
    """Write a part's files in their order, and read them again; a part that can't be read is removed."""
    for folder, content in merged.files.items():
        directory.write(f"{folder}/{name}", content)
    try:
        again = read_run_tables(directory, [name])[name]
        ((_, measured),) = read_curve_tables(directory, [name], merged.curve_columns, Allowance())
        if {RUNS: again.num_rows, CURVES: measured.num_rows} != merged.rows:
            raise damaged(directory, f"{RUNS}/{name}", "it was written with other rows")
    except StorageError:
        _delete(directory, [f"{RUNS}/{name}"])
        _delete(directory, [f"{CURVES}/{name}"])
        raise


def _delete(directory: Place, names: Sequence[str]) -> None:
    with ThreadPoolExecutor(8) as threads:  # on an object store, each is a request
        list(threads.map(directory.delete, names))
