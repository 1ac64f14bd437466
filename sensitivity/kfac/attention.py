"""The projections of `nn.MultiheadAttention`, which calls no module for them.

Its forward pass is `torch.nn.functional.multi_head_attention_forward`, whatever the attention itself is computed by
(the fast path for inference has no gradients). While a `Rerouted` mode is active, that function's own code runs with
another `linear`: three projections of [time, batch, features], or fewer where one product serves several of them, and
then the one of the outputs, whose rows are [time * batch, features].
"""

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from sensitivity.kfac.layers import PROJECTIONS

View = Callable[[Tensor], Tensor]
Project = Callable[[tuple[str, ...], Tensor, Tensor, Tensor | None, View], Tensor]
"""From names, rows, a weight and a bias to outputs, those of several names side by side.

The last argument views inputs and outputs as [batch, time, features].
"""

OUT = "out_proj"


def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function."""
    return function(*args, **kwargs)


class Rerouted(TorchFunctionMode):
    """Has `project` compute the projections of the attention that is called meanwhile.

    `run_apart` is `run`, outside of a compiled graph: the compiler would mix up the two forms of the function.
    """

    def __init__(self, project: Project, run_apart: Callable[..., Any] = run) -> None:
        super().__init__()
        self._project, self._run = project, run_apart
        self._left: list[str] = []
        self._batch = 1

    def __torch_function__(
        self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run any function as it is, but for the attention's."""
        if func is not functional.multi_head_attention_forward:
            return func(*args, **(kwargs or {}))
        self._left = [*PROJECTIONS, OUT]
        return self._run(_with_linear(self._linear), *args, **(kwargs or {}))

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        count = weight.shape[0] // weight.shape[1]
        names, self._left = tuple(self._left[:count]), self._left[count:]
        if names == (OUT,):
            batch = self._batch
            return self._project(
                names, x, weight, bias, lambda rows: torch.unflatten(rows, 0, (-1, batch)).transpose(0, 1)
            )
        self._batch = x.shape[1]
        return self._project(names, x, weight, bias, lambda rows: rows.transpose(0, 1))


def _with_linear(linear: Callable[..., Tensor]) -> Callable[..., Any]:
    """Copy the attention's function, to run with another `linear`."""
    scope = {**vars(functional), "linear": linear, "has_torch_function": lambda _: False}
    scope["_in_projection_packed"] = _copy(vars(functional)["_in_projection_packed"], scope)
    return _copy(functional.multi_head_attention_forward, scope)


def _copy(function: Any, scope: dict[str, Any]) -> FunctionType:
    return FunctionType(function.__code__, scope, function.__name__, function.__defaults__)
