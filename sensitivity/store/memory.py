"""The memory of Arrow's tables, which its usual allocator keeps for later ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pyarrow as pa


@contextlib.contextmanager
def returning_memory() -> Iterator[None]:
    """Take Arrow's memory from the system's allocator inside the block, which keeps less of what was freed."""
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


def release_memory() -> None:
    """Return to the system what the allocator keeps: after a large table, that is as much as it took."""
    pa.default_memory_pool().release_unused()
