"""Inverses or eigenbases of the averaged factors, and preconditioned gradients.

With W the gradient of a layer's matrix, A and G its factors and λ the damping, the preconditioned gradient is

    "factored": (G + (√λ/π) I)⁻¹ W (A + π√λ I)⁻¹, with π = √((tr A / dim A) / (tr G / dim G));
    "exact":    U_G ((U_Gᵀ W U_A) / (d_G d_Aᵀ + λ)) U_Aᵀ, with eigenvalues d and eigenvectors U of the factors.

EKFAC (George et al. 2018, arXiv 1806.03884) replaces d_G d_Aᵀ with second moments of per-example gradients in that
basis. (Factored damping: Martens and Grosse 2015, section 6.3.)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from sensitivity.kfac.distributed import distributed_solver
from sensitivity.kfac.layout import Cohort, Layout, Placement, common_buffer
from sensitivity.kfac.low_rank import Rows
from sensitivity.kfac.solves import any_failed, condition_number, eigenbasis, inverse, inverses_of
from sensitivity.kfac.state import KFACState


@dataclass(frozen=True)
class SolveFailure:
    """A factor that could not be inverted.

    layer: name of the layer. side: "inputs" or "outputs". member: index of the member in the leading dimensions.
    matrix: the damped factor [d, d].
    """

    layer: str
    side: str
    member: tuple[int, ...]
    matrix: Tensor

    @property
    def condition(self) -> float:
        """Condition number of the damped factor; NaN if it is not finite, infinity if it is not positive definite."""
        return condition_number(self.matrix)


def refresh(
    state: KFACState, damping: Tensor, *, exact: bool, group: ProcessGroup | None = None
) -> tuple[SolveFailure, ...]:
    """Recompute inverses (or eigenbases) from the averaged factors, in place; return the factors that failed.

    A member with a failure keeps its previous inverses and is marked unusable. `damping` broadcasts to [layers, *lead];
    the exact form does not use it here.
    """
    layout = state.layout
    sources = state.factors if exact else damped_factors(state, damping)
    found: Sequence[tuple[Tensor, ...]]
    if exact or group is not None:
        solve = distributed_solver(eigenbasis if exact else inverse, group)
        found = [solve(bank) for bank in sources.values()]
        keep = any_failed(found)
    else:
        found, keep = inverses_of(list(sources.values()))
    solved = {dim: each[:-1] for dim, each in zip(sources, found, strict=True)}
    bad = {dim: each[-1] for dim, each in zip(sources, found, strict=True)}
    failed = torch.cat(list(bad.values())).any(0)
    for dim, parts in solved.items():
        targets = (state.eigenvalues[dim], state.inverses[dim]) if exact else (state.inverses[dim],)
        for target, new in zip(targets, parts, strict=True):
            if keep:
                stays = failed.reshape(*failed.shape, *(1,) * (new.dim() - 1 - failed.dim()))
                new = torch.where(stays, target, new)
            target.copy_(new)
    for placement in layout.placements:
        name = placement.layer.name
        if placement.inputs is None:
            strength = 0.0 if exact else _input_damping(state, placement, damping)
            new = state.diagonals[name] + strength
            target = state.diagonal_inverses[name]
            target.copy_(torch.where(failed[..., None], target, new if exact else new.reciprocal()))
    state.usable.copy_(~failed)
    state.moments.clear()
    state.moments_averaged = 0
    return _failures(layout, sources, bad) if keep else ()


def damped_factors(state: KFACState, damping: Tensor) -> dict[int, Tensor]:
    """Copy the banks with factored Tikhonov damping on their diagonals; `damping` broadcasts to [layers, *lead]."""
    layout, buffer = state.layout, common_buffer(state.factors)
    index = layout.index(damping.device)
    if buffer is None:
        means = [bank.diagonal(dim1=-2, dim2=-1).mean(-1) for bank in state.factors.values()]
    else:
        traces = buffer.new_zeros(len(index.sides)).index_add_(0, index.slots, buffer[index.entries])
        means = [traces / index.sides]
    means += [state.diagonals[p.layer.name].mean(-1)[None] for p in layout.placements if p.inputs is None]
    extra = torch.cat(means) if len(means) > 1 else means[0]
    ratio, root = _trace_ratio(extra[index.inputs], extra[index.outputs]), damping.sqrt()
    if damping.dim():
        root = root.expand(len(layout.placements), *layout.lead)[index.owners]
    extra[index.inputs], extra[index.outputs] = root * ratio, root / ratio
    if buffer is not None:
        return layout.banks_in(buffer.index_add(0, index.entries, extra[index.slots]))
    banks, start = {dim: bank.clone() for dim, bank in state.factors.items()}, 0
    for bank in banks.values():
        bank.diagonal(dim1=-2, dim2=-1).add_(extra[start : start + len(bank)].unsqueeze(-1))
        start += len(bank)
    return banks


@dataclass(frozen=True, eq=False)
class Product:
    """One batched product of a step, as views of the state and its workspace: of a cohort, or of one slot in a pack.

    middle: buffer of the first of two products. slots: index and name of the layer, and the group, of each matrix.
    strengths: index into damping [layers, *lead].
    """

    block: Tensor
    middle: Tensor
    target: Tensor
    inputs: Tensor
    outputs: Tensor
    input_values: Tensor | None
    output_values: Tensor | None
    slots: tuple[tuple[int, str, int], ...]
    strengths: int | list[int]

    @property
    def by_slot(self) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
        """Inverses of input factors, inverses of output factors, and targets, by slot."""
        if isinstance(self.strengths, int):
            return [self.inputs], [self.outputs], [self.target]
        return self.inputs.unbind(), self.outputs.unbind(), self.target.unbind()


def products_of(state: KFACState) -> tuple[Product, ...]:
    """Products of a step, without those of embeddings."""
    lead, space, found = state.layout.lead, state.workspace, []
    order = {p.layer.name: i for i, p in enumerate(state.layout.placements)}
    for cohort in state.layout.cohorts:
        if cohort.inputs is None:
            continue
        slots = [(order[p.layer.name], p.layer.name, g) for p in cohort.placements for g in range(p.layer.groups)]
        if lead:
            blocks = [p.block(space.grads)[..., g, :, :] for p in cohort.placements for g in range(p.layer.groups)]
            targets = [p.block(space.updates)[..., g, :, :] for p in cohort.placements for g in range(p.layer.groups)]
            alone = list(range(len(slots)))
            found += [_product(state, cohort, blocks[i], targets[i], i, (slots[i],)) for i in alone]
        else:
            block, target = cohort.block(space.grads), cohort.block(space.updates)
            if len(slots) == 1:
                found.append(_product(state, cohort, block[0], target[0], 0, tuple(slots)))
            else:
                found.append(_product(state, cohort, block, target, slice(None), tuple(slots)))
    return tuple(found)


def _product(
    state: KFACState,
    cohort: Cohort,
    block: Tensor,
    target: Tensor,
    pick: int | slice,
    slots: tuple[tuple[int, str, int], ...],
) -> Product:
    assert cohort.inputs is not None
    values = state.eigenvalues
    return Product(
        block=block,
        middle=torch.empty(block.shape, dtype=block.dtype, device=block.device),
        target=target,
        inputs=cohort.inputs.of(state.inverses)[pick],
        outputs=cohort.outputs.of(state.inverses)[pick],
        input_values=cohort.inputs.of(values)[pick] if values else None,
        output_values=cohort.outputs.of(values)[pick] if values else None,
        slots=slots,
        strengths=slots[0][0] if isinstance(pick, int) else [slot[0] for slot in slots],
    )


def precondition(state: KFACState, damping: Tensor, *, exact: bool, rows: Mapping[str, Rows]) -> None:
    """Precondition the workspace's gradients of all covered layers, and write the results to its updates.

    `damping` broadcasts to [layers, *lead]. `rows` holds the low-rank factors of some gradients by layer, which make
    the factored form cheaper.
    """
    space = state.workspace
    if space.products is None:
        space.products = products_of(state)
    strengths = damping.expand(len(state.layout.placements), *state.layout.lead) if exact else damping
    for product in space.products:
        # The exact form divides by eigenvalues between the products, so that low-rank factors do not help.
        low_rank = [] if exact else [rows[name] for _, name, _ in product.slots if name in rows]
        if len(low_rank) == len(product.slots):
            for own, inputs, outputs, target in zip(low_rank, *product.by_slot, strict=True):
                own.precondition(inputs, outputs, target)
            continue
        if not exact:
            torch.matmul(product.outputs, product.block, out=product.middle)
            torch.matmul(product.middle, product.inputs, out=product.target)
            continue
        scale = _scales(state, product) + strengths[product.strengths][..., None, None]
        rotated = (product.outputs.mT @ product.block @ product.inputs).div_(scale)
        torch.matmul(product.outputs @ rotated, product.inputs.mT, out=product.target)
    for i, placement in enumerate(state.layout.placements):
        if placement.inputs is None:
            _precondition_embedding(state, placement, space.grads, space.updates, strengths[i] if exact else None)


def _scales(state: KFACState, product: Product) -> Tensor:
    """Eigenvalues of the blocks in their eigenbases, in the shape of the product's block."""
    assert product.input_values is not None
    assert product.output_values is not None
    values = product.output_values.unsqueeze(-1) * product.input_values.unsqueeze(-2)
    if not state.moments:
        return values
    single = isinstance(product.strengths, int)
    scales = [
        state.moments[name][..., group, :, :] if name in state.moments else values if single else values[i]
        for i, (_, name, group) in enumerate(product.slots)
    ]
    return scales[0] if single else torch.stack(scales)


