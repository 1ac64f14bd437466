"""Factors of batches some of whose positions have no loss term, summed over the parts of a batch.

With M loss terms in the batch, the rows that the loss depends on, which are those with a gradient that is not 0, are
all that enters: A = (1/M) Σ a aᵀ and G = (1/R) Σ g gᵀ over these R rows, as in `factors`. So padding changes nothing,
and tokens without a loss of their own, through which attention reaches others, count like any. M and R differ between
the members of a pack and between parts, so that sums are divided only when the batch is whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sensitivity.kfac.factors import Capture, accumulation_dtype
from sensitivity.kfac.layers import Layer
from sensitivity.kfac.layout import Layout
from sensitivity.kfac.precision import full_precision
from sensitivity.kfac.statistics import Statistics, check_captures


class MaskedSums:
    """Second moments of a batch's rows so far, for linear layers and embeddings that share by "expand"."""

    def __init__(self, layout: Layout, like: Tensor) -> None:
        """Begin with none; `like` has the precision and the device of gradients."""
        dtype = accumulation_dtype(like.dtype)
        self._layout = layout
        self._sums = Statistics(layout.new_banks(like, dtype), layout.new_diagonals(like, dtype))
        self._rows: dict[str, Tensor] = {}
        self._terms = torch.zeros(layout.lead, dtype=dtype, device=like.device)

    def add(self, captures: Mapping[str, Sequence[Capture]], terms: Tensor, *, mean: bool) -> None:
        """Add a part that has so many loss terms [*lead].

        With `mean` its gradients are those of the mean over them, else those of each term's own loss.
        """
        check_captures([name for name, calls in captures.items() if calls], captures)
        lead, terms = len(self._layout.lead), terms.to(self._terms)
        self._terms += terms
        with full_precision(terms.device):
            for placement in self._layout.placements:
                layer = placement.layer
                banks, diagonals = self._sums.banks, self._sums.diagonals
                inputs = diagonals[layer.name] if placement.inputs is None else placement.inputs.of(banks)[0]
                outputs = placement.outputs.of(banks)[0]
                for call in captures.get(layer.name, ()):
                    scale = terms[..., None, None] if mean else 1.0
                    columns = [g.flatten(lead, -2).to(outputs.dtype) * scale for g in call.columns]
                    reached = torch.stack([(g != 0).any(-1) for g in columns]).any(0).to(outputs.dtype)
                    self._rows[layer.name] = self._rows.get(layer.name, 0) + reached.sum(-1)
                    _add_inputs(layer, call.inputs, reached, inputs)
                    for g in columns:
                        outputs += g.mT @ g

    def factors(self) -> Statistics:
        """Return the factors of all that was added."""
        for placement in self._layout.placements:
            if (rows := self._rows.get(placement.layer.name)) is None:
                continue
            banks, diagonals = self._sums.banks, self._sums.diagonals
            if placement.inputs is None:
                diagonals[placement.layer.name].div_(self._terms[..., None])
            else:
                placement.inputs.of(banks)[0].div_(self._terms[..., None, None])
            placement.outputs.of(banks)[0].div_(rows.clamp_min(1)[..., None, None])
        missing = frozenset(p.layer.name for p in self._layout.placements if p.layer.name not in self._rows)
        return Statistics(self._sums.banks, self._sums.diagonals, missing)


def _add_inputs(layer: Layer, inputs: Tensor, reached: Tensor, target: Tensor) -> None:
    """Add the second moments of the rows [*lead, R] that are reached, those of embeddings as counts."""
    if layer.kind == "embedding":
        target.scatter_add_(-1, inputs.reshape(reached.shape), reached)
        return
    rows = inputs.reshape(*reached.shape, inputs.shape[-1]).to(target.dtype)
    if layer.bias is not None:
        rows = torch.cat([rows, rows.new_ones(*reached.shape, 1)], -1)
    # Not a product with 0, which would spread a NaN that nothing depends on.
    rows = torch.where(reached.bool()[..., None], rows, 0.0)
    target += rows.mT @ rows
