"""The memory of a training process: its allocator, and what tensors take at most."""

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

from sensitivity.training.following import FollowingMode

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


def return_freed_memory() -> None:
    """Have the C library return the memory that it keeps; it keeps what is freed from now on."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # without glibc
        ctypes.CDLL(None).malloc_trim(0)


def release_unused() -> None:
    """Give back to the accelerator what nothing holds any more: models and their recordings refer to themselves."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def peak_bytes(work: Callable[[], object], held: Sequence[Tensor]) -> int:
    """Return the most memory that tensors take at any time during `work`, those `held` throughout included.

    On an accelerator its allocator tells, with the gaps that it leaves and the memory that recordings keep to
    themselves; on the host every operation's results are followed until they are freed, which leaves out what an
    operation takes for itself and gives back.
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
    followed = _Followed(set(kept))
    with followed:
        work()
    return sum(kept.values()) + followed.peak


class _Followed(FollowingMode):
    """Follows the storages that operations return, but for known ones."""

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
