"""Factors of a batch, scaled for the Fisher of the mean loss, and their bias-corrected running averages."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sensitivity.kfac.config import KFACConfig
from sensitivity.kfac.factors import Capture, add_input_moment, add_output_moment, row_count
from sensitivity.kfac.layers import layers_over_examples
from sensitivity.kfac.layout import Layout, Placement, common_buffer
from sensitivity.kfac.precision import full_precision
from sensitivity.kfac.state import KFACState
from sensitivity.kfac.tied import add_both


@dataclass(frozen=True)
class Statistics:
    """Factors of a batch, or running averages of factors.

    banks: [slots, *lead, d, d] by d. diagonals: input factors of embeddings, [*lead, vocabulary] by layer. missing:
    layers that the batch did not use; their factors are 0.
    """

    banks: Mapping[int, Tensor]
    diagonals: Mapping[str, Tensor]
    missing: frozenset[str] = frozenset()

    def finite(self, layout: Layout) -> Tensor | None:
        """Whether each member's factors are finite, as returned by `finite`; their diagonals bound all entries."""
        buffer = common_buffer(self.banks)
        if buffer is None:
            traces = [bank.diagonal(dim1=-2, dim2=-1).sum((0, -1)) for bank in self.banks.values()]
        else:
            traces = [buffer.index_select(0, layout.index(buffer.device).entries).sum()]
        traces += [diagonal.sum(-1) for diagonal in self.diagonals.values()]
        return finite(torch.stack(traces).sum(0) if len(traces) > 1 else traces[0])

    def move(self, new: "Statistics", weight: float | Tensor, mask: Tensor | None) -> None:
        """Set self ← (1 - weight) self + weight new for members inside `mask`; weight and mask are [*lead]."""
        if mask is None and isinstance(weight, float):
            buffers = common_buffer(self.banks), common_buffer(new.banks)
            if buffers[0] is not None and buffers[1] is not None and not self.diagonals:
                buffers[0].lerp_(buffers[1], weight)
            else:
                mine = [*self.banks.values(), *self.diagonals.values()]
                theirs = [*(new.banks[dim] for dim in self.banks), *(new.diagonals[name] for name in self.diagonals)]
                torch._foreach_lerp_(mine, theirs, weight)
            return
        pairs = [(bank, new.banks[dim], 2) for dim, bank in self.banks.items()]
        pairs += [(diagonal, new.diagonals[name], 1) for name, diagonal in self.diagonals.items()]
        for held, batch, trailing in pairs:
            shaped = weight if isinstance(weight, float) else weight.reshape(*weight.shape, *(1,) * trailing)
            if mask is not None:
                batch = torch.where(mask.reshape(*mask.shape, *(1,) * trailing), batch, held)
            held.lerp_(batch, shaped)

    def pick(self, members: Tensor) -> "Statistics":
        """Copy the members where the bool mask [*lead] is True; requires a single leading dimension."""
        return Statistics(
            {dim: bank[:, members] for dim, bank in self.banks.items()},
            {name: diagonal[members] for name, diagonal in self.diagonals.items()},
        )

    def put(self, members: Tensor, values: "Statistics") -> None:
        """Write the result of `pick` back to these members."""
        for dim, bank in self.banks.items():
            bank[:, members] = values.banks[dim]
        for name, diagonal in self.diagonals.items():
            diagonal[members] = values.diagonals[name]


def statistics_of(
    layout: Layout, captures: Mapping[str, Sequence[Capture]], config: KFACConfig, *, loss_scale: float | None = None
) -> Statistics:
    """Factors of one batch, from the captures of every covered layer that it used.

    The number of examples is the smallest first dimension among the inputs (without embeddings, see
    `layers_over_examples`); a layer with inputs [examples * positions, features] counts positions as rows.

    Args:
        layout: layout of the model.
        captures: layer calls of the batch, by layer name.
        config: configuration of the optimizer.
        loss_scale: factor that converts captured gradients to those of one loss term: the number of terms for a mean
            loss, 1 for a sum. By default it follows from `config.reduction`.

    Raises:
        ValueError: the batch is empty.
    """
    names = [placement.layer.name for placement in layout.placements]
    missing = frozenset(name for name in names if not captures.get(name))
    check_captures([name for name in names if name not in missing] or names, captures)
    like = next(call.columns[0] for calls in captures.values() for call in calls)
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    banks = layout.new_banks(like, dtype)
    diagonals = layout.new_diagonals(like, dtype)
    with full_precision(like.device):
        accumulate(layout, captures, config, Statistics(banks, diagonals), keep=0.0, weight=1.0, loss_scale=loss_scale)
    return Statistics(banks, diagonals, missing)


