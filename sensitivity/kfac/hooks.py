"""Forward hooks that report the calls of a module; copies of the module do not carry them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from sensitivity.kfac.attention import Rerouted, View
from sensitivity.kfac.products import Multiplied

Names = tuple[str | None, ...]
"""Names of the layers whose outputs are concatenated in a call; None for those that are not covered."""

CallHandler = Callable[[Names, Tensor, Tensor, View | None], None]
"""Receives a call: names, inputs, outputs, and the view of the outputs that corresponds to the inputs."""


@dataclass(eq=False, slots=True)
class Hook:
    """Passes the detached input and the output of every differentiable call of `own` to `handle`.

    Calls of a shallow copy of the module, which shares the hook, are ignored; a pickled or deeply copied module has
    `_no_op` in its place.
    """

    name: str
    own: nn.Module
    handle: CallHandler

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        """Handle one call of a module."""
        if module is not self.own or not output.requires_grad:
            return
        inputs, view = (args[0] if args else kwargs["input"]).detach(), None
        if isinstance(module, nn.EmbeddingBag):
            inputs, view = bag_rows(module, inputs, *args[1:], **{k: v for k, v in kwargs.items() if k != "input"})
        self.handle((self.name,), inputs, output, view)

    def attach(self) -> list[RemovableHandle]:
        """Register the hook on the module."""
        return [self.own.register_forward_hook(self, with_kwargs=True)]

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return _no_op_factory, ()


@dataclass(eq=False, slots=True)
class AttentionHook:
    """Passes the projections of every call of `own` to `handle`, as `Hook` does.

    `names` holds the names of the covered layers by projection. `before` runs as a forward pre-hook, and the call
    itself as a forward hook.
    """

    names: Mapping[str, str]
    own: nn.MultiheadAttention
    handle: CallHandler
    run_uncompiled: Callable[..., Any]
    _active: list[Rerouted] = field(default_factory=list)

    def before(self, module: nn.Module, *_: Any) -> None:
        """Start to intercept the projections of a call."""
        if module is self.own and torch.is_grad_enabled():
            self._active.append(Rerouted(self._project, self.run_uncompiled))
            self._active[-1].__enter__()  # type: ignore[no-untyped-call]

    def __call__(self, module: nn.Module, *_: Any) -> None:
        """Stop intercepting projections."""
        if module is self.own and self._active:
            self._active.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def attach(self) -> list[RemovableHandle]:
        """Register the hook on the module."""
        before = self.own.register_forward_pre_hook(_UncopiedHook(self.before))
        return [before, self.own.register_forward_hook(self, always_call=True)]

    def _project(self, which: tuple[str, ...], x: Tensor, weight: Tensor, bias: Tensor | None, view: View) -> Tensor:
        outputs = functional.linear(x, weight, bias)
        names = tuple(self.names.get(each) for each in which)
        if any(name is not None for name in names) and outputs.requires_grad:
            self.handle(names, view(x.detach()), outputs, view)
        return outputs

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return _no_op_factory, ()


@dataclass(eq=False, slots=True)
class ProductHook:
    """Passes products with the weights of `tables` in a model's forward pass to `handle`, as `Hook` does.

    Tables are embeddings by layer name. Compiled models are not intercepted.
    """

    own: nn.Module
    tables: Mapping[str, nn.Module]
    handle: CallHandler
    _active: list[Multiplied] = field(default_factory=list)

    def before(self, module: nn.Module, *_: Any) -> None:
        """Start to intercept products."""
        if module is self.own and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._active.append(Multiplied(self._weights, self._multiply))
            self._active[-1].__enter__()  # type: ignore[no-untyped-call]

    def __call__(self, module: nn.Module, *_: Any) -> None:
        """Stop intercepting products."""
        if module is self.own and self._active:
            self._active.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def attach(self) -> list[RemovableHandle]:
        """Register the hook on the model."""
        before = self.own.register_forward_pre_hook(_UncopiedHook(self.before))
        return [before, self.own.register_forward_hook(self, always_call=True)]

    def _weights(self) -> dict[str, Any]:
        return {name: module.weight for name, module in self.tables.items()}

    def _multiply(self, name: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        outputs = functional.linear(x, weight, bias)
        if outputs.requires_grad:
            self.handle((name,), x.detach(), outputs, None)
        return outputs

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return _no_op_factory, ()


@dataclass(eq=False, slots=True)
class PassCounter:
    """Counts the forward passes of a model, without those of its copies."""

    own: nn.Module
    count: int = 0

    def __call__(self, module: nn.Module, *_: Any) -> None:
        """Count one forward pass."""
        self.count += module is self.own

    def attach(self) -> list[RemovableHandle]:
        """Register the hook on the model."""
        return [self.own.register_forward_pre_hook(_UncopiedHook(outside_graphs(self)))]

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return _no_op_factory, ()


@dataclass(eq=False, slots=True)
class _UncopiedHook:
    """A hook that copies of its module do not carry."""

    hook: Callable[..., None]

    def __call__(self, *args: Any) -> None:
        self.hook(*args)

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return _no_op_factory, ()


def outside_graphs(function: Callable[..., Any]) -> Callable[..., Any]:
    """Break the graph of a compiled model at a function, which would be compiled again for every layer and every count.

    `torch.compiler.disable` alone costs an uncompiled model 6 us a call.
    """
    disable: Callable[[Any], Any] = torch.compiler.disable
    disabled = disable(function)

    def call(*args: Any, **kwargs: Any) -> Any:
        return (disabled if torch.compiler.is_compiling() else function)(*args, **kwargs)

    return call


def bag_rows(
    module: nn.EmbeddingBag, indices: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
) -> tuple[Tensor, View]:
    """Return the indices of all bags, and a view that distributes the gradient of each bag to its indices.

    Indices are [bags, length], or [indices] if `offsets` separate the bags. K-FAC treats the entries of a bag as
    positions.
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


