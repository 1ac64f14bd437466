"""Shipped models. Each is built for an input shape and a number of outputs, with PyTorch's own initialisation."""

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


def small_cnn(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Return a network of two 3×3 convolutions (16 and 32 channels, each pooled by 2) and a linear layer.

    Raises:
        ValueError: the input is not ``[channels, height, width]`` with sides of at least 4.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < 4:
        raise ValueError(f"small_cnn takes images [channels, height, width] of at least 4×4; got {input_shape}")
    channels, height, width = input_shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (height // 4) * (width // 4), outputs),
    )
