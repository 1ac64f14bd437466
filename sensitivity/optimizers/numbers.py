"""Hyperparameters of a pack as double-precision tensors ``[trials]``, and shaped to multiply parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class Numbers:
    """The hyperparameters of the members of a pack, by name."""

    def __init__(
        self,
        rows: Sequence[Mapping[str, float]],
        like: Tensor,
        began: Sequence[Mapping[str, float]] = (),
    ) -> None:
        """Store the hyperparameters of each member, for use with parameters like `like`.

        `began` contains those of all initial members, if some were dropped before a resumed pack.
        """
        self._dtype = like.dtype
        self._used = {name for row in (*rows, *began) for name, value in row.items() if value}
        self._values = {
            name: torch.tensor([row[name] for row in rows], dtype=torch.float64, device=like.device) for name in rows[0]
        }
        self._cast: dict[str, Tensor] = {}
        self._shaped: dict[tuple[str, int], Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        """Return a hyperparameter ``[trials]`` in double precision, which 1 - beta and its powers need."""
        return self._values[name]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all hyperparameters."""
        return tuple(self._values)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def any(self, name: str) -> bool:
        """Whether the value is non-zero for any initial member."""
        return name in self._used

    def cast(self, name: str) -> Tensor:
        """Return a hyperparameter ``[trials]`` in the dtype of the parameters."""
        if name not in self._cast:
            self._cast[name] = self._values[name].to(self._dtype)
        return self._cast[name]

    def like(self, name: str, tensor: Tensor) -> Tensor:
        """Return a hyperparameter shaped to multiply `tensor` ``[trials, ...]``."""
        shape = name, tensor.dim()
        if shape not in self._shaped:
            self._shaped[shape] = per_trial(self.cast(name), tensor)
        return self._shaped[shape]

    def complement(self, name: str, tensor: Tensor) -> Tensor:
        """Return 1 minus a hyperparameter, from double precision, shaped to multiply `tensor` ``[trials, ...]``."""
        shape = f"1 - {name}", tensor.dim()
        if shape not in self._shaped:
            self._shaped[shape] = per_trial(1 - self._values[name], tensor)
        return self._shaped[shape]

    def select(self, index: Tensor) -> None:
        """Keep only the members at `index`."""
        self._values = {name: values[index] for name, values in self._values.items()}
        self._cast, self._shaped = {}, {}


def per_trial(values: Tensor, like: Tensor) -> Tensor:
    """Return `values` ``[trials]`` in the dtype of `like` ``[trials, ...]``, shaped to multiply it."""
    return values.to(like.dtype).view(-1, *(1,) * (like.dim() - 1))


def weighted(gradient: Tensor, share: float | Tensor) -> Tensor:
    """Return a part's gradient ``[trials, ...]`` weighted by its `share` of the batch, a number or ``[trials]``."""
    return gradient * (share if isinstance(share, float) else per_trial(share, gradient))


def add_weighted(total: Tensor, gradient: Tensor, share: float | Tensor) -> Tensor:
    """Add a part's gradient, weighted as in `weighted`, to `total` in place and without a copy."""
    if isinstance(share, float):
        return total.add_(gradient, alpha=share)
    return total.addcmul_(gradient, per_trial(share, gradient))


def correction(beta: Tensor, steps: Tensor) -> Tensor:
    """Return 1 - beta ** steps ``[trials]``, the bias correction of an average from 0; accurate near beta = 1."""
    return -torch.expm1(steps * torch.log(beta))


def zeros(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a tensor of zeros for each parameter."""
    return {name: torch.zeros_like(p, requires_grad=False) for name, p in params.items()}


def counter(numbers: Numbers) -> Tensor:
    """Return a step counter for each member ``[trials]``, in double precision.

    It is a tensor rather than a Python number so that replays of a recorded step increment it.
    """
    return torch.zeros_like(numbers["lr"])
