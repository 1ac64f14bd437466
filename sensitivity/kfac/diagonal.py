"""The diagonal Fisher of normalisation layers' scale and shift, from per-example gradients.

For s = γ x̂ + β the gradients that one example gives are Σ_positions g x̂ and Σ_positions g; their mean squares over
the loss terms are the diagonal. A batch normalisation's examples meet in x̂; that dependence is left out, as in its own
backward rule for γ and β.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm


def is_norm(module: nn.Module) -> bool:
    """Whether the module is a normalisation layer whose scale and shift have a diagonal Fisher here."""
    known = type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
    return known and getattr(module, "weight", None) is not None and getattr(module, "bias", None) is not None


def example_squares(module: nn.Module, inputs: Tensor, grads: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over examples the squared gradients of scale and shift: two tensors of the parameters' shape.

    inputs and grads are [N, C, ...] (batch and group normalisation) or [N, ..., *normalised shape].
    """
    dtype = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    inputs, grads = inputs.to(dtype), grads.to(dtype)
    if isinstance(module, nn.LayerNorm):
        normal = functional.layer_norm(inputs, module.normalized_shape, eps=module.eps)
        axes = list(range(1, inputs.dim() - len(module.normalized_shape)))
    elif isinstance(module, nn.GroupNorm):
        normal = functional.group_norm(inputs, module.num_groups, eps=module.eps)
        axes = list(range(2, inputs.dim()))
    else:
        assert isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))
        normal = functional.batch_norm(inputs, None, None, training=True, eps=module.eps)
        axes = list(range(2, inputs.dim()))
    scale, shift = grads * normal, grads
    if axes:
        scale, shift = scale.sum(axes), shift.sum(axes)
    return scale.square().sum(0), shift.square().sum(0)
