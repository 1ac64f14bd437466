"""Activation checkpointing, which packs can't have, is refused by name."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def no_recomputation() -> AbstractContextManager[None]:
    """Return a context in which activation checkpointing raises, rather than give the gradient of other networks.

    It runs parts of the model again in the backward pass, when the tensors of the pack's members are no longer in it.
    """
    return torch.autograd.graph.disable_saved_tensors_hooks(
        "activation checkpointing (torch.utils.checkpoint, saved_tensors_hooks) can't be used here; take it out of the "
        "model, and bound memory with execution.micro_batch or problem.ghost_batch"
    )