def _precondition_embedding(
    state: KFACState, placement: Placement, grads: Tensor, out: Tensor, damping: Tensor | None
) -> None:
    block, inputs = placement.block(grads), state.diagonal_inverses[placement.layer.name]
    outputs = placement.outputs.of(state.inverses)[0]
    if damping is None:
        solved = (block * inputs.unsqueeze(-1)) @ outputs
    else:
        values = placement.outputs.of(state.eigenvalues)[0]
        scale = inputs.unsqueeze(-1) * values.unsqueeze(-2) + damping[..., None, None]
        solved = ((block @ outputs) / scale) @ outputs.mT
    placement.block(out).copy_(solved)


def _trace_ratio(inputs: Tensor, outputs: Tensor) -> Tensor:
    """π from the mean diagonals of both factors; 1 where the ratio is not positive and finite."""
    ratio = (inputs / outputs).sqrt_()
    return torch.where((ratio > 0) & (ratio < math.inf), ratio, 1.0)


def _input_damping(state: KFACState, placement: Placement, damping: Tensor) -> Tensor:
    i = state.layout.placements.index(placement)
    root = damping.sqrt().expand(len(state.layout.placements), *state.layout.lead)[i]
    outputs = placement.outputs.of(state.factors)[0].diagonal(dim1=-2, dim2=-1).mean(-1)
    ratio = _trace_ratio(state.diagonals[placement.layer.name].mean(-1), outputs)
    return (root * ratio).unsqueeze(-1)


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
