"""The precision of matrix products and convolutions, as the study file says; parameters and updates are float32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch

AUTOCAST = {"bfloat16": torch.bfloat16}


def set_tf32(precision: str) -> None:
    """Let an accelerator's tensor cores round float32 products to TF32, or not: torch lets cuDNN do so unasked."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def autocast(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which products are computed as `dtype`, if one is given."""
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


@contextlib.contextmanager
def denormals_flushed() -> Iterator[None]:
    """Have this thread's CPU take numbers below 1e-38 for 0, where it can.

    The momentum of a unit that gets no gradient any more decays to such numbers within a thousand steps and stays
    there, and arithmetic on them takes twenty times as long (measured).
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)  # NumPy warns of it elsewhere
