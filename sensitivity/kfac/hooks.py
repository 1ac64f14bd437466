"""Forward hooks that tell of a module's calls, and leave no trace on copies of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge


@dataclass(eq=False, slots=True)
class Hook:
    """Tells `see` the input, detached, and the output of every call of `own` that a backward pass may come to.

    Copies of the model share or lose it: the calls of a copy that shares it are not ours, and what is pickled or
    deeply copied has `_nothing` in its place. With `training_only` calls in evaluation mode are left out.
    """

    see: Callable[[Tensor, Tensor], None]
    own: nn.Module
    training_only: bool

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        """Look at one call of a module."""
        if module is not self.own or not output.requires_grad or (self.training_only and not module.training):
            return
        self.see((args[0] if args else kwargs["input"]).detach(), output)

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return _forgotten, ()


class Call(NamedTuple):
    """A call whose output gradients `observe` is to find; `version` as `version_of` counts."""

    name: str
    inputs: Tensor
    version: int
    edge: GradientEdge


def _forgotten() -> Callable[..., None]:
    return _nothing


def _nothing(*_: Any) -> None:
    """Watch no call."""


def transformed(output: Tensor) -> bool:
    """Whether a call was within a transform of torch.func, which never accumulates into `.grad`."""
    return torch._C._functorch.is_functorch_wrapped_tensor(output)


def version_of(inputs: Tensor) -> int:
    """Count the changes in place of an input so far, which tensors of the inference mode do not."""
    return -1 if inputs.is_inference() else inputs._version


def refuse_changed(name: str, inputs: Tensor, version: int) -> None:
    """Raise RuntimeError for an input that was changed in place since.

    Autograd does so where it keeps the same tensor, but not where autocast, or a hook on saved tensors, made it a copy.
    """
    if version_of(inputs) != version:
        raise RuntimeError(
            f"The input of layer {name!r} was changed in place after the layer had seen it, so that K-FAC's statistics "
            "would be of another input. Write x = x + y, say, for x += y."
        )
