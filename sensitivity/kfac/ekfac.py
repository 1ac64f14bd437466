"""EKFAC: eigenvalues of a block, re-estimated as second moments of per-example gradients in its Kronecker eigenbasis.

In the basis U_G ⊗ U_A, the diagonal of the Fisher of the mean loss is (1/M) Σ_n (U_Gᵀ W_n U_A)², where W_n is the
gradient of example n with respect to the layer's matrix, summed over positions and calls, and M is the number of loss
terms. Embeddings keep the products of their factors' eigenvalues. (George et al. 2018, arXiv 1806.03884.)
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sensitivity.kfac.config import KFACConfig
from sensitivity.kfac.convolution import patches
from sensitivity.kfac.factors import Capture, grads_of, inputs_of
from sensitivity.kfac.layers import Layer
from sensitivity.kfac.layout import Placement
from sensitivity.kfac.state import KFACState
from sensitivity.kfac.statistics import newest_weight

_ENTRIES_PER_CHUNK = 2**24


def batch_moments(
    state: KFACState,
    captures: Mapping[str, Sequence[Capture]],
    config: KFACConfig,
    *,
    loss_scale: float,
) -> dict[str, Tensor]:
    """Sum over examples of squared gradients in the eigenbases, [*lead, groups, output_dim, input_dim] by layer.

    Layers without captures are omitted.
    """
    lead = len(state.layout.lead)
    found = {}
    for placement in state.layout.placements:
        if placement.inputs is not None and placement.layer.name in captures:
            calls = [call.head(lead, config.batch_fraction) for call in captures[placement.layer.name]]
            share = calls[0].inputs.shape[lead] / captures[placement.layer.name][0].inputs.shape[lead]
            found[placement.layer.name] = _squares(state, placement, calls) * (loss_scale**2 / share)
    return found


def average_moments(state: KFACState, new: Mapping[str, Tensor], decay: float, mask: Tensor | None) -> None:
    """Update the running second moments with those of a batch, in place; members outside `mask` keep theirs."""
    state.moments_averaged += 1
    weight = newest_weight(decay, state.moments_averaged)
    for name, batch in new.items():
        held = state.moments.get(name)
        if held is None:
            state.moments[name] = batch.nan_to_num(0.0, 0.0, 0.0)
        else:
            good = torch.isfinite(batch.sum((-3, -2, -1)))
            stays = ~(good if mask is None else good & mask)[..., None, None, None]
            held.lerp_(torch.where(stays, held, batch), weight)


def _squares(state: KFACState, placement: Placement, calls: Sequence[Capture]) -> Tensor:
    layer, lead = placement.layer, len(state.layout.lead)
    assert placement.inputs is not None
    bases = placement.inputs.of(state.inverses), placement.outputs.of(state.inverses)
    dtype = state.momentum.dtype
    total = torch.zeros((), dtype=dtype, device=calls[0].inputs.device)
    for column in inputs_of(layer, calls):
        inputs = torch.cat([_input_rows(layer, x.to(dtype), lead) for x in column], -2) @ bases[0].unsqueeze(-3)
        for outputs in grads_of(layer, calls):
            grads = torch.cat([_gradient_rows(layer, g.to(dtype), lead) for g in outputs], -2) @ bases[1].unsqueeze(-3)
            total = total + _sum_of_squares(inputs, grads)
    return total.movedim(0, lead)


def _sum_of_squares(inputs: Tensor, grads: Tensor) -> Tensor:
    """Sum over examples of their squared gradients, from inputs and gradients [groups, *lead, N, positions, d]."""
    if inputs.shape[-2] == 1:
        return grads.squeeze(-2).square().mT @ inputs.squeeze(-2).square()
    members = max(1, inputs.shape[:-3].numel())
    size = max(1, _ENTRIES_PER_CHUNK // (members * inputs.shape[-1] * grads.shape[-1]))
    pairs = zip(torch.split(inputs, size, -3), torch.split(grads, size, -3), strict=True)
    return torch.stack([(g.mT @ a).square().sum(-3) for a, g in pairs]).sum(0)


def _input_rows(layer: Layer, inputs: Tensor, lead: int) -> Tensor:
    """Input rows of each example, [groups, *lead, N, positions, d], with the bias."""
    if layer.kind == "linear":
        rows = inputs.unsqueeze(-2) if inputs.dim() == lead + 2 else inputs.flatten(lead + 1, -2)
        rows = rows.unsqueeze(0)
    else:
        assert layer.geometry is not None
        rows = patches(inputs, layer.geometry, layer.groups, lead).mT
    return functional.pad(rows, (0, 1), value=1.0) if layer.bias is not None else rows


def _gradient_rows(layer: Layer, grads: Tensor, lead: int) -> Tensor:
    """Output gradient rows of each example, [groups, *lead, N, positions, d]."""
    if layer.kind == "linear":
        return (grads.unsqueeze(-2) if grads.dim() == lead + 2 else grads.flatten(lead + 1, -2)).unsqueeze(0)
    maps = torch.unflatten(grads.flatten(lead + 2), lead + 1, (layer.groups, layer.output_dim))
    return maps.movedim(lead + 1, 0).mT
