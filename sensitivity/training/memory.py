"""The allocator of a training process."""

from __future__ import annotations

import ctypes

import torch

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of glibc's mallopt(3)


def keep_freed_memory() -> bool:
    """Have the C library keep the memory of freed tensors for the next ones, rather than return it to the system.

    A pack's activations are tens of MB that are freed and asked for again at every step. By default glibc maps
    and unmaps blocks of that size, and the system clears each page anew, which shows in
    ``python benchmarks/packs.py --default-allocator``. A process keeps its peak memory for it.

    Returns:
        Whether it could be done: False without glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory has run out, on an accelerator or on the host."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # the host allocator has no type
