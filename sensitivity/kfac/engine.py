"""One K-FAC step on plain tensors, for one model or a pack of models.

A step checks the gradients, updates the running averages of the factors, recomputes inverses when they are due, adds
coupled weight decay, preconditions, clips, applies momentum and updates the parameters, in this order. A member whose
gradients, factors, inverses or update are not finite keeps its parameters and momentum, and is reported. Members are
independent: the results of the others are bit for bit what they would have been without it.
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
from sensitivity.kfac.low_rank import Rows, rows_of
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
from sensitivity.kfac.update import (
    FlatNumbers,
    apply_updates,
    as_tensor,
    clip_updates,
    copy_uncovered,
    flat_numbers,
    flat_parameters,
    per_member,
)


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """Report of one step; every tensor is [*lead].

    Attributes:
        failed: whether the member was not updated.
        gradient_norm: norm of the raw gradient.
        clip: factor of the KL clip on the update, 1 where it does not bind.
        lr: learning rate before the clip.
        solves: factors that could not be inverted in this step.
        seconds: host time by phase ("factors", "inverses", "precondition", "update"); on an accelerator, the time to
            launch the kernels.
    """

    failed: Tensor
    gradient_norm: Tensor
    clip: Tensor
    lr: Tensor | float
    solves: tuple[SolveFailure, ...]
    seconds: dict[str, float]

    @property
    def effective_lr(self) -> Tensor:
        """Learning rate times clip; 0 where the member was not updated."""
        return torch.where(self.failed, 0.0, self.clip * self.lr)


class Source(Protocol):
    """Source of the statistics of a step."""

    @property
    def urgent(self) -> bool:
        """Whether inverses must be recomputed after `average`, whatever their interval."""

    def average(self, state: KFACState, mask: Tensor | None) -> Tensor | None:
        """Update the running averages of members inside `mask` (None: all); return the mask of those updated."""

    def rescale(self, state: KFACState, mask: Tensor | None) -> None:
        """Update EKFAC's second moments, in the current eigenbases."""


@dataclass(eq=False)
class _CaptureSource:
    """Statistics computed from captures."""

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
        """Factor that converts captured gradients to those of one loss term, and the number of loss terms."""
        scale = default_scale(state.layout, self.captures, self.config) if self.loss_scale is None else self.loss_scale
        return scale, loss_terms(state.layout, self.captures, self.config)


@dataclass(eq=False)
class _StatisticsSource:
    """Statistics that the caller has computed, for instance over the micro-batches of a batch."""

    statistics: Statistics
    config: KFACConfig
    urgent: bool = False

    def average(self, state: KFACState, mask: Tensor | None) -> Tensor | None:
        moved = average(state, self.statistics, self.config.factor_decay, mask)
        used = {name for name in state.waiting if name not in self.statistics.missing}
        self.urgent = start_late(state, used, lambda: self.statistics, moved)
        return moved

    def rescale(self, state: KFACState, mask: Tensor | None) -> None:
        raise AssertionError("step() rejects Statistics with EKFAC")


