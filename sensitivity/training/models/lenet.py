"""LeNet-5 in its modern form (LeCun et al. 1998): ReLU, max pooling, and full connections between channels."""

from __future__ import annotations

from torch import nn


def lenet(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Return LeNet-5, with 61,706 parameters for ten classes of grayscale images of 32×32, or 28×28 (padded to 32×32).

    Raises:
        ValueError: the input is not ``[channels, height, width]`` with sides of at least 16.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < 16:
        raise ValueError(f"lenet takes images [channels, height, width] of at least 16×16; got {input_shape}")
    channels, height, width = input_shape
    pad_y, pad_x = (max(0, (32 - side) // 2) for side in (height, width))
    # Each convolution reduces a side by 4, each pooling halves it.
    rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height + 2 * pad_y, width + 2 * pad_x))
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=(pad_y, pad_x)),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * rows * columns, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, outputs),
    )
