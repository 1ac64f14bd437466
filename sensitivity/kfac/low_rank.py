"""Gradients of small batches as low-rank products, whose factors are cheaper to precondition than the product.

The gradient of a linear layer is Σ g aᵀ = Dᵀ X over the R rows of the batch. For R small compared with the sides a and
g of its factors, (D G⁻¹)ᵀ (X A⁻¹) costs 2 R (a² + g² + a g) FLOPs, whereas G⁻¹ (Dᵀ X) A⁻¹ costs 2 a g (a + g). With
128 rows and sides of 512 and 785, the former took less than a third of the time (measured).
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sensitivity.kfac.factors import Capture, accumulation_dtype
from sensitivity.kfac.layers import Layer
from sensitivity.kfac.layout import Layout

_MAX_FLOPS_RATIO = 0.75
"""Ratio of FLOPs below which the low-rank form was faster at every shape measured."""

_OVERHEAD_FLOPS = 5e7
"""Cost of keeping and checking a layer's calls, in FLOPs of products of equal time (measured: 0.2 ms)."""

_TOLERANCE = 1e-4
"""Relative difference of two products that is attributed to rounding."""


@dataclass(frozen=True)
class Rows:
    """Low-rank factors of a layer's gradient: inputs [*lead, R, features], output gradients [*lead, R, outputs]."""

    inputs: Tensor
    grads: Tensor

    def matches(self, weight_grad: Tensor, bias_grad: Tensor | None) -> bool:
        """Whether their product equals this gradient of a single model up to rounding, checked on a fixed vector.

        It does not if the gradient was clipped or averaged in between, or the weight is used outside of its layer.
        """
        features = self.inputs.shape[-1]
        probe = _probe(features + 1).to(self.inputs)
        through = self.inputs @ probe[:features]
        found = weight_grad.to(through.dtype) @ probe[:features]
        if bias_grad is not None:
            through += probe[features]
            found = found + bias_grad.to(through.dtype) * probe[features]
        error = torch.linalg.vector_norm(self.grads.mT @ through - found)
        return bool(error <= _TOLERANCE * torch.linalg.vector_norm(found))

    def precondition(self, input_inverse: Tensor, output_inverse: Tensor, out: Tensor) -> None:
        """Write the preconditioned gradient [*lead, outputs, features, and 1 for a bias] to `out`."""
        features = self.inputs.shape[-1]
        if input_inverse.shape[-1] == features:
            solved = self.inputs @ input_inverse
        else:  # a bias is a feature that is always 1
            solved = (self.inputs @ input_inverse[..., :features, :]).add_(input_inverse[..., features:, :])
        torch.matmul((self.grads @ output_inverse).mT, solved, out=out)


def uses_calls(layer: Layer, rows: float) -> bool:
    """Whether `step` uses the `calls` of a layer with this number of rows (examples times positions) in a batch.

    It does if the low-rank form is cheaper.
    """
    return layer.kind == "linear" and low_rank_flops(layer, rows) < _MAX_FLOPS_RATIO * full_flops(layer)


def low_rank_flops(layer: Layer, rows: float) -> float:
    """FLOPs of preconditioning the low-rank factors of a linear layer's gradient and multiplying them."""
    a, g = layer.input_dim, layer.output_dim
    return 2 * rows * (a * (a - (layer.bias is not None)) + g * g + a * g)


def full_flops(layer: Layer) -> float:
    """FLOPs of preconditioning a layer's gradient matrix."""
    return layer.groups * 2.0 * layer.input_dim * layer.output_dim * (layer.input_dim + layer.output_dim)


def rows_of(layout: Layout, calls: Mapping[str, Sequence[Capture]]) -> dict[str, Rows]:
    """Low-rank factors by layer name, from all calls in a batch, for the layers for which they are cheaper."""
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


def can_be_faster(layer: Layer) -> bool:
    """Whether there is a batch size at which keeping a layer's calls is faster."""
    return layer.kind == "linear" and full_flops(layer) - low_rank_flops(layer, 1) >= _OVERHEAD_FLOPS


def keep_call(rows: dict[str, list[Capture]], layer: Layer, call: Capture) -> None:
    """Keep one more call of a layer, or discard all calls if their low-rank form would not be faster."""
    calls = rows.setdefault(layer.name, [])
    calls.append(call)
    count = sum(each.columns[0].shape[:-1].numel() for each in calls)
    if full_flops(layer) - low_rank_flops(layer, count) < _OVERHEAD_FLOPS:
        del rows[layer.name]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts), -2) if len(parts) > 1 else parts[0]


@functools.lru_cache(maxsize=64)
def _probe(size: int) -> Tensor:
    """Return a fixed random vector, independent of all gradients."""
    return torch.randn(size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
