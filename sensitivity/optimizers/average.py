"""Exponential moving averages of parameters over steps, which are evaluated instead of the parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from sensitivity.optimizers.contract import Tensors
from sensitivity.optimizers.numbers import Numbers, per_trial


class Average:
    """a ← d a + (1 − d) p after every step, with a = p after the first, as in torch.optim.swa_utils.AveragedModel.

    For a member with decay 0, these are the parameters themselves.
    """

    def __init__(self, params: Tensors, numbers: Numbers, decay: float) -> None:
        """Start from `params` ``[trials, ...]``; `decay` applies to all members if `numbers` has no "ema_decay"."""
        self.params = {name: p.detach().clone() for name, p in params.items()}
        """The averages, by name."""
        decays = numbers["ema_decay"] if "ema_decay" in numbers else torch.full_like(numbers["lr"], decay)
        self._weights = 1 - decays

    def step(self, params: Tensors, step: int) -> None:
        """Update the averages with the parameters after `step` (from 0)."""
        for name, average in self.params.items():
            if step == 0:
                average.copy_(params[name])
            else:
                average.lerp_(params[name], per_trial(self._weights, average))

    @contextlib.contextmanager
    def evaluating(self, params: Tensors) -> Iterator[None]:
        """Replace the values of `params` by the averages within the block."""
        for name, average in self.params.items():
            params[name].copy_(average)
        yield

    def select(self, index: Tensor) -> None:
        """Keep only the members at `index`."""
        self.params = {name: average[index] for name, average in self.params.items()}
        self._weights = self._weights[index]
