"""Precision of matrix products and convolutions; parameters and updates are always float32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch

AUTOCAST = {"bfloat16": torch.bfloat16}


def set_tf32(precision: str) -> None:
    """Enable or disable TF32 for float32 products on an accelerator; torch enables it for cuDNN by default."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def autocast(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which products are computed with `dtype`, if given."""
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


@contextlib.contextmanager
def denormals_flushed() -> Iterator[None]:
    """Flush denormal numbers (below 1e-38) to zero in this thread, if the CPU supports it.

    The momentum of a unit that no longer receives a gradient decays to such numbers within a thousand steps, and
    arithmetic on them takes twenty times as long (measured).
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)  # otherwise NumPy warns about it
