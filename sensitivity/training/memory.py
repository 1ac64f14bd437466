"""Memory of a training process: allocator settings and peak memory of tensors."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from sensitivity.training.dispatch_modes import ObserverMode

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of glibc's mallopt(3)


def keep_freed_memory() -> bool:
    """Make the C library keep freed memory for later tensors instead of returning it to the system.

    A pack's activations are tens of MB that are freed and allocated again at every step. By default glibc maps and
    unmaps blocks of this size, and the system must clear their pages each time; ``python benchmarks/packs.py
    --default-allocator`` measures the cost. In return, the process keeps its peak memory.

    Returns:
        Whether it succeeded; False without glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))


def return_freed_memory() -> None:
    """Make the C library return the free memory that it keeps; memory freed later is kept again."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # without glibc
        ctypes.CDLL(None).malloc_trim(0)


def release_unused() -> None:
    """Return unreferenced memory to the accelerator; collects models and recordings, which have reference cycles."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def peak_bytes(work: Callable[[], object], held: Sequence[Tensor]) -> int:
    """Return the peak memory of tensors during `work`, including those in `held`, which exist throughout.

    On an accelerator the allocator reports it, including fragmentation and memory reserved by recordings. On the host
    the results of every operation are tracked until they are freed; temporaries within an operation are not counted.
    """
    kept: dict[int, int] = {}
    for tensor in held:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
    device = next((tensor.device for tensor in held if tensor.device.type == "cuda"), None)
    if device is not None:
        release_unused()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return sum(kept.values()) + int(torch.cuda.max_memory_reserved(device) - before)
    followed = _LiveMemory(set(kept))
    with followed:
        work()
    return sum(kept.values()) + followed.peak


class _LiveMemory(ObserverMode):
    """Tracks the storages that operations return, except known ones."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._known = known
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._live = {key: entry for key, entry in self._live.items() if not entry[0].expired()}  # type: ignore[no-untyped-call]
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and (storage := leaf.untyped_storage())._cdata not in self._known:
                alive = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                self._live[storage._cdata] = (alive, storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return result
