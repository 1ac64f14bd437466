"""One K-FAC step on plain tensors, for one model or a pack of them.

Order: check the gradients; average the batch's factors; invert when due; add coupled weight decay; precondition; clip;
momentum; move the parameters. A member whose gradients, factors, inverses or update are not finite keeps its parameters
and momentum, and is reported; no member sees another's numbers, so the others' results are bit for bit what they would
have been.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from sensitivity.kfac.config import Hyperparameters, KFACConfig, is_due
from sensitivity.kfac.diagonal import average_squares, example_squares
from sensitivity.kfac.ekfac import average_moments, batch_moments
from sensitivity.kfac.factors import Capture
from sensitivity.kfac.precision import full_precision
from sensitivity.kfac.precondition import SolveFailure, precondition, refresh
from sensitivity.kfac.state import KFACState
from sensitivity.kfac.statistics import (
    Statistics,
    average,
    average_captures,
    check_captures,
    default_scale,
    finite,
    loss_terms,
    newest_weights,
    start_late,
    statistics_of,
)
from sensitivity.kfac.thin import Rows, rows_of
from sensitivity.kfac.update import (
    FlatNumbers,
    as_tensor,
    clip_updates,
    flat_numbers,
    move,
    pass_on_others,
    per_member,
    weights_of,
)


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What one step did; every tensor is [*lead].

    failed: the member was not updated. gradient_norm: of the raw gradient. clip: the KL clip's factor on the update (1
    where it does not bind). lr: before the clip. solves: factors that could not be inverted in this step.
    seconds: by phase ("factors", "inverses", "precondition", "update"), host time, which on an accelerator is the time
    to launch.
    """

    failed: Tensor
    gradient_norm: Tensor
    clip: Tensor
    lr: Tensor | float
    solves: tuple[SolveFailure, ...]
    seconds: dict[str, float]

    @property
    def effective_lr(self) -> Tensor:
        """The learning rate that counts, lr times clip; 0 where the member was not updated."""
        return torch.where(self.failed, 0.0, self.clip * self.lr)


class Source(Protocol):
    """Where a step's statistics come from."""

    @property
    def urgent(self) -> bool:
        """Whether inverses are wanted after `average`, whatever their interval."""

    def average(self, state: KFACState, mask: Tensor | None) -> Tensor | None:
        """Move the running averages of members inside `mask` (None: all); return the mask of those that moved."""

    def rescale(self, state: KFACState, mask: Tensor | None) -> None:
        """Move EKFAC's second moments, in the eigenbases of now."""


@dataclass(eq=False)
class _Captures:
    """Statistics from captures that the caller holds."""

    captures: Mapping[str, Sequence[Capture]]
    config: KFACConfig
    loss_scale: float | None
    urgent: bool = False

    def average(self, state: KFACState, mask: Tensor | None) -> Tensor | None:
        moved = average_captures(state, self.captures, self.config, mask=mask, loss_scale=self.loss_scale)
        if state.waiting:
            used = {name for name in state.waiting if self.captures.get(name)}
            scale = self.loss_scale
            late = partial(statistics_of, state.layout, self.captures, self.config, loss_scale=scale)
            self.urgent = start_late(state, used, late, moved)
        for norm in (each for each in state.norms if self.captures.get(each.name)):
            scale, terms = self._scale(state)
            new = example_squares(norm, self.captures[norm.name], len(state.layout.lead))
            weight = newest_weights(self.config.factor_decay, state.averaged, state.momentum.dtype)
            average_squares(state.squares, {n: x * (scale**2 / terms) for n, x in new.items()}, weight, moved)
        return moved

    def rescale(self, state: KFACState, mask: Tensor | None) -> None:
        scale, terms = self._scale(state)
        new = batch_moments(state, self.captures, self.config, loss_scale=scale)
        average_moments(state, {name: x / terms for name, x in new.items()}, self.config.factor_decay, mask)

    def _scale(self, state: KFACState) -> tuple[float, int]:
        """Give what turns captured gradients into those of one loss term, and the number of these."""
        scale = default_scale(state.layout, self.captures, self.config) if self.loss_scale is None else self.loss_scale
        return scale, loss_terms(state.layout, self.captures, self.config)


@dataclass(eq=False)
class _Given:
    """Statistics that the caller has summed, over the micro-batches of a batch for instance."""

    statistics: Statistics
    config: KFACConfig
    urgent: bool = False

    def average(self, state: KFACState, mask: Tensor | None) -> Tensor | None:
        moved = average(state, self.statistics, self.config.factor_decay, mask)
        used = {name for name in state.waiting if name not in self.statistics.missing}
        self.urgent = start_late(state, used, lambda: self.statistics, moved)
        return moved

    def rescale(self, state: KFACState, mask: Tensor | None) -> None:
        raise AssertionError("step() refuses this")


class _Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = 0.0

    def start(self) -> None:
        self._since = time.perf_counter()

    def stop(self, phase: str) -> None:
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - self._since


