"""A multilayer perceptron, for inputs of any shape."""

from __future__ import annotations

import math

from torch import nn


def perceptron(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Return a multilayer perceptron with two hidden layers of 128 (64-128-128-10 on digits)."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(input_shape), 128),
        nn.ReLU(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, outputs),
    )
