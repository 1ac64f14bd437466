"""Embeddings whose weight is also that of a linear map, such as the output layer of a language model with tied weights.

The weight E [vocabulary, width] is used as a table of words, e = Eᵀ u with one-hot u, and as a map, z = E h. Its
gradient is Σ u gᵀ + Σ δ hᵀ, with g and δ the gradients of e and z. If the two uses are uncorrelated, as positions are
assumed to be in the "expand" setting, and the entries of z as well, its block of the Fisher is the sum D₁ ⊗ G + D₂ ⊗ A,
with

    D₁ = (1/M) Σ diag(u), G = (1/R) Σ g gᵀ, D₂ = (1/R') Σ diag(δ²), A = (1/M) Σ h hᵀ

(M loss terms, R and R' rows). The sum is not a Kronecker product, and is replaced by the one with its partial traces,

    D ⊗ S, D ∝ D₁ tr G + D₂ tr A, S ∝ G tr D₁ + A tr D₂, tr D tr S = tr D₁ tr G + tr D₂ tr A,

which is the Kronecker product closest to the sum in von Neumann divergence. It does not depend on how a use is scaled
between its two sides, and is exact if only one use contributes, or if G and A, or D₁ and D₂, are proportional.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sensitivity.kfac.config import Sharing
from sensitivity.kfac.factors import Capture, add_input_moment, add_output_moment, add_scaled, row_count
from sensitivity.kfac.layers import Layer, layer_of_call


def kronecker_sum(uses: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Kronecker product with the partial traces of a sum of Kronecker products.

    Each product is a pair of a diagonal [*lead, vocabulary] and a matrix [1, *lead, width, width].
    """
    lengths = [diagonal.sum(-1) for diagonal, _ in uses]
    traces = [matrix[0].diagonal(dim1=-2, dim2=-1).sum(-1) for _, matrix in uses]
    length = torch.stack(lengths).sum(0)
    total = torch.stack([d * t for d, t in zip(lengths, traces, strict=True)]).sum(0)
    diagonals = [
        diagonal * torch.where(total > 0, trace * length / total, 1.0).unsqueeze(-1)
        for (diagonal, _), trace in zip(uses, traces, strict=True)
    ]
    matrices = [
        matrix * torch.where(length > 0, own / length, 1.0)[..., None, None]
        for (_, matrix), own in zip(uses, lengths, strict=True)
    ]
    return torch.stack(diagonals).sum(0), torch.stack(matrices).sum(0)


def add_squares(calls: Sequence[Capture], lead: int, target: Tensor, keep: float, scale: float) -> None:
    """Set target ← keep * target + scale * Σ δ² over all calls and columns; the target is [*lead, vocabulary]."""
    for i, grads in enumerate(column for call in calls for column in call.columns):
        rows = (grads if grads.dim() > lead + 1 else grads.unsqueeze(lead)).flatten(lead, -2).to(target.dtype)
        add_scaled(target, torch.linalg.vecdot(rows, rows, dim=-2), keep if i == 0 else 1.0, scale)


def add_both(
    layer: Layer,
    calls: Sequence[Capture],
    lead: int,
    sharing: Sharing,
    targets: tuple[Tensor, Tensor],
    keep: float,
    weight: float,
    scales: tuple[float, float],
) -> None:
    """Set target ← keep * target + weight * factor, for both factors of an embedding that is used in both ways.

    targets: diagonal [*lead, vocabulary] and matrix [1, *lead, width, width]. scales: scale of input moments, and of
    output moments times the number of rows.
    """
    maps = [call for call in calls if call.inputs.is_floating_point()]
    tables = [call for call in calls if not call.inputs.is_floating_point()]
    map_layer = layer_of_call(layer, maps[0].inputs)
    uses = [(torch.zeros_like(targets[0]), torch.zeros_like(targets[1])) for _ in range(2)]
    if tables:
        rows = row_count(layer, tables, lead, sharing)
        add_input_moment(layer, tables, lead, sharing, uses[0][0], 0.0, scales[0])
        add_output_moment(layer, tables, lead, sharing, uses[0][1], 0.0, scales[1] / rows)
    add_input_moment(map_layer, maps, lead, "expand", uses[1][1], 0.0, scales[0])
    add_squares(maps, lead, uses[1][0], 0.0, scales[1] / row_count(map_layer, maps, lead, "expand"))
    for target, new in zip(targets, kronecker_sum(uses), strict=True):
        add_scaled(target, new, keep, weight)
