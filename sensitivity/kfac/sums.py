"""The raw sums of a layer's moments between two steps: where they lie, and what has entered them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributed import ProcessGroup, get_world_size

from sensitivity.kfac.distributed import pooled
from sensitivity.kfac.factors import Capture, add_bias, add_gram
from sensitivity.kfac.layers import Layer
from sensitivity.kfac.state import KFACState
from sensitivity.kfac.statistics import Statistics


@dataclass(frozen=True, eq=False)
class Place:
    """Where a layer's sums lie."""

    layer: Layer
    inputs: Tensor
    outputs: Tensor
    parts: tuple[Tensor, Tensor, Tensor, Tensor] | None
    """Block, bias row, bias column and corner of `inputs`; None of a layer that isn't linear."""


@dataclass(eq=False, slots=True)
class Seen:
    """What one layer has contributed since the last step: rows of gradients, and examples, used and full, by batch.

    Its sums are scaled as if its first call were all there is, which usually saves a pass over them.
    """

    scales: tuple[float, float]
    rows: int = 0
    positions: bool = False
    used: dict[int, int] = field(default_factory=dict)
    full: dict[int, int] = field(default_factory=dict)


def add_rows(place: Place, call: Capture, batch: int, *, per_example: float, mean: bool) -> Seen:
    """Sum the moments of a linear layer's first call, on plain rows [batch, features]; return what it contributed.

    `per_example` is the number of loss terms of an example, `mean` whether the loss is their mean.
    """
    assert place.parts is not None
    rows, dtype = call.inputs.shape[0], place.outputs.dtype
    scale = rows * per_example if mean else 1
    seen = Seen((1 / (rows * per_example), scale**2 / rows), rows, False, {batch: rows}, {batch: rows})
    inputs, grads = call.inputs.to(dtype), call.columns[0].to(dtype)
    add_gram(place.parts[0], inputs, 0.0, seen.scales[0])
    if place.layer.bias is not None:
        add_bias(place.parts, inputs, 0.0, seen.scales[0])
    add_gram(place.outputs[0], grads, 0.0, seen.scales[1])
    return seen


def normalise(places: Mapping[str, Place], seen: Mapping[str, Seen], terms: float, scale: float) -> None:
    """Turn raw sums into factors: of inputs over the loss terms, of gradients, scaled to those of one, over rows."""
    for name, each in seen.items():
        place = places[name]
        share = sum(each.full.values()) / (terms * sum(each.used.values()))
        for raw, factor in (
            (place.inputs, share / each.scales[0]),
            (place.outputs, scale**2 / each.rows / each.scales[1]),
        ):
            if abs(factor - 1.0) > 1e-12:
                raw.mul_(factor)


def keep_averages(places: Mapping[str, Place], seen: Mapping[str, Seen], state: KFACState) -> None:
    """Give layers that were not seen their averages."""
    for placement in state.layout.placements if len(seen) < len(places) else ():
        name = placement.layer.name
        if name not in seen:
            held = state.diagonals[name] if placement.inputs is None else placement.inputs.of(state.factors)
            places[name].inputs.copy_(held)
            places[name].outputs.copy_(placement.outputs.of(state.factors))


def enter(places: Mapping[str, Place], seen: Mapping[str, Seen], state: KFACState, group: ProcessGroup | None) -> bool:
    """Start the averages of layers that no step before had; whether inverses are wanted for them.

    Those of the first step of all have nothing else in them.
    """
    names = state.waiting
    found = torch.tensor([float(name in seen) for name in names], device=state.momentum.device)
    pooled([found], group)
    entering = {name for name, count in zip(names, found.tolist(), strict=True) if count}
    state.waiting = tuple(name for name in names if name not in entering)
    if int(state.averaged) == 1:
        return False
    for placement in state.layout.placements:
        name = placement.layer.name
        if name in entering:
            held = state.diagonals[name] if placement.inputs is None else placement.inputs.of(state.factors)
            held.copy_(places[name].inputs)
            placement.outputs.of(state.factors).copy_(places[name].outputs)
    return bool(entering)


def share_of_terms(terms: float, sums: Statistics, group: ProcessGroup, *, inferred: bool) -> Tensor:
    """Return this rank's share of all loss terms.

    Raises RuntimeError, on all ranks, where their numbers differ and were `inferred` from means: the ranks' losses may
    then be weighted to the mean over all terms, or not.
    """
    like = next(iter(sums.banks.values()))
    counts = torch.tensor([terms, terms**2, float(inferred)], dtype=torch.float64).to(like.device)
    pooled([counts], group)
    world = get_world_size(group)
    if inferred or like.device.type == "cpu":
        total, squares, guessed = counts.tolist()
        if guessed and squares * world > total**2 * (1 + 1e-9):
            raise RuntimeError(
                f"The ranks' batches have different numbers of loss terms ({terms:g} of {total:g} on this one), and "
                "nothing tells how their losses are weighted. State it before loss.backward(), on every rank: "
                "optimizer.observe(outputs, terms=total / world_size) where a rank's loss is the sum of its terms "
                "times world_size / total, so that their average is the mean over all; optimizer.observe(outputs, "
                "terms=own) where it is the mean over its own."
            )
    return (terms / counts[0]).to(like.dtype)


def weigh(places: Mapping[str, Place], seen: Mapping[str, Seen], share: Tensor, group: ProcessGroup) -> None:
    """Multiply factors by this rank's share: of the loss terms for inputs, of a layer's rows for its gradients.

    A layer that no rank has seen keeps its averages, of which every rank has a copy.
    """
    own = torch.tensor([float(seen[name].rows) if name in seen else 0.0 for name in places]).to(share)
    total = own.clone()
    pooled([total], group)
    anywhere, equal = total > 0, 1 / get_world_size(group)
    outputs = torch.where(anywhere, own / total.clamp_min(1), equal)
    inputs = torch.where(anywhere, share * (own > 0), equal)
    for place, a, g in zip(places.values(), inputs, outputs, strict=True):
        place.inputs.mul_(a)
        place.outputs.mul_(g)
