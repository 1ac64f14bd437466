"""Interception of the projections of `nn.MultiheadAttention`, which are not computed by submodules.

The forward pass of the module is `torch.nn.functional.multi_head_attention_forward`, whichever kernel computes the
attention itself (the fast path for inference has no gradients). While a `Rerouted` mode is active, the code of that
function runs with a replaced `linear`. It is called for the three input projections of [time, batch, features], or
fewer times where one product computes several of them, and then for the output projection, whose rows are [time *
batch, features].
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
"""Computes projections from their names, rows, weight and bias; outputs of several names are concatenated.

The last argument views inputs and outputs as [batch, time, features].
"""

OUT = "out_proj"


def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function."""
    return function(*args, **kwargs)


class Rerouted(TorchFunctionMode):
    """Context in which `project` computes the projections of multi-head attention.

    `run_uncompiled` is `run`, excluded from compiled graphs: the compiler would confuse the two forms of the function.
    """

    def __init__(self, project: Project, run_uncompiled: Callable[..., Any] = run) -> None:
        super().__init__()
        self._project, self._run = project, run_uncompiled
        self._remaining: list[str] = []
        self._batch = 1

    def __torch_function__(
        self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function unchanged, unless it is the attention's forward function."""
        if func is not functional.multi_head_attention_forward:
            return func(*args, **(kwargs or {}))
        self._remaining = [*PROJECTIONS, OUT]
        return self._run(_with_linear(self._linear), *args, **(kwargs or {}))

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        count = weight.shape[0] // weight.shape[1]
        names, self._remaining = tuple(self._remaining[:count]), self._remaining[count:]
        if names == (OUT,):
            batch = self._batch
            return self._project(
                names, x, weight, bias, lambda rows: torch.unflatten(rows, 0, (-1, batch)).transpose(0, 1)
            )
        self._batch = x.shape[1]
        return self._project(names, x, weight, bias, lambda rows: rows.transpose(0, 1))


def _with_linear(linear: Callable[..., Tensor]) -> Callable[..., Any]:
    """Copy the attention's forward function, with `linear` replaced."""
    scope = {**vars(functional), "linear": linear, "has_torch_function": lambda _: False}
    scope["_in_projection_packed"] = _copy(vars(functional)["_in_projection_packed"], scope)
    return _copy(functional.multi_head_attention_forward, scope)


def _copy(function: Any, scope: dict[str, Any]) -> FunctionType:
    return FunctionType(function.__code__, scope, function.__name__, function.__defaults__)
