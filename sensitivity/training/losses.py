"""Losses over packs: outputs ``[trials, batch, outputs]`` to the mean loss of each trial ``[trials]``.

Where an example is a sequence with a class at every position, outputs are ``[trials, batch, time, classes]`` and
targets ``[trials, batch, time]``. Every position is a term of the loss, but for those whose target is `IGNORED`
(padding, say): the loss is the mean over the terms of a trial's batch, in nats a term.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

LossFunction = Callable[[Tensor, Tensor], Tensor]


IGNORED = -100
"""The target of a position that has no loss; torch's default ``ignore_index``."""
_FEW_CLASSES = 16
"""Below so many, torch's CPU kernels are 4 to 9 times as fast over classes in another than the last dimension."""


def cross_entropy(outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of each trial; `targets` are classes ``[trials, batch]`` or ``[trials, batch, time]``.

    With `smoothing`, that share of every target is spread evenly over all classes (Szegedy et al. 2016).
    """
    options: dict[str, Any] = {"reduction": "none", "label_smoothing": smoothing, "ignore_index": IGNORED}
    rows, classes = outputs.flatten(1, -2), targets.flatten(1)
    if outputs.device.type == "cpu" and outputs.shape[-1] < _FEW_CLASSES:
        losses = functional.cross_entropy(rows.transpose(1, 2), classes, **options)
    else:
        losses = functional.cross_entropy(rows.flatten(0, 1), classes.flatten(), **options).view(classes.shape)
    return losses.mean(1) if targets.dim() == 2 else losses.sum(1) / term_count(targets)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Half the squared distance, averaged over the batch, of each trial; `targets` ``[trials, batch, outputs]``.

    Raises:
        ValueError: the shapes differ; broadcasting would give the loss of something else.
    """
    if outputs.shape != targets.shape:
        raise ValueError(f"outputs {list(outputs.shape[1:])} and targets {list(targets.shape[1:])} differ in shape")
    return (outputs - targets).square().flatten(2).sum(2).mean(1) / 2


def mean_output(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean output of each trial, for a network that returns its own loss ``[trials, batch, 1]``."""
    return outputs.flatten(1).mean(1)


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Fraction of terms (examples, or positions of sequences) whose largest output is their class ``[trials]``."""
    right = (outputs.argmax(-1) == targets).flatten(1)
    return (
        right.to(torch.float64).mean(1)
        if targets.dim() == 2
        else right.sum(1, dtype=torch.float64) / term_count(targets)
    )


def term_count(targets: Tensor) -> Tensor:
    """Return how many terms the loss of each trial has ``[trials]``, at least 1: those that are not `IGNORED`."""
    return (targets != IGNORED).flatten(1).sum(1).clamp_min(1)


LOSSES: dict[str, LossFunction] = {
    "cross_entropy": cross_entropy,
    "squared_error": squared_error,
    "quadratic": mean_output,
}
