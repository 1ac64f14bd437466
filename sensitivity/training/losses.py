"""Losses over packs: outputs ``[trials, batch, outputs]`` to the mean loss of each trial ``[trials]``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

LossFunction = Callable[[Tensor, Tensor], Tensor]


_FEW_CLASSES = 16
"""Below so many, torch's CPU kernels are 4 to 9 times as fast over classes in another than the last dimension."""


def cross_entropy(outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of each trial; `targets` are classes ``[trials, batch]``.

    With `smoothing`, that share of every target is spread evenly over all classes (Szegedy et al. 2016).
    """
    options: dict[str, Any] = {"reduction": "none", "label_smoothing": smoothing}
    if outputs.device.type == "cpu" and outputs.shape[2] < _FEW_CLASSES:
        return functional.cross_entropy(outputs.transpose(1, 2), targets, **options).mean(1)
    losses = functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), **options)
    return losses.view(targets.shape).mean(1)


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
    """Fraction of examples whose largest output is their class, of each trial ``[trials]``."""
    return (outputs.argmax(2) == targets).to(torch.float64).mean(1)


LOSSES: dict[str, LossFunction] = {
    "cross_entropy": cross_entropy,
    "squared_error": squared_error,
    "quadratic": mean_output,
}
