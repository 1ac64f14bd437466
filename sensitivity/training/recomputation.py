"""Rejection of activation checkpointing, which packs do not support."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def no_recomputation() -> AbstractContextManager[None]:
    """Return a context in which activation checkpointing raises an error instead of computing wrong gradients.

    It reruns parts of the model in the backward pass, when the model no longer contains the tensors of the members.
    """
    return torch.autograd.graph.disable_saved_tensors_hooks(
        "activation checkpointing (torch.utils.checkpoint, saved_tensors_hooks) can't be used here; remove it from the "
        "model, and limit memory with execution.micro_batch or problem.ghost_batch"
    )