def accumulate(
    layout: Layout,
    captures: Mapping[str, Sequence[Capture]],
    config: KFACConfig,
    target: Statistics,
    *,
    keep: float,
    weight: float,
    loss_scale: float | None,
    terms: float | None = None,
) -> None:
    """Set target ← keep * target + weight * (factors of one batch), for layers that have captures.

    `terms` is the number of loss terms, layers_over_examples from the captures if None.
    """
    lead = len(layout.lead)
    if terms is None:
        terms = loss_terms(layout, captures, config)
    if loss_scale is None:
        loss_scale = default_scale(layout, captures, config)
    for placement in layout.placements:
        if not captures.get(placement.layer.name):
            continue
        layer, full = placement.layer, captures[placement.layer.name]
        calls = [call.head(lead, config.batch_fraction) for call in full]
        used = terms * calls[0].inputs.shape[lead] / full[0].inputs.shape[lead]
        inputs = target.diagonals[layer.name] if placement.inputs is None else placement.inputs.of(target.banks)
        outputs = placement.outputs.of(target.banks)
        if layer.kind == "embedding" and any(call.inputs.is_floating_point() for call in calls):
            targets, scales = (inputs, outputs), (1 / used, loss_scale**2)
            add_both(layer, calls, lead, config.sharing, targets, keep, weight, scales)
            continue
        rows = row_count(layer, calls, lead, config.sharing)
        add_input_moment(layer, calls, lead, config.sharing, inputs, keep, weight / used)
        add_output_moment(layer, calls, lead, config.sharing, outputs, keep, weight * loss_scale**2 / rows)


def average_captures(
    state: KFACState,
    captures: Mapping[str, Sequence[Capture]],
    config: KFACConfig,
    *,
    mask: Tensor | None,
    loss_scale: float | None,
) -> Tensor | None:
    """Update the running averages with the factors of a batch, from its captures; see `average`.

    A pack on a CPU accumulates directly into its averages: where gradients are finite (`mask`), captures are too.
    Members that skipped an earlier update have other averaging weights and are computed separately, so that the
    arithmetic of the others does not depend on them.
    """
    if not state.layout.lead or state.averaged.device.type != "cpu":
        new = statistics_of(state.layout, captures, config, loss_scale=loss_scale)
        return average(state, new, config.factor_decay, mask)
    moving = torch.ones_like(state.usable) if mask is None else mask
    top = int(state.averaged.max())
    separate = (state.averaged != top) | ~moving
    target = Statistics(state.factors, state.diagonals)
    saved = target.pick(separate) if bool(separate.any()) else None
    weight = newest_weight(config.factor_decay, top + 1)
    accumulate(state.layout, captures, config, target, keep=1 - weight, weight=weight, loss_scale=loss_scale)
    state.averaged.add_(moving)
    if saved is not None:
        late = separate & moving
        if bool(late.any()):
            batch = statistics_of(state.layout, captures, config, loss_scale=loss_scale)
            fill_missing(state, batch)
            batch = batch.pick(separate)
            weights = newest_weights(config.factor_decay, state.averaged[separate], state.momentum.dtype)
            saved.move(batch, weights, late[separate])
        target.put(separate, saved)
    return mask


