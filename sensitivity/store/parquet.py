"""Reading of untrusted Parquet files: their footers and sizes limit the memory for decoding.

Parquet stores a billion equal values in a few bytes, so a small file may decode to any amount of memory. Tables written
by this package do not compress that far: each run has two hashes, and each evaluation a measured loss. The decoded size
of the files of a study directory is therefore limited to a multiple of their size on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

FREE_BYTES = 64 * 2**20
BYTES_PER_BYTE = 100
"""Runs that all failed in the same way reach 45: in a row of 350 bytes, only the 8 bytes of its id do not compress."""
MAX_COLUMNS = 2_000
_DIRECT_READ_BYTES = 16 * 2**20
"""Files that can't decode to more than this are read directly; otherwise strings are first read as dictionaries."""


class Allowance:
    """Memory budget, in bytes, for the tables of one study directory."""

    def __init__(self, free: int = FREE_BYTES) -> None:
        """Start with `free` bytes."""
        self._left = free

    def add_file(self, size: int) -> None:
        """Raise the budget by ``BYTES_PER_BYTE`` times the file size `size`."""
        self._left += BYTES_PER_BYTE * size

    def take(self, amount: int, what: str) -> None:
        """Reserve `amount` bytes for a table.

        Raises:
            ArrowInvalid: less is left; the message describes the table with `what`.
        """
        if amount > self._left:
            raise pa.ArrowInvalid(
                f"{what} would take {amount / 2**20:,.0f} MiB of memory; files of this size contain at most "
                f"{max(self._left, 0) / 2**20:,.0f} MiB more"
            )
        self._left -= amount


def read_parquet(
    source: pa.NativeFile,
    columns_of: Callable[[Sequence[str]], Iterable[str]],
    allowance: Allowance,
    *,
    dictionaries: Sequence[str] = (),
) -> pa.Table:
    """Return the columns that `columns_of` selects by name; those in `dictionaries` stay dictionary-encoded.

    Raises:
        OSError, ArrowException: the file can't be read, is damaged, or decodes to more than its size allows.
        KeyError: a column is missing.
    """
    size = source.size()
    allowance.add_file(size)
    file = pq.ParquetFile(source, page_checksum_verification=True)
    metadata, schema = file.metadata, file.schema_arrow
    if metadata.num_columns > MAX_COLUMNS:
        raise pa.ArrowInvalid(f"it has {metadata.num_columns:,} columns; allowed are {MAX_COLUMNS:,}")
    names = list(columns_of(schema.names))
    fields = [schema.field(name) for name in names]
    if nested := [field.name for field in fields if pa.types.is_nested(field.type)]:
        raise pa.ArrowInvalid(f"column {nested[0][:80]} has type {schema.field(nested[0]).type}, not single values")
    rows = metadata.num_rows
    encoded = sum(max(metadata.row_group(k).total_byte_size, 0) for k in range(metadata.num_row_groups))
    reserved = rows * 8 * len(names) + encoded
    allowance.take(reserved, f"a table of {rows:,} rows")
    texts = [field.name for field in fields if _is_text(field.type)]
    if rows * encoded > _DIRECT_READ_BYTES or dictionaries:
        encode = [name for name in texts if rows * encoded > _DIRECT_READ_BYTES or name in dictionaries]
        file = pq.ParquetFile(source, metadata=metadata, read_dictionary=encode, page_checksum_verification=True)
        table = file.read(names, use_threads=False)
        allowance.take(
            sum(_decoded_bytes(table[name]) for name in encode if name not in dictionaries),
            f"the texts of {rows:,} rows",
        )
    else:
        table = file.read(names, use_threads=False)
        allowance.take(max(table.nbytes - reserved, 0), f"a table of {rows:,} rows")
    return table.select(names)


def _is_text(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_binary, pa.types.is_large_string))


def _decoded_bytes(column: pa.ChunkedArray) -> int:
    """Return the total length in bytes of the strings of a dictionary-encoded column."""
    total = 0
    for chunk in column.chunks:
        lengths = pc.cast(pc.binary_length(chunk.dictionary), pa.int64())
        total += pc.sum(lengths.take(chunk.indices)).as_py() or 0
    return total
