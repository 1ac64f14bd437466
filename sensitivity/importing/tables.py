"""CSV, Parquet and JSON lines as Arrow tables, in which an empty value is null and a NaN that was written is NaN."""

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
    """Runs made elsewhere, as one table with a row per run or per evaluation."""

    description: str
    """Where they come from, in words."""
    table: pa.Table
    notes: tuple[str, ...] = ()
    """What has to be known of them: a sentence each."""
    asks: tuple[str, ...] = ()
    """What can't be known from the source, and a mapping has to say: a sentence each."""
    rows: Literal["runs", "evaluations"] | None = None
    """What a row is; None where it is to be guessed."""


def is_table(path: Path) -> bool:
    """Whether `path` names a file that `read_table` reads, or a folder of such."""
    return bool(_files(path))


def read_table(path: Path) -> Source:
    """Read a file, or all files of a folder that have the same columns or some of them.

    Raises:
        UserError: it can't be read, or holds no rows.
    """
    files = _files(path)
    with path_faults(path, "Give a file that can be read"):
        tables = [_named(_read(file), file, alone=len(files) == 1) for file in files]
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise UserError(
            f"{path}: its files don't fit together ({first_line(error)})\n  Import them one by one"
        ) from None
    if not len(table):
        raise UserError(f"{path}: there are no rows in it")
    return Source(description=path.name, table=table)


def _files(path: Path) -> list[Path]:
    with path_faults(path, "Give a file or folder that can be read"):
        if path.is_dir():
            return sorted(file for file in path.iterdir() if file.is_file() and _suffix(file) in SUFFIXES)
        return [path] if path.is_file() and _suffix(path) in SUFFIXES else []


def _suffix(path: Path) -> str:
    return Path(path.name.removesuffix(_PACKED)).suffix.lower()


def _named(table: pa.Table, file: Path, *, alone: bool) -> pa.Table:
    """Return the table of one of several files; where no column identifies runs, each file is one run."""
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
        raise UserError(f"{file}: can't be read ({first_line(error)})\n  Give a whole file in this format") from None


def _objects(file: Path) -> Iterator[dict[str, object]]:
    """Yield the objects of JSON lines, nested ones flattened with dots; the columns are those of all lines."""
    rows: list[dict[str, object]] = []
    names: dict[str, None] = {}
    packed = file.suffix == _PACKED
    with gzip.open(file, "rt", encoding="utf-8") if packed else file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            found = json.loads(line)
            if not isinstance(found, dict):
                raise ValueError(f"line {number} is no object")  # noqa: TRY004 - as other damage
            rows.append(flat(found))
            names |= dict.fromkeys(rows[-1])
    for row in rows:
        yield {name: row.get(name) for name in names}


def flat(content: dict[str, object], above: str = "") -> dict[str, object]:
    """Return nested objects as one, their names joined with dots."""
    found: dict[str, object] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            found |= flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = json.dumps(value) if isinstance(value, list) else value
    return found
