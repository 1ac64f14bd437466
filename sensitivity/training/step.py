"""One training step of a pack: the gradient of the batch, accumulated over micro-batches, and the update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sensitivity.kfac import Capture
from sensitivity.optimizers.contract import Networks
from sensitivity.optimizers.numbers import add_weighted, weighted
from sensitivity.optimizers.pack import PackOptimizer, optimizer_of
from sensitivity.study.schedule import total_steps
from sensitivity.study.trials import Pack, Trial
from sensitivity.training.batches import MicroBatch
from sensitivity.training.packed_model import LayerCall, PackedModel
from sensitivity.training.problems import Problem


def make_optimizer(pack: Pack, model: PackedModel, problem: Problem, *, began: Sequence[Trial] = ()) -> PackOptimizer:
    """Return the optimizer of a pack's arm for its networks; `began` are the initial trials of the pack."""
    networks = Networks(
        network=model.network,
        batch_size=pack.batch_size,
        terms_per_example=problem.terms_per_example,
        gradients_are_products=model.gradients_are_products,
        curvature=problem.curvature,
        loss=problem.loss_kind,
        steps=total_steps(
            pack.trials[0].workload.budget, train_size=problem.dataset.train_size, batch_size=pack.batch_size
        ),
        seeds=[trial.seed for trial in pack.trials],
        member=model.member,
        rebind=model.rebind,
    )
    return optimizer_of(pack.trials, model.params, networks, began=began)


class Batches(Protocol):
    """Source of batches."""

    def draw(self) -> Iterator[MicroBatch]:
        """Yield the parts of the next step's batch; the caller exhausts the iterator."""


def take_step(
    model: PackedModel,
    problem: Problem,
    optimizer: PackOptimizer,
    batches: Batches,
    *,
    step: int,
    lr_scale: float | Tensor,
) -> tuple[Tensor, Tensor | None]:
    """Take one step; return the losses before it ``[trials]``, and which members could not be updated."""
    modules = optimizer.modules()
    if modules is not None:
        return _step_per_member(model, problem, optimizer, modules, batches, step=step, lr_scale=lr_scale)
    record, judged = optimizer.begin(step), optimizer.needs_loss_after(step)
    total: dict[str, Tensor] = {}
    loss: Tensor | None = None
    parts: Iterable[MicroBatch] = batches.draw()
    before = model.volatile() if judged else None
    if judged:
        parts = list(parts)
    done = 0
    for part in parts:
        losses, grads = _differentiate(model, problem, optimizer, part, record=record, step=step, done=done)
        done += part.inputs.shape[1]
        if isinstance(part.share, float) and part.share == 1:
            total, loss = grads, losses
        else:
            for name, g in grads.items():
                total[name] = add_weighted(total[name], g, part.share) if name in total else weighted(g, part.share)
            loss = weighted(losses, part.share) + (0.0 if loss is None else loss)
        del grads  # frees memory for the next part
    assert loss is not None
    failed = optimizer.step(model.params, total, lr_scale, step=step)
    if before is not None:
        optimizer.observe_loss_change(model.params, _loss_again(model, problem, parts, before) - loss)
    return loss, failed


@torch.no_grad()
def _loss_again(model: PackedModel, problem: Problem, parts: Iterable[MicroBatch], before: Mapping[str, Any]) -> Tensor:
    """Return the losses of a batch evaluated again with the same random numbers, without side effects."""
    after = model.volatile()
    model.restore_volatile(before)
    loss = torch.zeros((), device=model.device)
    for part in parts:
        outputs, _ = model.train_outputs(part.inputs, record=False)
        loss = loss + weighted(problem.training_loss(outputs, part.targets), part.share)
    model.restore_volatile(after)
    return loss


def _step_per_member(
    model: PackedModel,
    problem: Problem,
    optimizer: PackOptimizer,
    modules: Sequence[nn.Module],
    batches: Batches,
    *,
    step: int,
    lr_scale: float | Tensor,
) -> tuple[Tensor, Tensor | None]:
    """Take one step of an optimizer that needs modules, with a separate forward and backward pass per member."""
    total = [torch.zeros((), device=model.device) for _ in modules]
    for module in modules:
        module.zero_grad(set_to_none=True)
    for part in batches.draw():
        for place, module in enumerate(modules):
            outputs = model.train_member(place, module, part.inputs[place].clone())
            share = part.share if isinstance(part.share, float) else part.share[place : place + 1]
            loss = weighted(problem.training_loss(outputs[None], part.targets[place][None]), share).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            total[place] = total[place] + loss.detach()
    return torch.stack(total), optimizer.step(model.params, {}, lr_scale, step=step)


def _differentiate(
    model: PackedModel,
    problem: Problem,
    optimizer: PackOptimizer,
    part: MicroBatch,
    *,
    record: bool,
    step: int,
    done: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the losses ``[trials]`` of a part of a batch and their gradients by `model.leaves`; frees activations.

    `done` is the number of examples of the batch in earlier parts.
    """
    outputs, every_call = model.train_outputs(part.inputs, record=record)
    calls = {name: called for name, called in every_call.items() if name in optimizer.observed_layers}
    losses = problem.training_loss(outputs, part.targets)
    watched = [tensor for called in calls.values() for call in called for tensor in call.outputs]
    pseudo = optimizer.pseudo_losses(outputs, part.valid) if record else ()
    columns = [torch.autograd.grad(each, watched, retain_graph=True, allow_unused=True) for each in pseudo]
    if (sampled := optimizer.sampled_loss(outputs, part.valid, step=step, done=done)) is not None:
        slopes = torch.autograd.grad(sampled, [*model.leaves], retain_graph=True, materialize_grads=True)
        found = zip(model.params.items(), slopes, strict=True)
        optimizer.take_sampled({name: slope.view(p.shape) for (name, p), slope in found}, part.share)
    wanted = [*model.leaves, *(() if columns else watched)]
    gradients = torch.autograd.grad(losses.sum(), wanted, allow_unused=True)
    if record:
        optimizer.observe(_captures(calls, columns or [gradients[len(model.params) :]]), part.share, part.valid)
    used = zip(model.params, gradients, strict=False)
    return losses.detach(), {name: gradient for name, gradient in used if gradient is not None}


def _captures(
    calls: dict[str, list[LayerCall]], columns: Sequence[Sequence[Tensor | None]]
) -> dict[str, list[Capture]]:
    """Combine the inputs of calls that affect a loss with the gradients of their outputs, for one or several losses."""
    left, found = [iter(gradients) for gradients in columns], dict[str, list[Capture]]()
    for name, called in calls.items():
        for call in called:
            grads = [[next(each) for _ in call.outputs] for each in left]
            if any(gradient is not None for own in grads for gradient in own):
                slopes = tuple(call.packed(_whole(call, own)) for own in grads)
                found.setdefault(name, []).append(Capture(call.packed(call.inputs), slopes))
    return found


def _whole(call: LayerCall, gradients: Sequence[Tensor | None]) -> list[Tensor]:
    return [torch.zeros_like(y) if g is None else g for y, g in zip(call.outputs, gradients, strict=True)]
