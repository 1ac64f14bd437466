"""CSV, Parquet and JSON lines as Arrow tables; empty values are null, written NaNs are NaN."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from sensitivity.store.directory import first_line
from sensitivity.study.errors import UserError
from sensitivity.study.paths import path_faults

_NULLS = ["", "NULL", "null", "None", "NA", "N/A", "#N/A", "<NA>"]
SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")
_PACKED = ".gz"


@dataclass(frozen=True)
class Source:
    """Runs that were trained elsewhere, as one table with a row per run or per evaluation."""

    description: str
    """Description of the source."""
    table: pa.Table
    notes: tuple[str, ...] = ()
    """Cautions about the runs, one sentence each."""
    asks: tuple[str, ...] = ()
    """Questions that the source leaves open and a mapping must answer, one sentence each."""
    rows: Literal["runs", "evaluations"] | None = None
    """Meaning of a row; None to guess it."""


def is_table(path: Path) -> bool:
    """Whether `path` is a file that `read_table` reads, or a folder with such files."""
    return bool(_files(path))


def read_table(path: Path) -> Source:
    """Read a file, or all files of a folder; columns that some files lack are null there.

    Raises:
        UserError: a file can't be read, or there are no rows.
    """
    files = _files(path)
    with path_faults(path, "Use a file with read permission"):
        tables = [_named(_read(file), file, alone=len(files) == 1) for file in files]
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise UserError(
            f"{path}: columns of its files have different types ({first_line(error)})\n  Import them one by one"
        ) from None
    if not len(table):
        raise UserError(f"{path}: contains no rows\n  Check that it is the right file")
    return Source(description=path.name, table=table)


def _files(path: Path) -> list[Path]:
    with path_faults(path, "Use a file or folder with read permission"):
        if path.is_dir():
            return sorted(file for file in path.iterdir() if file.is_file() and _suffix(file) in SUFFIXES)
        return [path] if path.is_file() and _suffix(path) in SUFFIXES else []


def _suffix(path: Path) -> str:
    return Path(path.name.removesuffix(_PACKED)).suffix.lower()


def _named(table: pa.Table, file: Path, *, alone: bool) -> pa.Table:
    """Return the table of a file; without a column that identifies runs, each of several files is one run."""
    if alone or {"run", "run_id"} & set(table.column_names):
        return table
    return table.append_column("run", pa.array([file.name.partition(".")[0]] * len(table), pa.string()))


def _read(file: Path) -> pa.Table:
    suffix = _suffix(file)
    try:
        if suffix == ".parquet":
            return pq.read_table(file)
        if suffix in (".csv", ".tsv"):
            return pa_csv.read_csv(
                file,
                parse_options=pa_csv.ParseOptions(delimiter="\t" if suffix == ".tsv" else ","),
                convert_options=pa_csv.ConvertOptions(null_values=_NULLS, strings_can_be_null=True),
            )
        return pa.Table.from_pylist(list(_objects(file)))
    except (pa.ArrowException, ValueError) as error:
        raise UserError(f"{file}: can't be read ({first_line(error)})\n  Use a complete file in this format") from None


def _objects(file: Path) -> Iterator[dict[str, object]]:
    """Yield the objects of JSON lines, with nested objects flattened; each has the columns of all lines."""
    rows: list[dict[str, object]] = []
    names: dict[str, None] = {}
    packed = file.suffix == _PACKED
    with gzip.open(file, "rt", encoding="utf-8") if packed else file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            found = json.loads(line)
            if not isinstance(found, dict):
                raise ValueError(f"line {number} is not an object")  # noqa: TRY004 - reported as damage
            rows.append(flat(found))
            names |= dict.fromkeys(rows[-1])
    for row in rows:
        yield {name: row.get(name) for name in names}


def flat(content: dict[str, object], above: str = "") -> dict[str, object]:
    """Return nested objects as a flat one, with names joined by dots."""
    found: dict[str, object] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            found |= flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = json.dumps(value) if isinstance(value, list) else value
    return found
