"""The gradient of a small batch as a product of thin matrices, which is cheaper to precondition than their product.

A linear layer's gradient is Σ g aᵀ = Dᵀ X over the R rows of the batch. Where R is small beside the sides of its
factors, (D G⁻¹)ᵀ (X A⁻¹) costs 2 R (a² + g² + a g) FLOPs, and G⁻¹ (Dᵀ X) A⁻¹ costs 2 a g (a + g): at 128 rows and
sides of 512 and 785, under a third of the time (measured).
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sensitivity.kfac.factors import Capture, accumulation_dtype
from sensitivity.kfac.layers import Layer
from sensitivity.kfac.layout import Layout

_WORTH = 0.75
"""Share of the FLOPs below which the thin form was faster at every shape measured."""

_WORTH_FLOPS = 5e7
"""What keeping a layer's calls and trying them costs, in the time of products (measured: 0.2 ms)."""

_AGREES = 1e-4
"""Relative difference of two products that is put down to rounding."""


@dataclass(frozen=True)
class Rows:
    """What a layer's gradient is the product of: inputs [*lead, R, features], output gradients [*lead, R, outputs]."""

    inputs: Tensor
    grads: Tensor

    def make(self, weight_grad: Tensor, bias_grad: Tensor | None) -> bool:
        """Whether their product is this gradient of one model, but for rounding: tried on a fixed vector.

        It is not where the gradient was clipped or averaged since, or the weight is used outside of its layer.
        """
        features = self.inputs.shape[-1]
        probe = _probe(features + 1).to(self.inputs)
        through = self.inputs @ probe[:features]
        found = weight_grad.to(through.dtype) @ probe[:features]
        if bias_grad is not None:
            through += probe[features]
            found = found + bias_grad.to(through.dtype) * probe[features]
        error = torch.linalg.vector_norm(self.grads.mT @ through - found)
        return bool(error <= _AGREES * torch.linalg.vector_norm(found))

    def precondition(self, input_inverse: Tensor, output_inverse: Tensor, out: Tensor) -> None:
        """Write the preconditioned gradient [*lead, outputs, features, and 1 for a bias] to `out`."""
        features = self.inputs.shape[-1]
        if input_inverse.shape[-1] == features:
            solved = self.inputs @ input_inverse
        else:  # a bias is a feature that is always 1
            solved = (self.inputs @ input_inverse[..., :features, :]).add_(input_inverse[..., features:, :])
        torch.matmul((self.grads @ output_inverse).mT, solved, out=out)


def uses_calls(layer: Layer, rows: float) -> bool:
    """Whether `step` makes use of the `calls` of a layer that has so many rows (examples times positions) in a batch.

    That is where preconditioning thin matrices is the cheaper form.
    """
    return layer.kind == "linear" and thin_flops(layer, rows) < _WORTH * full_flops(layer)


def thin_flops(layer: Layer, rows: float) -> float:
    """Count the FLOPs of preconditioning a linear layer's rows and multiplying them."""
    a, g = layer.input_dim, layer.output_dim
    return 2 * rows * (a * (a - (layer.bias is not None)) + g * g + a * g)


def full_flops(layer: Layer) -> float:
    """Count the FLOPs of preconditioning a layer's gradient with inverses."""
    return layer.groups * 2.0 * layer.input_dim * layer.output_dim * (layer.input_dim + layer.output_dim)


def rows_of(layout: Layout, calls: Mapping[str, Sequence[Capture]]) -> dict[str, Rows]:
    """Return the rows of the layers for which they pay, by name, from all their calls in a batch."""
    lead, found = len(layout.lead), {}
    for placement in layout.placements:
        layer = placement.layer
        called = calls.get(layer.name, ())
        if called and uses_calls(layer, sum(call.columns[0].shape[lead:-1].numel() for call in called)):
            inputs = [call.inputs.flatten(lead, -2) for call in called]
            grads = [call.columns[0].flatten(lead, -2) for call in called]
            dtype = accumulation_dtype(grads[0].dtype)
            found[layer.name] = Rows(_joined(inputs).to(dtype), _joined(grads).to(dtype))
    return found


def may_pay(layer: Layer) -> bool:
    """Whether there are batches for which keeping a layer's calls pays."""
    return layer.kind == "linear" and full_flops(layer) - thin_flops(layer, 1) >= _WORTH_FLOPS


def keep_call(rows: dict[str, list[Capture]], layer: Layer, call: Capture) -> None:
    """Keep one more call of a layer, or none where the thin form of all its calls would not pay."""
    calls = rows.setdefault(layer.name, [])
    calls.append(call)
    count = sum(each.columns[0].shape[:-1].numel() for each in calls)
    if full_flops(layer) - thin_flops(layer, count) < _WORTH_FLOPS:
        del rows[layer.name]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts), -2) if len(parts) > 1 else parts[0]


@functools.lru_cache(maxsize=64)
def _probe(size: int) -> Tensor:
    """Return a vector that no gradient has to do with."""
    return torch.randn(size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
