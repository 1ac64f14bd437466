"""A multilayer perceptron, for inputs of any shape."""

from __future__ import annotations

import math

from torch import nn

from sensitivity.training.models.arguments import check_counts, dropouts


def perceptron(
    input_shape: tuple[int, ...], outputs: int, *, width: int = 128, depth: int = 2, dropout: float = 0.0
) -> nn.Module:
    """Return a multilayer perceptron with `depth` hidden layers of `width` (64-128-128-10 on digits).

    `dropout` is the rate for each hidden layer's outputs.
    """
    check_counts("perceptron", width=width, depth=depth)
    layers: list[nn.Module] = [nn.Flatten()]
    inside = math.prod(input_shape)
    for _ in range(depth):
        layers += [nn.Linear(inside, width), nn.ReLU(), *dropouts("perceptron", dropout)]
        inside = width
    return nn.Sequential(*layers, nn.Linear(inside, outputs))