class _Clock:
    """Accumulates host seconds by phase."""

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
    """Take one K-FAC step, in place on `params` and `state`.

    Parameters that a batch did not use are omitted from `grads`, and their layers from the captures; they keep their
    values, momentum and averages. Non-finite numbers raise nothing and are reported instead.

    Args:
        config: structure of the optimizer.
        state: state of the run, from `init_state`.
        params: parameters of the state's layout by name, each [*lead, *parameter shape].
        grads: their gradients, of the same shapes.
        captures: layer calls of the batch, by layer; None on steps where `needs_statistics(config, state.steps)` is
            False, except the first. With others="diagonal", includes the normalisation layers passed to `init_state`.
            For a batch computed in parts, pass `Statistics` instead: those of the parts (`statistics_of`), averaged
            by size.
        hyper: hyperparameters of the step.
        loss_scale: factor on captured gradients; see `statistics_of`.
        calls: for any layers, all calls that their gradients in `grads` were computed from. With them, gradients of
            small batches are preconditioned at lower cost, on any step and with the same result.

    Raises:
        ValueError: captures are missing, or `Statistics` were passed with EKFAC or others="diagonal", which need
            captures.
    """
    if config.others == "diagonal" and state.layout.others and not state.norms:
        raise ValueError(
            f"Invalid others: 'diagonal'. {state.layout.others[0][0]!r} is uncovered, and the state has no norms. "
            "Call init_state(..., norms=norms_of(model)) and capture these layers too, or set others='sgd'."
        )
    source: Source | None = None
    if isinstance(captures, Statistics):
        if config.ekfac or state.norms:
            rule, other = ("ekfac=True", "ekfac=False") if config.ekfac else ("others='diagonal'", "others='sgd'")
            raise ValueError(f"{rule} needs captures of the whole batch, not Statistics. Pass those, or set {other}.")
        source = _StatisticsSource(captures, config)
    elif captures is not None:
        used = [p.layer.name for p in state.layout.placements if p.layer.weight in grads]
        check_captures([*used, *(norm.name for norm in state.norms if norm.weight in grads)], captures)
        source = _CaptureSource(captures, config, loss_scale)
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
    """Take one step with the statistics of `source`; `step` and `KFAC` share this implementation.

    `values` and `grads` are the parameters and their gradients in the order of the layout's names. `rows` holds, for
    any layers, the low-rank factors of their gradients. The ranks of `group` invert a share of the factors each.
    """
    space, clock = state.workspace, _Clock()
    exact = config.damping_form == "exact"
    flat, solves = space.grads, tuple[SolveFailure, ...]()
    torch._foreach_copy_(space.grad_views, grads)
    norm = torch.linalg.vector_norm(flat, dim=-1)
    mask = good = finite(norm)
    if good is not None and state.alone:
        return _skipped_report(norm, clock)
    if source is not None:
        clock.start()
        mask = source.average(state, mask)
        clock.stop("factors")
    if mask is not None:
        if state.alone:
            return _skipped_report(norm, clock)
        good = mask if good is None else good & mask
        flat.copy_(torch.where(mask.unsqueeze(-1), flat, 0.0))
    urgent = (source is not None and source.urgent) or (state.alone and not bool(state.usable))
    if urgent or is_due(config.inverse_interval, state.steps):
        if source is None and state.steps == 0 and not bool(state.averaged.any()):
            raise ValueError("The first step needs captures: there are no factors to invert yet. Pass captures.")
        clock.start()
        solves = refresh(state, numbers.damping, exact=exact, group=group)
        clock.stop("inverses")
    if source is not None and config.ekfac:
        clock.start()
        source.rescale(state, mask)
        clock.stop("factors")
    clock.start()
    weights = flat_parameters(state, values, numbers)
    if weights is not None and not config.decoupled_weight_decay:
        flat.addcmul_(weights, as_tensor(numbers.weight_decay, flat))
        rows = {}  # with weight decay, the gradient is no longer their product
    precondition(state, numbers.damping, exact=exact, rows=rows)
    copy_uncovered(state, numbers)
    clip = clip_updates(state, numbers)
    mask = _all_of(good, finite(torch.linalg.vector_norm(space.updates, dim=-1)), _mask(state.usable))
    clock.stop("precondition")
    state.steps += 1
    if mask is not None and state.alone:
        return _skipped_report(norm, clock, solves)
    clock.start()
    apply_updates(config, state, values, weights if config.decoupled_weight_decay else None, numbers, mask)
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
    """Return None if all members are good; on an accelerator always the mask, to avoid a synchronization."""
    if good.device.type != "cpu":
        return good
    return None if bool(good if good.dim() == 0 else good.all()) else good


def _all_of(*masks: Tensor | None) -> Tensor | None:
    """Intersection of masks, of which None stands for all members."""
    present = [mask for mask in masks if mask is not None]
    return torch.stack(present).all(0) if present else None


def _skipped_report(norm: Tensor, clock: _Clock, solves: tuple[SolveFailure, ...] = ()) -> StepReport:
    ones, failed = torch.ones_like(norm), torch.ones_like(norm, dtype=torch.bool)
    return StepReport(
        failed=failed,
        gradient_norm=norm,
        clip=ones,
        lr=0.0,
        solves=solves,
        seconds=clock.seconds,
    )
