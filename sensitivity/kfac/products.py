"""Interception of products with the weights of embeddings, such as `F.linear(h, embedding.weight)` as output layer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_TRANSPOSES = (torch.Tensor.T.__get__, torch.Tensor.mT.__get__, torch.Tensor.t, torch.t)  # type: ignore[attr-defined]
_AXIS_SWAPS = (torch.Tensor.transpose, torch.transpose)
_PRODUCTS = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)

Multiply = Callable[[str, Tensor, Tensor, Tensor | None], Tensor]
"""Computes x Eᵀ + bias from the name of an embedding, x, its weight E and a bias."""


class Multiplied(TorchFunctionMode):
    """Context in which `multiply` computes the products x Eᵀ with the weights of embeddings.

    It intercepts `functional.linear(x, E)` and `x @ E.T`. `weights` returns the current weights by layer name.
    """

    def __init__(self, weights: Callable[[], Mapping[str, Tensor]], multiply: Multiply) -> None:
        super().__init__()
        self._weights, self._multiply = weights, multiply
        self._transposed: list[tuple[Tensor, str, Tensor]] = []

    def __torch_function__(
        self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function unchanged, unless it is such a product."""
        keywords = kwargs or {}
        if func is functional.linear:
            x, weight, bias = (*args, *keywords.values(), None)[:3]
            for name, own in self._weights().items():
                if own is weight:
                    return self._multiply(name, x, own, bias)
        elif func in _PRODUCTS:
            for transposed, name, own in self._transposed:
                if transposed is args[1]:
                    return self._multiply(name, args[0], own, None)
        found = func(*args, **keywords)
        if func in _TRANSPOSES or (func in _AXIS_SWAPS and {*args[1:]} in ({0, 1}, {-1, -2})):
            self._transposed += [(found, name, own) for name, own in self._weights().items() if own is args[0]]
        return found
