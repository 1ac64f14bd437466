"""Forward hooks that tell of a module's calls, and leave no trace on copies of it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from sensitivity.kfac.attention import Rerouted, View
from sensitivity.kfac.products import Multiplied

Names = tuple[str | None, ...]
"""The layers whose outputs are side by side in a call, None for those that are not covered."""

Sight = Callable[[Names, Tensor, Tensor, View | None], None]
"""Told of a call: names, inputs, outputs, and the form in which the latter correspond to the inputs."""


@dataclass(eq=False, slots=True)
class Hook:
    """Tells `see` the input, detached, and the output of every call of `own` that a backward pass may come to.

    Copies of the model share or lose it: the calls of a copy that shares it are not ours, and what is pickled or
    deeply copied has `_nothing` in its place.
    """

    name: str
    own: nn.Module
    see: Sight

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        """Look at one call of a module."""
        if module is not self.own or not output.requires_grad:
            return
        inputs, view = (args[0] if args else kwargs["input"]).detach(), None
        if isinstance(module, nn.EmbeddingBag):
            inputs, view = bag_rows(module, inputs, *args[1:], **{k: v for k, v in kwargs.items() if k != "input"})
        self.see((self.name,), inputs, output, view)

    def attach(self) -> list[RemovableHandle]:
        """Put it on the module."""
        return [self.own.register_forward_hook(self, with_kwargs=True)]

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return _forgotten, ()


@dataclass(eq=False, slots=True)
class AttentionHook:
    """Tells `see` of the projections of every call of `own`, as `Hook` does; `names` are those that are covered.

    It goes on the module before its forward pass, as `before`, and after it.
    """

    names: Mapping[str, str]
    own: nn.MultiheadAttention
    see: Sight
    run_apart: Callable[..., Any]
    _open: list[Rerouted] = field(default_factory=list)

    def before(self, module: nn.Module, *_: Any) -> None:
        """Look at the projections that a call of a module computes from now on."""
        if module is self.own and torch.is_grad_enabled():
            self._open.append(Rerouted(self._project, self.run_apart))
            self._open[-1].__enter__()  # type: ignore[no-untyped-call]

    def __call__(self, module: nn.Module, *_: Any) -> None:
        """Look no longer."""
        if module is self.own and self._open:
            self._open.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def attach(self) -> list[RemovableHandle]:
        """Put it on the module."""
        before = self.own.register_forward_pre_hook(_Quiet(self.before))
        return [before, self.own.register_forward_hook(self, always_call=True)]

    def _project(self, which: tuple[str, ...], x: Tensor, weight: Tensor, bias: Tensor | None, view: View) -> Tensor:
        outputs = functional.linear(x, weight, bias)
        names = tuple(self.names.get(each) for each in which)
        if any(name is not None for name in names) and outputs.requires_grad:
            self.see(names, view(x.detach()), outputs, view)
        return outputs

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return _forgotten, ()


@dataclass(eq=False, slots=True)
class ProductHook:
    """Tells `see` of the products that a model's forward pass forms with the weights of `tables`, as `Hook` does.

    Tables are embeddings by the name of their layer. Compiled models are left alone.
    """

    own: nn.Module
    tables: Mapping[str, nn.Module]
    see: Sight
    _open: list[Multiplied] = field(default_factory=list)

    def before(self, module: nn.Module, *_: Any) -> None:
        """Look at the products from now on."""
        if module is self.own and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._open.append(Multiplied(self._weights, self._multiply))
            self._open[-1].__enter__()  # type: ignore[no-untyped-call]

    def __call__(self, module: nn.Module, *_: Any) -> None:
        """Look no longer."""
        if module is self.own and self._open:
            self._open.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def attach(self) -> list[RemovableHandle]:
        """Put it on the model."""
        before = self.own.register_forward_pre_hook(_Quiet(self.before))
        return [before, self.own.register_forward_hook(self, always_call=True)]

    def _weights(self) -> dict[str, Any]:
        return {name: module.weight for name, module in self.tables.items()}

    def _multiply(self, name: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        outputs = functional.linear(x, weight, bias)
        if outputs.requires_grad:
            self.see((name,), x.detach(), outputs, None)
        return outputs

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return _forgotten, ()


@dataclass(eq=False, slots=True)
class PassCounter:
    """Counts the forward passes of a model, other than those of copies."""

    own: nn.Module
    count: int = 0

    def __call__(self, module: nn.Module, *_: Any) -> None:
        """Count one."""
        self.count += module is self.own

    def attach(self) -> list[RemovableHandle]:
        """Put it on the model."""
        apart: Callable[[Any], Any] = torch.compiler.disable  # the model would be compiled anew for every count
        return [self.own.register_forward_pre_hook(_Quiet(apart(self)))]

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return _forgotten, ()


@dataclass(eq=False, slots=True)
class _Quiet:
    """A hook that leaves no trace on copies of its module."""

    hook: Callable[..., None]

    def __call__(self, *args: Any) -> None:
        self.hook(*args)

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return _forgotten, ()


def bag_rows(
    module: nn.EmbeddingBag, indices: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
) -> tuple[Tensor, View]:
    """Return the indices of all bags, and what gives each its share of the gradient of its bag's sum or mean.

    They are [bags, length], or [indices] where `offsets` part them: K-FAC treats the places of a bag as positions.
    """
    flat = indices.flatten()
    if offsets is None:
        owners = torch.arange(len(indices), device=indices.device).repeat_interleave(indices.shape[1])
        bags = len(indices)
    else:
        starts = offsets[:-1] if module.include_last_offset else offsets
        owners, bags = (
            torch.searchsorted(starts, torch.arange(len(flat), device=flat.device), right=True) - 1,
            len(starts),
        )
    shares = torch.ones(len(flat), device=module.weight.device, dtype=module.weight.dtype)
    if module.padding_idx is not None:
        shares = (flat != module.padding_idx).to(shares)
    if module.mode == "mean":
        shares = shares / shares.new_zeros(bags).index_add_(0, owners, shares).clamp_min(1)[owners]
    if per_sample_weights is not None:
        shares = shares * per_sample_weights.detach().flatten()
    shape = indices.shape
    return indices, lambda grad: (grad[owners] * shares.unsqueeze(-1)).reshape(*shape, -1)


class Sighting(NamedTuple):
    """A call that a backward pass may come to: as `Sight` has it, and when it was.

    version: as `version_of` counts. outer: the backward pass within which it was recomputed, or -1. forward: the
    forward pass of the model that it was part of, None if it was recomputed.
    """

    names: Names
    inputs: Tensor
    version: int
    outer: int
    forward: int | None
    view: View | None


def parts_of(names: Names, grad: Tensor, view: View | None) -> Iterator[tuple[str, Tensor]]:
    """Give each covered layer its part of the gradient of outputs that lie side by side."""
    shaped = grad if view is None else view(grad)
    for name, part in zip(names, shaped.chunk(len(names), -1) if len(names) > 1 else [shaped], strict=True):
        if name is not None:
            yield name, part


def positions_first(view: View) -> View:
    """Turn a view as [batch, positions, ...] into one as [positions, batch, ...]."""
    return lambda grad: view(grad).transpose(0, 1)


def first_of(names: Names) -> str:
    """Name one covered layer of a call."""
    return names[0] if names[0] is not None else next(name for name in names if name is not None)


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


def refuse_changed(names: Names, inputs: Tensor, version: int) -> None:
    """Raise RuntimeError for an input that was changed in place since.

    Autograd does so where it keeps the same tensor, but not where autocast, or a hook on saved tensors, made it a copy.
    """
    if version_of(inputs) != version:
        raise RuntimeError(
            f"The input of layer {first_of(names)!r} was changed in place after the layer had seen it, so that K-FAC's "
            "statistics would be of another input. Write x = x + y, say, for x += y."
        )
