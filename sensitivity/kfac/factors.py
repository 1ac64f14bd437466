"""Second moments of layer inputs and output gradients, whose running averages are the Kronecker factors.

One call of a layer has inputs [*lead, N, ..., features] and output gradients [*lead, N, ..., features] (linear),
both [*lead, N, C, *spatial] (convolutions), or inputs [*lead, N, ...] of indices (embeddings). Moments are [groups,
*lead, d, d] with the bias as last row and column, as in the banks (layout.py). Positions are all dimensions between N
and the features; the calls of a layer in one batch count as positions too.

With M loss terms in the batch, R rows (examples times positions) and g the gradient of one loss term with respect to an
output, the block of a layer in the Fisher of the mean loss is A ⊗ G, where A = (1/M) Σ a aᵀ and G = (1/R) Σ g gᵀ
("expand"). In the "reduce" setting inputs are first averaged and gradients summed over positions, so that R counts
examples only. (Martens and Grosse 2015; Grosse and Martens 2016; Eschenhagen et al. 2023, arXiv 2311.00636.)

Functions accumulate, target ← keep * target + scale * Σ, so that a running average needs no additional pass.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sensitivity.kfac.config import Sharing
from sensitivity.kfac.convolution import patch_means, patch_moment
from sensitivity.kfac.layers import Layer

_BLOCK_WIDTH, _MIN_BLOCKED_SIZE = 128, 2e7
"""Width of the blocks of a symmetric product, and the smallest rows * side² for which it is computed in blocks."""


@dataclass(frozen=True)
class Capture:
    """One call of a layer: its inputs, and the gradient of the loss with respect to its outputs.

    `output_grads` is the gradient of the reduced loss (summed over leading dimensions), or a tuple of such gradients,
    one for each pseudo-loss of the Monte-Carlo or type-2 Fisher; their second moments are added.
    """

    inputs: Tensor
    output_grads: Tensor | tuple[Tensor, ...]

    @property
    def columns(self) -> tuple[Tensor, ...]:
        """The output gradients as a tuple."""
        return self.output_grads if isinstance(self.output_grads, tuple) else (self.output_grads,)

    def head(self, lead: int, fraction: float) -> "Capture":
        """Return a capture of the first `fraction` of the examples, at least one."""
        if fraction == 1.0:
            return self
        examples = self.inputs.shape[lead]
        kept = max(1, round(fraction * examples))
        if kept == examples:
            return self
        return Capture(self.inputs.narrow(lead, 0, kept), tuple(g.narrow(lead, 0, kept) for g in self.columns))


def row_count(layer: Layer, calls: Sequence[Capture], lead: int, sharing: Sharing) -> int:
    """Count the rows of a layer in one batch: examples times positions, or examples in the "reduce" setting."""
    if sharing == "reduce" and layer.kind != "embedding":
        return calls[0].inputs.shape[lead]
    grads = [call.columns[0] if layer.adjoint is None else call.inputs for call in calls]
    return sum(each.shape[lead:].numel() // (layer.output_dim * layer.groups) for each in grads)


def add_input_moment(
    layer: Layer, calls: Sequence[Capture], lead: int, sharing: Sharing, target: Tensor, keep: float, scale: float
) -> None:
    """Set target ← keep * target + scale * Σ a aᵀ over all calls.

    The target is [groups, *lead, d, d], or the diagonal [*lead, vocabulary] for an embedding.
    """
    columns = inputs_of(layer, calls)
    if sharing == "reduce" and layer.kind != "embedding":
        for i, column in enumerate(columns):
            mean = _sum([_mean_input(layer, each, lead, target.dtype) for each in column]) / len(column)
            _add_rows(target, _with_ones(mean) if layer.bias is not None else mean, keep if i == 0 else 1.0, scale)
        return
    for i, inputs in enumerate(each for column in columns for each in column):
        held = keep if i == 0 else 1.0
        if layer.kind == "embedding":
            indices = inputs.flatten(lead)
            target.mul_(held).scatter_add_(-1, indices, torch.full_like(indices, scale, dtype=target.dtype))
        elif layer.kind == "linear":
            rows = _flat_rows(inputs, lead, target.dtype)
            if rows.dim() == 2:
                parts = input_parts(target.view(target.shape[-2:]), bias=layer.bias is not None)
                add_gram(parts[0], rows, held, scale)
                if layer.bias is not None:
                    add_bias(parts, rows, held, scale)
            else:
                _add_rows(target, _with_ones(rows) if layer.bias is not None else rows, held, scale)
        else:
            assert layer.geometry is not None
            moment = patch_moment(
                inputs.to(target.dtype), layer.geometry, layer.groups, lead, bias=layer.bias is not None
            )
            add_scaled(target, moment, held, scale)


def add_output_moment(
    layer: Layer, calls: Sequence[Capture], lead: int, sharing: Sharing, target: Tensor, keep: float, scale: float
) -> None:
    """Set target ← keep * target + scale * Σ g gᵀ over all calls and columns; target [groups, *lead, d, d]."""
    columns = grads_of(layer, calls)
    if sharing == "reduce" and layer.kind != "embedding":
        rows = [_sum([_summed_grad(layer, g, lead, target.dtype) for g in column]) for column in columns]
    else:
        rows = [_grad_rows(layer, g, lead, target.dtype) for column in columns for g in column]
    for i, each in enumerate(rows):
        _add_rows(target, each, keep if i == 0 else 1.0, scale)


def input_parts(factor: Tensor, *, bias: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return views of an input factor [d, d]: the block without the bias, and the bias row, column and corner."""
    side = len(factor) - bias
    return factor[:side, :side], factor[-1, :side], factor[:side, -1], factor[-1, -1]


