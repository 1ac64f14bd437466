"""Columns of ids of trials, of which a study may have millions.

Arrow's own functions on texts build a hash table, which takes about 100 bytes an id; what is here sorts 8 bytes an id.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_DIGITS = 16
"""Number of hexadecimal digits that every id has; 64 bits. Those of imported runs may have more."""


def is_unique(ids: pa.ChunkedArray) -> bool:
    """Whether no id occurs twice. `ids` are valid: texts of 16 or more hexadecimal digits."""
    beginnings = _beginnings(ids)
    beginnings.sort()
    if not (beginnings[1:] == beginnings[:-1]).any():
        return True
    return bool(pc.count_distinct(ids).as_py() == len(ids))  # some may differ after their first digits


def places(ids: pa.ChunkedArray, among: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Return the place of each of `ids` in `among`, -1 where it is not; all are valid, and `among` has none twice."""
    known, wanted = _beginnings(among), _beginnings(ids)
    order = known.argsort()
    known = known[order]
    if not len(known) or (known[1:] == known[:-1]).any():
        return np.asarray(pc.fill_null(pc.index_in(ids, value_set=among), -1).to_numpy(), np.int64)
    found = np.minimum(known.searchsorted(wanted), len(known) - 1)
    there, found = known[found] == wanted, order[found]
    if any(pc.max(pc.binary_length(texts)).as_py() != _DIGITS for texts in (ids, among) if len(texts)):
        there &= pc.equal(among.take(pa.array(found)), ids).to_numpy()
    return np.where(there, found, -1)


def _beginnings(ids: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """Return the first 16 digits of each id as a number."""
    return np.concatenate([np.empty(0, np.uint64), *map(_chunk_beginnings, ids.chunks)])


def _chunk_beginnings(ids: pa.StringArray) -> npt.NDArray[np.uint64]:
    if not len(ids):
        return np.empty(0, np.uint64)
    _, offsets, content = ids.buffers()
    starts = np.frombuffer(offsets, np.int32)[ids.offset : ids.offset + len(ids)]
    texts = np.lib.stride_tricks.sliding_window_view(np.frombuffer(content, np.uint8), _DIGITS)[starts]
    values = (texts & 15) + 9 * (texts >> 6)  # "0" to "9" are 0x30 to 0x39, and "a" to "f" 0x61 to 0x66
    return np.asarray((values[:, 0::2] << 4 | values[:, 1::2]).view(">u8")[:, 0], np.uint64)
