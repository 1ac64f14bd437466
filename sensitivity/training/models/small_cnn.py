"""A small convolutional network, for images of at least 4×4."""

from __future__ import annotations

from torch import nn


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
