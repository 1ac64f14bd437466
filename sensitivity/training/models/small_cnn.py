"""A small convolutional network for images of at least 4×4."""

from __future__ import annotations

from torch import nn

from sensitivity.training.models.arguments import check_counts, dropouts


def small_cnn(input_shape: tuple[int, ...], outputs: int, *, width: int = 16, dropout: float = 0.0) -> nn.Module:
    """Return a network of two 3×3 convolutions (16 and 32 channels, each pooled by 2) and a linear layer.

    `width` is the number of channels of the first convolution; the second has twice as many. `dropout` is the rate for
    the linear layer's inputs.

    Raises:
        ValueError: the input is not ``[channels, height, width]`` with sides of at least 4.
    """
    check_counts("small_cnn", width=width)
    if len(input_shape) != 3 or min(input_shape[1:]) < 4:
        raise ValueError(f"small_cnn takes images [channels, height, width] of at least 4×4; got {input_shape}")
    channels, rows, columns = input_shape
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        *dropouts("small_cnn", dropout),
        nn.Linear(2 * width * (rows // 4) * (columns // 4), outputs),
    )
