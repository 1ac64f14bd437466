"""From averaged factors to inverses or eigenbases, and from gradients to preconditioned gradients.

With W a layer's matrix, A and G its factors and λ the damping:
"factored": (G + (√λ/π) I)⁻¹ W (A + π√λ I)⁻¹, π = √((tr A / dim A) / (tr G / dim G)) (Martens and Grosse 2015, section
6.3);
"exact": U_G ((U_Gᵀ W U_A) / (d_G d_Aᵀ + λ)) U_Aᵀ, with the eigenbases of A and G; EKFAC (George et al. 2018, arXiv
1806.03884) puts second moments of per-example gradients in that basis in the place of d_G d_Aᵀ.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from sensitivity.kfac.distributed import shared
from sensitivity.kfac.layout import Layout, Placement
from sensitivity.kfac.solves import condition_number, eigenbasis, inverse
from sensitivity.kfac.state import KFACState


@dataclass(frozen=True)
class SolveFailure:
    """A factor that could not be inverted: of which layer and member, and its damped matrix [d, d]."""

    layer: str
    side: str
    member: tuple[int, ...]
    matrix: Tensor

    @property
    def condition(self) -> float:
        """Condition number of the damped factor; NaN if it is not finite, inf if it is not positive definite."""
        return condition_number(self.matrix)


def refresh(
    state: KFACState, damping: Tensor, *, exact: bool, group: ProcessGroup | None = None
) -> tuple[SolveFailure, ...]:
    """Recompute inverses (or eigenbases) from the averaged factors, in place.

    A member with a failure keeps its old ones and is marked unusable. `damping` broadcasts to [layers, *lead]; the
    exact form does not need it here.
    """
    layout = state.layout
    sources = state.factors if exact else damped_factors(state, damping)
    solved, bad = dict[int, tuple[Tensor, ...]](), dict[int, Tensor]()
    solve = shared(eigenbasis if exact else inverse, group)
    for dim, bank in sources.items():
        *found, bad[dim] = solve(bank)
        solved[dim] = tuple(found)
    failed = torch.stack([x.any(0) for x in bad.values()]).any(0)
    keep = torch.nonzero(failed).numel() > 0
    for dim, parts in solved.items():
        targets = (state.eigenvalues[dim], state.inverses[dim]) if exact else (state.inverses[dim],)
        for target, new in zip(targets, parts, strict=True):
            stays = failed.reshape(*failed.shape, *(1,) * (new.dim() - 1 - failed.dim()))
            target.copy_(torch.where(stays, target, new) if keep else new)
    for placement in layout.placements:
        name = placement.layer.name
        if placement.inputs is None:
            strength = 0.0 if exact else _input_strength(state, placement, damping)
            new = state.diagonals[name] + strength
            target = state.diagonal_inverses[name]
            target.copy_(torch.where(failed[..., None], target, new if exact else new.reciprocal()))
    state.usable.copy_(~failed)
    state.moments.clear()
    state.moments_averaged = 0
    return _failures(layout, sources, bad) if keep else ()


def damped_factors(state: KFACState, damping: Tensor) -> dict[int, Tensor]:
    """Copy the banks with factored Tikhonov damping on their diagonals; `damping` broadcasts to [layers, *lead]."""
    banks = {dim: bank.clone() for dim, bank in state.factors.items()}
    means = {dim: bank.diagonal(dim1=-2, dim2=-1).mean(-1) for dim, bank in state.factors.items()}
    root = damping.sqrt().expand(len(state.layout.placements), *state.layout.lead)
    for i, placement in enumerate(state.layout.placements):
        ratio = _trace_ratio(state, placement, means)
        outputs = placement.outputs.of(banks)
        outputs.diagonal(dim1=-2, dim2=-1).add_((root[i] / ratio).unsqueeze(-1))
        if placement.inputs is not None:
            placement.inputs.of(banks).diagonal(dim1=-2, dim2=-1).add_((root[i] * ratio).unsqueeze(-1))
    return banks


def precondition(state: KFACState, grads: Tensor, out: Tensor, damping: Tensor, *, exact: bool) -> None:
    """Write the preconditioned gradients of all covered layers into the flat vector `out` [*lead, parameters]."""
    index = 0
    for cohort in state.layout.cohorts:
        count = len(cohort.placements)
        strengths = (
            damping.expand(len(state.layout.placements), *state.layout.lead)[index : index + count]
            if exact
            else damping
        )
        index += count
        if cohort.inputs is None:
            for i, placement in enumerate(cohort.placements):
                _embedding(state, placement, grads, out, strengths[i] if exact else None)
        elif state.layout.lead:
            for i, placement in enumerate(cohort.placements):
                assert placement.inputs is not None
                blocks, targets = placement.block(grads), placement.block(out)
                for group in range(placement.layer.groups):
                    a, g = placement.inputs.start + group, placement.outputs.start + group
                    block, target = blocks[..., group, :, :], targets[..., group, :, :]
                    scale = None
                    if exact:
                        scale = _scales(state, placement, group) + strengths[i][..., None, None]
                    target.copy_(
                        _solve(
                            block,
                            state.inverses[placement.inputs.dim][a],
                            state.inverses[placement.outputs.dim][g],
                            scale,
                        )
                    )
        else:
            scale = None
            if exact:
                scales = [_scales(state, p, group) for p in cohort.placements for group in range(p.layer.groups)]
                strength = strengths.repeat_interleave(cohort.placements[0].layer.groups)
                scale = torch.stack(scales) + strength[:, None, None]
            inputs, outputs = cohort.inputs.of(state.inverses), cohort.outputs.of(state.inverses)
            cohort.block(out).copy_(_solve(cohort.block(grads), inputs, outputs, scale))


def _solve(block: Tensor, inputs: Tensor, outputs: Tensor, scale: Tensor | None) -> Tensor:
    """One product on either side, or in and out of the eigenbasis around a division by `scale`."""
    if scale is None:
        return outputs @ block @ inputs
    return outputs @ ((outputs.mT @ block @ inputs) / scale) @ inputs.mT


def _scales(state: KFACState, placement: Placement, group: int) -> Tensor:
    """Eigenvalues of the block in its basis, [*lead, output_dim, input_dim]."""
    if placement.layer.name in state.moments:
        return state.moments[placement.layer.name][..., group, :, :]
    assert placement.inputs is not None
    inputs = state.eigenvalues[placement.inputs.dim][placement.inputs.start + group]
    outputs = state.eigenvalues[placement.outputs.dim][placement.outputs.start + group]
    return outputs.unsqueeze(-1) * inputs.unsqueeze(-2)


def _embedding(state: KFACState, placement: Placement, grads: Tensor, out: Tensor, damping: Tensor | None) -> None:
    block, inputs = placement.block(grads), state.diagonal_inverses[placement.layer.name]
    outputs = placement.outputs.of(state.inverses)[0]
    if damping is None:
        solved = (block * inputs.unsqueeze(-1)) @ outputs
    else:
        values = placement.outputs.of(state.eigenvalues)[0]
        scale = inputs.unsqueeze(-1) * values.unsqueeze(-2) + damping[..., None, None]
        solved = ((block @ outputs) / scale) @ outputs.mT
    placement.block(out).copy_(solved)


def _trace_ratio(state: KFACState, placement: Placement, means: dict[int, Tensor]) -> Tensor:
    """π of a layer, [slots, *lead]; 1 where a trace is 0 or not finite."""
    outputs = placement.outputs.of(means)
    inputs = state.diagonals[placement.layer.name].mean(-1) if placement.inputs is None else placement.inputs.of(means)
    ratio = (inputs / outputs).sqrt()
    return torch.where((ratio > 0) & torch.isfinite(ratio), ratio, 1.0)


def _input_strength(state: KFACState, placement: Placement, damping: Tensor) -> Tensor:
    i = state.layout.placements.index(placement)
    root = damping.sqrt().expand(len(state.layout.placements), *state.layout.lead)[i]
    means = {dim: bank.diagonal(dim1=-2, dim2=-1).mean(-1) for dim, bank in state.factors.items()}
    return (root * _trace_ratio(state, placement, means)[0]).unsqueeze(-1)


def _failures(layout: Layout, sources: dict[int, Tensor], bad: dict[int, Tensor]) -> tuple[SolveFailure, ...]:
    found = []
    for placement in layout.placements:
        for side, slots in (("inputs", placement.inputs), ("outputs", placement.outputs)):
            if slots is None:
                continue
            for where in torch.nonzero(slots.of(bad)).tolist():
                matrix = slots.of(sources)[tuple(where)].clone()
                found.append(SolveFailure(placement.layer.name, side, tuple(where[1:]), matrix))
    return tuple(found)