def add_gram(target: Tensor, rows: Tensor, keep: float, scale: float) -> None:
    """Set target ← keep * target + scale * Σ r rᵀ for rows [R, d] and a symmetric target.

    For large products on a CPU, blocks below the diagonal are copied instead of computed: two thirds of the time at a
    side of 1024, four fifths at 256 (measured).
    """
    side, columns = rows.shape[1], rows.mT
    if side < 2 * _BLOCK_WIDTH or len(rows) * side**2 < _MIN_BLOCKED_SIZE or rows.device.type != "cpu":
        target.addmm_(columns, rows, beta=keep, alpha=scale)
        return
    for start in range(0, side, _BLOCK_WIDTH):
        stop = min(start + _BLOCK_WIDTH, side)
        target[start:stop, start:].addmm_(columns[start:stop], rows[:, start:], beta=keep, alpha=scale)
        target[stop:, start:stop].copy_(target[start:stop, stop:].mT)


def add_bias(parts: tuple[Tensor, Tensor, Tensor, Tensor], rows: Tensor, keep: float, scale: float) -> None:
    """Apply `add_gram` to the bias parts of an input factor (see `input_parts`); `rows` omit the 1 of the bias."""
    _, last_row, last_column, corner = parts
    last_row.addmv_(rows.mT, _ones(rows.shape[0], rows.dtype, rows.device), beta=keep, alpha=scale)
    last_column.copy_(last_row)
    if keep:
        corner.mul_(keep).add_(rows.shape[0] * scale)
    else:
        corner.fill_(rows.shape[0] * scale)


