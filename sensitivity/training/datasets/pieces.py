"""Iteration over arrays that may be larger than memory, in pieces."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

_NUMBERS = 1 << 22


def pieces(values: Tensor) -> Iterator[Tensor]:
    """Yield the rows of an array, a few million values at a time, in dtypes that torch computes with."""
    rows = max(1, _NUMBERS // max(1, values[:1].numel()))
    for start in range(0, len(values), rows):
        part = values[start : start + rows]
        yield part.long() if part.dtype == torch.uint16 else part


def used_classes(every: Iterable[Tensor]) -> set[int]:
    """Return the distinct values in pieces of integers."""
    found = set[int]()
    for part in every:
        found.update(torch.unique(part).tolist())
    return found


def is_mapped(array: Any) -> bool:
    """Whether an array is a view of a memory-mapped file."""
    while array is not None and not isinstance(array, (np.memmap, mmap.mmap)):
        array = getattr(array, "base", None)
    return array is not None
