"""What an exception says of the device: that its memory has run out, that it was the device's at all, or its end."""

from __future__ import annotations

import re

import torch

_NO_MEMORY = re.compile(
    r"can't allocate memory"  # the host's allocator has no type of its own
    r"|CUDA error: out of memory|CU\w+_STATUS_\w*ALLOC\w*_FAILED|CU\w+_STATUS_NOT_INITIALIZED"
)
"""Libraries say these where a workspace, or a handle with its workspace, can't be had."""
_OF_DEVICE = re.compile(r"CUDA error|CU\w+_STATUS_|cuDNN error|stream is capturing|graph capture")


class DeviceLostError(Exception):
    """The device answers no more in this process. No trial is known to be to blame, and none is given up for it."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory has run out, on an accelerator or on the host."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))


def of_device(error: BaseException) -> bool:
    """Whether an exception is the device's, rather than one of the code that used it."""
    return out_of_memory(error) or isinstance(error, torch.AcceleratorError) or bool(_OF_DEVICE.search(str(error)))


def require_device(device: torch.device) -> None:
    """Raise DeviceLostError if the device answers no more.

    After some errors, such as an assertion in a kernel, every call in the process fails: what is trained there next
    would be blamed for what it never did.
    """
    if device.type == "cpu":
        return
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise DeviceLostError(f"{device} answers no more in this process: {reason}") from error