@functools.lru_cache(maxsize=16)
def _ones(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Vector of ones, cached; callers must not write to it."""
    return torch.ones(count, dtype=dtype, device=device)


def inputs_of(layer: Layer, calls: Sequence[Capture]) -> list[list[Tensor]]:
    """Tensors that the input factor is computed from, by column: the inputs of all calls.

    For a transposed convolution, whose gradient is Σ x pᵀ with p patches of its output gradient, they are the output
    gradients. The product of both factors does not depend on which of them is scaled.
    """
    if layer.adjoint is None:
        return [[call.inputs for call in calls]]
    columns = zip(*(call.columns for call in calls), strict=True)
    return [[_padded_adjoint(layer, call.inputs, g) for call, g in zip(calls, c, strict=True)] for c in columns]


def grads_of(layer: Layer, calls: Sequence[Capture]) -> list[list[Tensor]]:
    """Tensors that the output factor is computed from, by column: output gradients of all calls; see `inputs_of`."""
    if layer.adjoint is not None:
        return [[call.inputs for call in calls]]
    return [list(column) for column in zip(*(call.columns for call in calls), strict=True)]


def _padded_adjoint(layer: Layer, inputs: Tensor, grads: Tensor) -> Tensor:
    """Pad or crop the output gradient of a transposed convolution so that it has one patch per input position."""
    assert layer.adjoint is not None
    assert layer.geometry is not None
    pads: list[int] = []
    sizes = list(zip(inputs.shape[::-1], grads.shape[::-1], strict=True))
    shape = zip(layer.geometry.kernel, layer.geometry.stride, layer.geometry.dilation, layer.adjoint, strict=True)
    for (size, output_size), (kernel, stride, dilation, low) in zip(sizes, reversed(list(shape)), strict=False):
        pads += [low, (size - 1) * stride + dilation * (kernel - 1) + 1 - output_size - low]
    return torch.nn.functional.pad(grads, pads) if any(pads) else grads


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Type in which products of `dtype` are accumulated: float64 for float64, otherwise float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _flat_rows(rows: Tensor, lead: int, dtype: torch.dtype) -> Tensor:
    """Rows [*lead, R, d] of a tensor [*lead, N, ..., d]."""
    rows = rows.flatten(lead, -2) if rows.dim() > lead + 2 else rows
    return rows if rows.dtype == dtype else rows.to(dtype)


def _grad_rows(layer: Layer, grads: Tensor, lead: int, dtype: torch.dtype) -> Tensor:
    """Rows of output gradients: [groups, *lead, R, d] for convolutions, [*lead, R, d] for other layers."""
    if layer.kind != "conv":
        return _flat_rows(grads, lead, dtype)
    maps = torch.unflatten(grads.to(dtype).flatten(lead + 2), lead + 1, (layer.groups, layer.output_dim))
    return maps.movedim(lead + 1, 0).movedim(-2, -1).flatten(-3, -2)


def _summed_grad(layer: Layer, grads: Tensor, lead: int, dtype: torch.dtype) -> Tensor:
    """Output gradients summed over positions, [groups, *lead, N, d]."""
    grads = grads.to(dtype)
    if layer.kind == "linear":
        return (grads.flatten(lead + 1, -2).sum(-2) if grads.dim() > lead + 2 else grads).unsqueeze(0)
    return torch.unflatten(grads.flatten(lead + 2).sum(-1), -1, (layer.groups, layer.output_dim)).movedim(-2, 0)


def _mean_input(layer: Layer, inputs: Tensor, lead: int, dtype: torch.dtype) -> Tensor:
    """Mean of inputs or patches over positions, [groups, *lead, N, d], without bias."""
    inputs = inputs.to(dtype)
    if layer.kind == "linear":
        return (inputs.flatten(lead + 1, -2).mean(-2) if inputs.dim() > lead + 2 else inputs).unsqueeze(0)
    assert layer.geometry is not None
    return patch_means(inputs, layer.geometry, layer.groups, lead)


def _sum(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack(tuple(terms)).sum(0) if len(terms) > 1 else terms[0]


def _with_ones(rows: Tensor) -> Tensor:
    return torch.cat([rows, rows.new_ones(*rows.shape[:-1], 1)], -1)


def _add_rows(target: Tensor, rows: Tensor, keep: float, scale: float) -> None:
    """Set target ← keep * target + scale * Σ r rᵀ for rows [(groups,) *lead, R, d]; `keep` 0 overwrites NaNs too."""
    if rows.dim() == 3 and len(rows) == len(target) == 1:
        rows = rows[0]
    if rows.dim() == 2:
        add_gram(target.view(target.shape[-2:]), rows, keep, scale)
        return
    batch = rows.reshape(-1, *rows.shape[-2:])
    target.view(-1, *target.shape[-2:]).baddbmm_(batch.mT, batch, beta=keep, alpha=scale)


def add_scaled(target: Tensor, moment: Tensor, keep: float, scale: float) -> None:
    """Set target ← keep * target + scale * moment; `keep` 0 overwrites NaNs too."""
    if keep == 0.0:
        torch.mul(moment, scale, out=target)
    else:
        target.mul_(keep).add_(moment, alpha=scale)
