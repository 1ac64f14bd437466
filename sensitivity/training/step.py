"""One training step of a pack: the gradient of the whole batch, in as many parts as memory needs, and its update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from sensitivity.kfac import Capture
from sensitivity.optimizers.contract import Networks
from sensitivity.optimizers.pack import PackOptimizer, optimizer_of
from sensitivity.study.trials import Pack, Trial
from sensitivity.training.batches import MicroBatch
from sensitivity.training.packed_model import LayerCall, PackedModel
from sensitivity.training.problems import Problem


def make_optimizer(pack: Pack, model: PackedModel, problem: Problem, *, began: Sequence[Trial] = ()) -> PackOptimizer:
    """Return the optimizer of a pack's arm for its networks; `began` are the trials that it began with (`pack`)."""
    networks = Networks(
        network=model.network,
        batch_size=pack.batch_size,
        gradients_are_products=model.gradients_are_products,
        curvature=problem.curvature,
        member=model.member,
        rebind=model.rebind,
    )
    return optimizer_of(pack.trials, model.params, networks, began=began)


class Batches(Protocol):
    """Where a step's batch comes from."""

    def draw(self) -> Iterator[MicroBatch]:
        """Yield the parts of the next step's batch; all of them are taken."""


def take_step(
    model: PackedModel,
    problem: Problem,
    optimizer: PackOptimizer,
    batches: Batches,
    *,
    step: int,
    lr_scale: float | Tensor,
) -> tuple[Tensor, Tensor | None]:
    """Do one step; return the losses before it ``[trials]``, and the members that could not be updated."""
    modules = optimizer.modules()
    if modules is not None:
        return _take_alone(model, problem, optimizer, modules, batches, step=step, lr_scale=lr_scale)
    record = optimizer.begin(step)
    total: dict[str, Tensor] = {}
    loss = torch.zeros(())
    for part in batches.draw():
        losses, grads = _differentiate(model, problem, optimizer, part, record=record)
        if part.share == 1:
            total, loss = grads, losses
        else:
            for name, g in grads.items():
                total[name] = total[name].add_(g, alpha=part.share) if name in total else g * part.share
            loss = losses * part.share + loss
        del grads  # or the next part would find the memory of this one's taken
    return loss, optimizer.step(model.params, total, lr_scale, step=step)


def _take_alone(
    model: PackedModel,
    problem: Problem,
    optimizer: PackOptimizer,
    modules: Sequence[nn.Module],
    batches: Batches,
    *,
    step: int,
    lr_scale: float | Tensor,
) -> tuple[Tensor, Tensor | None]:
    """Do one step of an optimizer that needs modules: forward and backward passes are each member's own."""
    total = [torch.zeros((), device=model.device) for _ in modules]
    for module in modules:
        module.zero_grad(set_to_none=True)
    for part in batches.draw():
        for place, module in enumerate(modules):
            outputs = model.train_member(place, module, part.inputs[place].clone())
            loss = problem.loss(outputs[None], part.targets[place][None]).sum() * part.share
            loss.backward()  # type: ignore[no-untyped-call]
            total[place] = total[place] + loss.detach()
    return torch.stack(total), optimizer.step(model.params, {}, lr_scale, step=step)


def _differentiate(
    model: PackedModel, problem: Problem, optimizer: PackOptimizer, part: MicroBatch, *, record: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the losses of a part of a batch ``[trials]``, and their gradients; its activations end here."""
    outputs, every_call = model.train_outputs(part.inputs, record=record)
    calls = {name: called for name, called in every_call.items() if name in optimizer.observed_layers}
    losses = problem.loss(outputs, part.targets)
    watched = [tensor for called in calls.values() for call in called for tensor in call.outputs]
    gradients = torch.autograd.grad(losses.sum(), [*model.params.values(), *watched], allow_unused=True)
    if record:
        optimizer.observe(_captures(calls, gradients[len(model.params) :]), part.share)
    used = zip(model.params, gradients, strict=False)
    return losses.detach(), {name: gradient for name, gradient in used if gradient is not None}


def _captures(calls: dict[str, list[LayerCall]], gradients: Sequence[Tensor | None]) -> dict[str, list[Capture]]:
    """Turn calls that reached the loss into captures."""
    left, found = iter(gradients), dict[str, list[Capture]]()
    for name, called in calls.items():
        for call in called:
            grads = [next(left) for _ in call.outputs]
            if any(gradient is not None for gradient in grads):
                whole = [torch.zeros_like(y) if g is None else g for y, g in zip(call.outputs, grads, strict=True)]
                found.setdefault(name, []).append(Capture(call.packed(call.inputs), call.packed(whole)))
    return found