class LayerCall(NamedTuple):
    """A differentiable call of one or several layers.

    version: version counter of the inputs (`version_of`). outer: id of the backward pass in which the call was
    recomputed, or -1. forward: number of the model's forward pass that the call was part of, None if it was recomputed.
    """

    names: Names
    inputs: Tensor
    version: int
    outer: int
    forward: int | None
    view: View | None


def parts_of(names: Names, grad: Tensor, view: View | None) -> list[tuple[str, Tensor]]:
    """Return the part of each covered layer of the gradient of concatenated outputs."""
    shaped = grad if view is None else view(grad)
    parts = shaped.chunk(len(names), -1) if len(names) > 1 else [shaped]
    return [(name, part) for name, part in zip(names, parts, strict=True) if name is not None]


def positions_first(view: View) -> View:
    """View as [positions, batch, ...], from a view as [batch, positions, ...]."""
    return lambda grad: view(grad).transpose(0, 1)


def first_name(names: Names) -> str:
    """Name of the first covered layer of a call."""
    return names[0] if names[0] is not None else next(name for name in names if name is not None)


def _no_op_factory() -> Callable[..., None]:
    return _no_op


def _no_op(*_: Any) -> None:
    """Ignore a call."""


def is_functorch_output(output: Tensor) -> bool:
    """Whether an output was computed in a transform of torch.func, which never accumulates into `.grad`."""
    return torch._C._functorch.is_functorch_wrapped_tensor(output)


def version_of(inputs: Tensor) -> int:
    """Version counter of an input, which counts in-place changes; -1 for inference tensors, which have none."""
    return -1 if inputs.is_inference() else inputs._version


def require_unchanged(names: Names, inputs: Tensor, version: int) -> None:
    """Raise RuntimeError if the inputs were changed in place since they had this version.

    Autograd raises if it saved the same tensor, but not if autocast or a hook on saved tensors made a copy.
    """
    if version_of(inputs) != version:
        raise RuntimeError(
            f"The input of layer {first_name(names)!r} was changed in place after the layer had used it, so K-FAC's "
            "statistics would be those of another input. Replace in-place operations: write x = x + y for x += y."
        )
