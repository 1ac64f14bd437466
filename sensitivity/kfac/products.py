"""Products of functions with embeddings' weights, as where `F.linear(h, embedding.weight)` is the softmax."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_TURNED = (torch.Tensor.T.__get__, torch.Tensor.mT.__get__, torch.Tensor.t, torch.t)  # type: ignore[attr-defined]
_SWAPPED = (torch.Tensor.transpose, torch.transpose)
_PRODUCTS = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)

Multiply = Callable[[str, Tensor, Tensor, Tensor | None], Tensor]
"""From the name of an embedding, x, its weight E and a bias to x Eᵀ + bias."""


class Multiplied(TorchFunctionMode):
    """Has `multiply` compute the products x Eᵀ that functions form with the weights of embeddings.

    These are `functional.linear(x, E)` and `x @ E.T`. `weights` gives the weights of now by layer name.
    """

    def __init__(self, weights: Callable[[], Mapping[str, Tensor]], multiply: Multiply) -> None:
        super().__init__()
        self._weights, self._multiply = weights, multiply
        self._turned: list[tuple[Tensor, str, Tensor]] = []

    def __torch_function__(
        self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run any function as it is, but for such products."""
        given = kwargs or {}
        if func is functional.linear:
            x, weight, bias = (*args, *given.values(), None)[:3]
            for name, own in self._weights().items():
                if own is weight:
                    return self._multiply(name, x, own, bias)
        elif func in _PRODUCTS:
            for turned, name, own in self._turned:
                if turned is args[1]:
                    return self._multiply(name, args[0], own, None)
        found = func(*args, **given)
        if func in _TURNED or (func in _SWAPPED and {*args[1:]} in ({0, 1}, {-1, -2})):
            self._turned += [(found, name, own) for name, own in self._weights().items() if own is args[0]]
        return found
