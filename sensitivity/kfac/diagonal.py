"""Diagonal Fisher of the scale and shift of normalisation layers, from per-example gradients.

For s = γ x̂ + β, the gradients of one example are Σ_positions g x̂ and Σ_positions g; the diagonal is their mean square
over the loss terms. In a batch normalisation x̂ depends on all examples; that dependence is neglected, as it is in the
gradients of γ and β. Several calls of one layer in a batch count as further examples.

Inputs and gradients are [*lead, N, C, ...] (batch and group normalisation) or [*lead, N, ..., *normalised shape].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sensitivity.kfac.factors import Capture, accumulation_dtype

Kind = Literal["batch", "layer", "rms", "group"]
_KINDS: dict[type[nn.Module], Kind] = {
    nn.BatchNorm1d: "batch",
    nn.BatchNorm2d: "batch",
    nn.BatchNorm3d: "batch",
    nn.LayerNorm: "layer",
    nn.RMSNorm: "rms",
    nn.GroupNorm: "group",
}


@dataclass(frozen=True, kw_only=True)
class Norm:
    """A normalisation layer with its scale and optional shift.

    shape: shape of the scale and the shift. groups: of a group normalisation, otherwise 1.
    """

    name: str
    kind: Kind
    weight: str
    bias: str | None
    shape: tuple[int, ...]
    groups: int
    eps: float | None

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the scale and the shift."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


def norms_of(model: nn.Module) -> tuple[Norm, ...]:
    """Describe every normalisation layer whose scale and shift are trained, in the order of `named_modules`."""
    found = []
    for name, module in model.named_modules():
        kind = _KINDS.get(type(module))
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if kind is None or weight is None or not all(p.requires_grad for p in module.parameters(recurse=False)):
            continue
        prefix = f"{name}." if name else ""
        norm = Norm(
            name=name,
            kind=kind,
            weight=f"{prefix}weight",
            bias=None if bias is None else f"{prefix}bias",
            shape=tuple(weight.shape),
            groups=module.num_groups if isinstance(module, nn.GroupNorm) else 1,
            eps=getattr(module, "eps", 0.0),
        )
        found.append(norm)
    return tuple(found)


def example_squares(norm: Norm, calls: Sequence[Capture], lead: int) -> dict[str, Tensor]:
    """Sum over examples of the squared gradients of scale and shift, [*lead, *shape] by parameter name."""
    total: dict[str, Tensor] = {}
    trailing = len(norm.shape) if norm.kind in ("layer", "rms") else 0
    for call in calls:
        dtype = accumulation_dtype(call.inputs.dtype)
        normal, first = _normalised(norm, call.inputs.to(dtype), lead), lead + (1 if trailing else 2)
        axes = list(range(first, normal.dim() - trailing))
        for column in call.columns:
            grads = column.to(dtype)
            gradients = {norm.weight: grads * normal} | ({} if norm.bias is None else {norm.bias: grads})
            for name, gradient in gradients.items():
                each = gradient.sum(axes) if axes else gradient
                squares = each.square().sum(lead)
                total[name] = total[name] + squares if name in total else squares
    return total


def average_squares(
    held: dict[str, Tensor], new: Mapping[str, Tensor], weight: float | Tensor, moved: Tensor | None
) -> None:
    """Update running averages of squares with those of a batch, in place, for members inside `moved` (None: all).

    `weight` is the weight of the batch; weight and moved are [*lead].
    """
    for name, squares in new.items():
        first = name not in held
        mine = held.setdefault(name, torch.zeros_like(squares))
        trailing = (1,) * (squares.dim() - (weight.dim() if isinstance(weight, Tensor) else 0))
        shaped = weight.reshape(*weight.shape, *trailing).to(mine) if isinstance(weight, Tensor) else weight
        batch = squares
        if moved is not None:
            batch = torch.where(moved.reshape(*moved.shape, *(1,) * (squares.dim() - moved.dim())), squares, mine)
        mine.lerp_(batch, 1.0 if first else shaped)


def _normalised(norm: Norm, inputs: Tensor, lead: int) -> Tensor:
    if norm.kind == "layer":
        return functional.layer_norm(inputs, norm.shape, eps=norm.eps or 0.0)
    if norm.kind == "rms":
        return functional.rms_norm(inputs, norm.shape, eps=norm.eps)
    if norm.kind == "group":
        return functional.group_norm(inputs.flatten(0, lead), norm.groups, eps=norm.eps or 0.0).reshape(inputs.shape)
    axes = [lead, *range(lead + 2, inputs.dim())]
    variance, mean = torch.var_mean(inputs, axes, correction=0, keepdim=True)
    return (inputs - mean) * (variance + (norm.eps or 0.0)).rsqrt()
