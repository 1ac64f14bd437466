"""Two spirals, and a network for them: the data and the model of `study.toml`."""

import numpy as np
import torch
from torch import nn


def data():
    """Return train inputs, train classes, test inputs, test classes of two noisy spirals.

    The generator has a fixed seed: a study's data must be the same each time.
    """
    random = np.random.default_rng(0)
    classes = np.arange(1200) % 2
    turn = 3 * np.pi * np.sqrt(random.uniform(0.02, 1, 1200))
    spiral = np.stack([turn * np.cos(turn + np.pi * classes), turn * np.sin(turn + np.pi * classes)], axis=1)
    points = (spiral / 5 + random.normal(scale=0.05, size=spiral.shape)).astype(np.float32)
    return points[:1000], classes[:1000], points[1000:], classes[1000:]


class Residual(nn.Module):
    """A block of two linear layers with a skip connection."""

    def __init__(self, width):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))

    def forward(self, x):
        """Map ``[batch, width]`` to the same shape."""
        return torch.tanh(x + self.inner(x))


def network(input_shape, outputs):
    """Return the network; its initial parameters follow from the run's seed."""
    width = 32
    return nn.Sequential(nn.Linear(input_shape[0], width), Residual(width), Residual(width), nn.Linear(width, outputs))
