"""Contexts that keep lower precisions out of K-FAC's own products: autocast, and TF32 on an accelerator.

Statistics and inverses lose what damping rests on otherwise: with operands rounded to TF32, inverses by blocks erred by
4 to 7% at a condition number of 1e3, where float32 errs by 2e-5 to 5e-5 (measured).
"""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Keep autocast away: a backward pass or a step may well run inside of it, and it would round products to bf16."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Compute float32 products on this device as float32: without autocast, and without TF32 on tensor cores."""
    return without_autocast(device) if device.type == "cpu" else _full_precision(device)


@contextlib.contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    # The settings are the process's, not a thread's: what else trains in this process is slower for a moment.
    backends: Any = torch.backends
    switched = [_switched_off(backends.cuda.matmul, backends.cuda.matmul)]
    switched += [_switched_off(backends.cudnn, backends.cudnn.conv)]
    try:
        with without_autocast(device):
            yield
    finally:
        for owner, name, before in switched:
            if before:
                setattr(owner, name, before)


def _switched_off(legacy: Any, modern: Any) -> tuple[Any, str, Any]:
    """Switch TF32 off; return what to set, by name, to which value, for it to be as it was.

    torch has two interfaces, and from a mixture of both raises wherever the older one is read, in its profiler too. So
    the one that is in use is used.
    """
    try:
        before: Any = legacy.allow_tf32
    except RuntimeError:
        before, modern.fp32_precision = modern.fp32_precision, "ieee"
        return modern, "fp32_precision", before
    if before:
        legacy.allow_tf32 = False
    return legacy, "allow_tf32", before