def step(
    config: KFACConfig,
    state: KFACState,
    params: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    captures: Mapping[str, Sequence[Capture]] | Statistics | None,
    hyper: Hyperparameters,
    *,
    loss_scale: float | None = None,
    calls: Mapping[str, Sequence[Capture]] | None = None,
) -> StepReport:
    """Take one step, in place on `params` and `state`.

    `params` and `grads` hold the parameters that `state` was made for, each [*lead, *parameter shape]. Parameters that
    a batch did not use are left out of `grads`, and their layers out of the captures; they keep their values, momentum
    and averages. `captures` may
    be None on steps where `needs_statistics(config, state.steps)` is False; a first step needs them. In their place
    stands `Statistics` of the batch, where it came in parts: those of the parts (`statistics_of`), averaged by size.
    `loss_scale`: see `statistics_of`. `calls` holds, for any layers, all the calls that their gradients in `grads` came
    from: with them a small batch's gradients are preconditioned at less cost, on any step, to the same result. With the
    rule "diagonal" captures are also of the normalisation layers that `init_state` was given. Raises ValueError for
    missing captures, and for `Statistics` with EKFAC or that rule, which need captures; never for bad numbers, which
    are reported.
    """
    if config.others == "diagonal" and state.layout.others and not state.norms:
        raise ValueError(
            f"Invalid others: 'diagonal'. {state.layout.others[0][0]!r} is uncovered, and the state knows of no norms. "
            "Call init_state(..., norms=norms_of(model)) and capture these layers too, or set others='sgd'."
        )
    source: Source | None = None
    if isinstance(captures, Statistics):
        if config.ekfac or state.norms:
            rule, other = ("ekfac=True", "ekfac=False") if config.ekfac else ("others='diagonal'", "others='sgd'")
            raise ValueError(f"{rule} needs captures of the whole batch, not Statistics. Give those, or set {other}.")
        source = _Given(captures, config)
    elif captures is not None:
        used = [p.layer.name for p in state.layout.placements if p.layer.weight in grads]
        check_captures([*used, *(norm.name for norm in state.norms if norm.weight in grads)], captures)
        source = _Captures(captures, config, loss_scale)
    names = state.layout.names
    values = [params[name] for name in names]
    slopes = [grads[name] if name in grads else torch.zeros_like(params[name]) for name in names]
    unused = [i for i, name in enumerate(names) if name not in grads]
    kept = [(x, x.clone()) for i in unused for x in (values[i], state.workspace.velocity_views[i])]
    with full_precision(state.momentum.device):
        rows = rows_of(state.layout, calls) if calls else {}
        report = advance(config, state, values, slopes, source, flat_numbers(hyper, state), rows)
    for tensor, value in kept:
        tensor.copy_(value)
    return report


def advance(
    config: KFACConfig,
    state: KFACState,
    values: list[Tensor],
    grads: list[Tensor],
    source: Source | None,
    numbers: FlatNumbers,
    rows: Mapping[str, Rows],
    group: ProcessGroup | None = None,
) -> StepReport:
    """Take one step with the statistics of `source`, inverses shared by the ranks of `group`; otherwise as `step`.

    `values` and `grads` are the parameters and their gradients in the order of the layout's names; `rows` holds what
    the latter are the products of, for any layers.
    """
    space, clock = state.workspace, _Clock()
    exact = config.damping_form == "exact"
    flat, solves = space.grads, tuple[SolveFailure, ...]()
    torch._foreach_copy_(space.grad_views, grads)
    norm = torch.linalg.vector_norm(flat, dim=-1)
    mask = good = finite(norm)
    if good is not None and state.alone:
        return _skipped(norm, clock)
    if source is not None:
        clock.start()
        mask = source.average(state, mask)
        clock.stop("factors")
    if mask is not None:
        if state.alone:
            return _skipped(norm, clock)
        good = mask if good is None else good & mask
        flat.copy_(torch.where(mask.unsqueeze(-1), flat, 0.0))
    urgent = (source is not None and source.urgent) or (state.alone and not bool(state.usable))
    if urgent or is_due(config.inverse_interval, state.steps):
        if source is None and state.steps == 0 and not bool(state.averaged.any()):
            raise ValueError("The first step needs captures: there are no factors to invert yet.")
        clock.start()
        solves = refresh(state, numbers.damping, exact=exact, group=group)
        clock.stop("inverses")
    if source is not None and config.ekfac:
        clock.start()
        source.rescale(state, mask)
        clock.stop("factors")
    clock.start()
    weights = weights_of(state, values, numbers)
    if weights is not None and not config.decoupled_weight_decay:
        flat.addcmul_(weights, as_tensor(numbers.weight_decay, flat))
        rows = {}  # the gradient is more than their product now
    precondition(state, numbers.damping, exact=exact, rows=rows)
    pass_on_others(state, numbers)
    clip = clip_updates(state, numbers)
    mask = _all_of(good, finite(torch.linalg.vector_norm(space.updates, dim=-1)), _mask(state.usable))
    clock.stop("precondition")
    state.steps += 1
    if mask is not None and state.alone:
        return _skipped(norm, clock, solves)
    clock.start()
    move(config, state, values, weights if config.decoupled_weight_decay else None, numbers, mask)
    clock.stop("update")
    return StepReport(
        failed=torch.zeros_like(norm, dtype=torch.bool) if mask is None else ~mask,
        gradient_norm=norm,
        clip=torch.ones_like(norm) if clip is None else clip,
        lr=per_member(numbers.lr),
        solves=solves,
        seconds=clock.seconds,
    )


def _mask(good: Tensor) -> Tensor | None:
    """None if all are good, which on an accelerator is not asked, so as not to wait."""
    if good.device.type != "cpu":
        return good
    return None if bool(good if good.dim() == 0 else good.all()) else good


def _all_of(*masks: Tensor | None) -> Tensor | None:
    """Join masks of which None stands for all."""
    present = [mask for mask in masks if mask is not None]
    return torch.stack(present).all(0) if present else None


def _skipped(norm: Tensor, clock: _Clock, solves: tuple[SolveFailure, ...] = ()) -> StepReport:
    ones, failed = torch.ones_like(norm), torch.ones_like(norm, dtype=torch.bool)
    return StepReport(
        failed=failed,
        gradient_norm=norm,
        clip=ones,
        lr=0.0,
        solves=solves,
        seconds=clock.seconds,
    )
