"""Raw sums of a layer's moments between two steps: their buffers, and the batches that contributed to them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributed import ProcessGroup, get_world_size

from sensitivity.kfac.distributed import sum_over_ranks
from sensitivity.kfac.factors import Capture, add_bias, add_gram
from sensitivity.kfac.layers import Layer
from sensitivity.kfac.state import KFACState
from sensitivity.kfac.statistics import Statistics


@dataclass(frozen=True, eq=False)
class Place:
    """Buffers of a layer's sums; `inputs` and `outputs` are those of its two factors."""

    layer: Layer
    inputs: Tensor
    outputs: Tensor
    parts: tuple[Tensor, Tensor, Tensor, Tensor] | None
    """Block, bias row, bias column and corner of `inputs` for a linear layer, otherwise None."""


@dataclass(eq=False, slots=True)
class Contribution:
    """Contribution of one layer to its sums since the last step.

    scales: scales of the sums of inputs and output gradients. They assume that the first call is the only one, which
    usually saves a rescaling. rows: number of gradient rows. positions: whether inputs have positions in addition to
    examples. used, full: number of examples that entered the sums, and of all examples, by batch.
    """

    scales: tuple[float, float]
    rows: int = 0
    positions: bool = False
    used: dict[int, int] = field(default_factory=dict)
    full: dict[int, int] = field(default_factory=dict)


def add_rows(place: Place, call: Capture, batch: int, *, per_example: float, mean: bool) -> Contribution:
    """Sum the moments of a linear layer's first call on inputs [batch, features], and return its contribution.

    `per_example` is the number of loss terms per example, and `mean` whether the loss is their mean.
    """
    assert place.parts is not None
    rows, dtype = call.inputs.shape[0], place.outputs.dtype
    scale = rows * per_example if mean else 1
    contributions = Contribution((1 / (rows * per_example), scale**2 / rows), rows, False, {batch: rows}, {batch: rows})
    inputs, grads = call.inputs.to(dtype), call.columns[0].to(dtype)
    add_gram(place.parts[0], inputs, 0.0, contributions.scales[0])
    if place.layer.bias is not None:
        add_bias(place.parts, inputs, 0.0, contributions.scales[0])
    add_gram(place.outputs[0], grads, 0.0, contributions.scales[1])
    return contributions


def normalise(
    places: Mapping[str, Place], contributions: Mapping[str, Contribution], terms: float, scale: float
) -> None:
    """Convert raw sums to factors: divide inputs by loss terms, and gradients (of one loss term) by rows."""
    for name, each in contributions.items():
        place = places[name]
        share = sum(each.full.values()) / (terms * sum(each.used.values()))
        for raw, factor in (
            (place.inputs, share / each.scales[0]),
            (place.outputs, scale**2 / each.rows / each.scales[1]),
        ):
            if abs(factor - 1.0) > 1e-12:
                raw.mul_(factor)


def keep_averages(places: Mapping[str, Place], contributions: Mapping[str, Contribution], state: KFACState) -> None:
    """Set the sums of layers that contributed nothing to their running averages."""
    for placement in state.layout.placements if len(contributions) < len(places) else ():
        name = placement.layer.name
        if name not in contributions:
            held = state.diagonals[name] if placement.inputs is None else placement.inputs.of(state.factors)
            places[name].inputs.copy_(held)
            places[name].outputs.copy_(placement.outputs.of(state.factors))


def start_averages(
    places: Mapping[str, Place], contributions: Mapping[str, Contribution], state: KFACState, group: ProcessGroup | None
) -> bool:
    """Start the averages of layers that no earlier step used; return whether their inverses must be computed now.

    On the first step of all, the averages consist of this batch already.
    """
    names = state.waiting
    found = torch.tensor([float(name in contributions) for name in names], device=state.momentum.device)
    sum_over_ranks([found], group)
    starting = {name for name, count in zip(names, found.tolist(), strict=True) if count}
    state.waiting = tuple(name for name in names if name not in starting)
    if int(state.averaged) == 1:
        return False
    for placement in state.layout.placements:
        name = placement.layer.name
        if name in starting:
            held = state.diagonals[name] if placement.inputs is None else placement.inputs.of(state.factors)
            held.copy_(places[name].inputs)
            placement.outputs.of(state.factors).copy_(places[name].outputs)
    return bool(starting)


def share_of_terms(terms: float, sums: Statistics, group: ProcessGroup, *, inferred: bool) -> Tensor:
    """Fraction of the loss terms of all ranks that belong to this rank.

    Raises RuntimeError on all ranks if the numbers of terms differ and were `inferred` from mean losses, because it is
    then ambiguous whether the ranks' losses are weighted to the mean over all terms.
    """
    like = next(iter(sums.banks.values()))
    counts = torch.tensor([terms, terms**2, float(inferred)], dtype=torch.float64).to(like.device)
    sum_over_ranks([counts], group)
    world = get_world_size(group)
    if inferred or like.device.type == "cpu":
        total, squares, guessed = counts.tolist()
        if guessed and squares * world > total**2 * (1 + 1e-9):
            raise RuntimeError(
                f"The ranks' batches have different numbers of loss terms ({terms:g} of {total:g} on this one), and "
                "it is ambiguous how their losses are weighted. State it before loss.backward(), on every rank: "
                "optimizer.observe(outputs, terms=total / world_size) if a rank's loss is the sum of its terms times "
                "world_size / total, so that the average over ranks is the mean over all terms; "
                "optimizer.observe(outputs, terms=own) if it is the mean over its own terms."
            )
    return (terms / counts[0]).to(like.dtype)


def weight_by_rank(
    places: Mapping[str, Place], contributions: Mapping[str, Contribution], share: Tensor, group: ProcessGroup
) -> None:
    """Multiply factors by this rank's share of the loss terms (inputs) or of the layer's rows (output gradients).

    A layer that no rank used keeps its averages, of which every rank has a copy.
    """
    own = torch.tensor([float(contributions[name].rows) if name in contributions else 0.0 for name in places]).to(share)
    total = own.clone()
    sum_over_ranks([total], group)
    anywhere, equal = total > 0, 1 / get_world_size(group)
    outputs = torch.where(anywhere, own / total.clamp_min(1), equal)
    inputs = torch.where(anywhere, share * (own > 0), equal)
    for place, a, g in zip(places.values(), inputs, outputs, strict=True):
        place.inputs.mul_(a)
        place.outputs.mul_(g)