def average(state: KFACState, new: Statistics, decay: float, mask: Tensor | None) -> Tensor | None:
    """Update the running averages with the factors of a batch, in place.

    Members outside `mask` [*lead], or with factors that are not finite, keep their averages. Returns the mask of the
    updated members, None for all.
    """
    fill_missing(state, new)
    good = new.finite(state.layout)
    moved = mask if good is None else good if mask is None else mask & good
    state.averaged.add_(1 if moved is None else moved.to(state.averaged.device))
    held = Statistics(state.factors, state.diagonals)
    if state.averaged.dim() == 0 and state.averaged.device.type == "cpu":
        held.move(new, newest_weight(decay, max(1, int(state.averaged))), moved)
    else:
        held.move(new, newest_weights(decay, state.averaged, state.momentum.dtype), moved)
    return moved


def fill_missing(state: KFACState, new: Statistics) -> None:
    """Set the factors of layers that a batch did not use to their running averages."""
    for placement in state.layout.placements if new.missing else ():
        if placement.layer.name in new.missing:
            for target, held in zip(_slots(placement, new), _slots(placement, state), strict=True):
                target.copy_(held)


def start_late(
    state: KFACState, used: Collection[str], statistics: Callable[[], Statistics], moved: Tensor | None
) -> bool:
    """Start the averages of layers that no earlier step used; return whether their inverses must be computed now.

    On the first step of all, the averages consist of this batch already. Members outside `moved` start later.
    """
    first = len(state.waiting) == len(state.layout.placements)  # reading the averages would synchronize
    entering = {name for name in state.waiting if name in used}
    state.waiting = tuple(name for name in state.waiting if name not in entering)
    if not entering or first:
        return False
    new = statistics()
    for placement in state.layout.placements:
        if placement.layer.name in entering:
            for held, batch in zip(_slots(placement, state), _slots(placement, new), strict=True):
                trailing = (1,) * (2 if held.dim() > 2 else 1)
                held.copy_(batch if moved is None else torch.where(moved.reshape(*moved.shape, *trailing), batch, held))
    return True


def _slots(placement: Placement, of: KFACState | Statistics) -> tuple[Tensor, Tensor]:
    banks = of.banks if isinstance(of, Statistics) else of.factors
    name = placement.layer.name
    return of.diagonals[name] if placement.inputs is None else placement.inputs.of(banks), placement.outputs.of(banks)


def finite(sums: Tensor) -> Tensor | None:
    """Whether sums [*lead] are finite; on a CPU, None if all are (elsewhere, checking for this would synchronize)."""
    if sums.device.type != "cpu":
        return torch.isfinite(sums)
    if sums.dim() == 0:
        return None if math.isfinite(sums.item()) else torch.zeros((), dtype=torch.bool)
    good = torch.isfinite(sums)
    return None if bool(good.all()) else good


def loss_terms(layout: Layout, captures: Mapping[str, Sequence[Capture]], config: KFACConfig) -> int:
    """Count the loss terms of a batch."""
    lead = len(layout.lead)
    layers = layers_over_examples(
        placement.layer for placement in layout.placements if placement.layer.name in captures
    )
    return (config.terms_per_example or 1) * min(captures[layer.name][0].inputs.shape[lead] for layer in layers)


def default_scale(layout: Layout, captures: Mapping[str, Sequence[Capture]], config: KFACConfig) -> float:
    """Factor that converts gradients of the reduced loss to those of one loss term."""
    return float(loss_terms(layout, captures, config)) if config.reduction == "mean" else 1.0


def newest_weight(decay: float, count: int) -> float:
    """Weight of the newest of `count` batches in a bias-corrected running average; 1 for the first."""
    return (1 - decay) / (1 - decay**count)


def newest_weights(decay: float, counts: Tensor, dtype: torch.dtype) -> Tensor:
    """`newest_weight` of every member [*lead]."""
    return (1 - decay) / (1 - decay ** counts.clamp_min(1).to(dtype))


def check_captures(names: Iterable[str], captures: Mapping[str, Sequence[Capture]]) -> None:
    """Raise ValueError if one of these layers has no captures, or an empty batch."""
    for name in names:
        if not captures.get(name):
            raise ValueError(
                f"Layer {name!r} was not captured in this step. Check that the loss depends on its output; if the "
                "batch did not use it, omit its parameters from the gradients."
            )
        if captures[name][0].inputs.numel() == 0:
            raise ValueError(f"Layer {name!r} received an empty batch. Drop such batches before the forward pass.")
