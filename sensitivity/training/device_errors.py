"""Classification of exceptions: out of memory, device errors, and loss of the device."""

from __future__ import annotations

import re

import torch

_NO_MEMORY = re.compile(
    r"can't allocate memory"  # the host's allocator raises no specific type
    r"|CUDA error: out of memory|CU\w+_STATUS_\w*ALLOC\w*_FAILED|CU\w+_STATUS_NOT_INITIALIZED"
)
"""Messages of libraries that can't allocate a workspace, or a handle with its workspace."""
_OF_DEVICE = re.compile(r"CUDA error|CU\w+_STATUS_|cuDNN error|stream is capturing|graph capture")


class DeviceLostError(Exception):
    """The device no longer responds in this process. No trial is marked as failed because the cause is unknown."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on an accelerator or on the host."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))


def of_device(error: BaseException) -> bool:
    """Whether an exception was raised by the device rather than by the code that used it."""
    return out_of_memory(error) or isinstance(error, torch.AcceleratorError) or bool(_OF_DEVICE.search(str(error)))


def require_device(device: torch.device) -> None:
    """Raise DeviceLostError if the device no longer responds.

    After some errors, such as a failed assertion in a kernel, every call in the process fails, so that later trials
    would be marked as failed without reason.
    """
    if device.type == "cpu":
        return
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise DeviceLostError(f"{device} no longer responds in this process: {reason}") from error
