"""``train_pack``: the training loop. One loop serves a pack of one and a pack of many."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sensitivity.kfac import Capture
from sensitivity.study.results import RunResult
from sensitivity.study.schedule import evaluation_steps, lr_multiplier, total_steps
from sensitivity.study.trials import Pack
from sensitivity.training.cost import step_flops
from sensitivity.training.evaluation import evaluate
from sensitivity.training.members import Member, Watch, unharmed
from sensitivity.training.optimizers import PackedSGD, PackOptimizer
from sensitivity.training.order import PackOrder, gather
from sensitivity.training.packed_kfac import PackedKFAC
from sensitivity.training.packed_model import LayerCall, PackedModel
from sensitivity.training.problems import Problem

_OPTIMIZERS: dict[str, type[PackedSGD] | type[PackedKFAC]] = {"sgd": PackedSGD, "kfac": PackedKFAC}


def train_pack(
    pack: Pack, problem: Problem, *, on_progress: Callable[[float], None] = lambda fraction: None
) -> tuple[RunResult, ...]:
    """Train every trial of a pack to its budget and return their results, in the order of the pack.

    A member whose loss or update stops being finite, or whose training loss at an evaluation exceeds the divergence
    bound times that of its untrained network, is `diverged`: it leaves the computation at that evaluation, and
    touches no other member on the way.

    Args:
        pack: trials of one workload, arm and batch size.
        problem: their workload's problem.
        on_progress: called at each evaluation with the fraction of the budget done.
    """
    workload, batch_size = pack.trials[0].workload, pack.batch_size
    train_size = problem.dataset.train_size
    total = total_steps(workload.budget, train_size=train_size, batch_size=batch_size)
    seeds = [trial.seed for trial in pack.trials]
    model = PackedModel(problem.build_model, seeds)
    optimizer = make_optimizer(pack, model)
    order = PackOrder(seeds, train_size=train_size, batch_size=batch_size)
    watch = Watch(len(seeds), model.device)
    flops = step_flops(problem, optimizer, batch_size)
    members = [Member(trial, flops, batch_size / train_size) for trial in pack.trials]
    live = list(members)

    _measure(live, model, problem, lr_scale=0.0)
    done, lr_scale = 0, 1.0
    for until in evaluation_steps(workload.evaluation, total=total, train_size=train_size, batch_size=batch_size):
        began = time.perf_counter()
        for step in range(done, until):
            lr_scale = lr_multiplier(
                workload.schedule, step=step, total=total, train_size=train_size, batch_size=batch_size
            )
            watch.see(step, *take_step(model, problem, optimizer, order.draw(), step=step, lr_scale=lr_scale))
        done = until
        _share_time(live, model, began)
        for member in live:
            member.steps = done
        for place, step, update_failed in watch.faults():
            live[place].steps = step
            live[place].fault = f"{optimizer.explain(place) if update_failed else 'loss not finite'} at step {step}"
        _drop(live, model, optimizer, order, watch)
        if live:
            _measure(live, model, problem, lr_scale=lr_scale)
            _drop(live, model, optimizer, order, watch)
        if not live:
            break
        on_progress(done / total)
    return tuple(member.result() for member in members)


def make_optimizer(pack: Pack, model: PackedModel) -> PackOptimizer:
    """Return the optimizer of a pack's arm for its networks."""
    return _OPTIMIZERS[pack.trials[0].settings["kind"]](pack.trials, model)


def take_step(
    model: PackedModel, problem: Problem, optimizer: PackOptimizer, indices: Tensor, *, step: int, lr_scale: float
) -> tuple[Tensor, Tensor | None]:
    """Do one step; return the losses before it ``[trials]``, and the members that could not be updated."""
    data = problem.dataset
    record = optimizer.wants_calls(step)
    outputs, every_call = model.train_outputs(gather(data.train_inputs, indices), record=record)
    calls = {name: called for name, called in every_call.items() if name in optimizer.observed_layers}
    losses = problem.loss(outputs, gather(data.train_targets, indices))
    watched = [tensor for called in calls.values() for call in called for tensor in call.outputs]
    wanted = [*model.params.values(), *watched]
    gradients = torch.autograd.grad(
        losses.sum(), wanted, materialize_grads=True
    )  # zeros for what a model leaves unused
    grads = dict(zip(model.params, gradients, strict=False))
    captures = _captures(calls, gradients[len(model.params) :]) if record else None
    return losses.detach(), optimizer.step(model.params, grads, captures, lr_scale)


def _captures(calls: dict[str, list[LayerCall]], gradients: Sequence[Tensor]) -> dict[str, list[Capture]]:
    left = iter(gradients)
    return {
        name: [Capture(call.packed(call.inputs), call.packed([next(left) for _ in call.outputs])) for call in called]
        for name, called in calls.items()
    }


def _measure(live: list[Member], model: PackedModel, problem: Problem, *, lr_scale: float) -> None:
    began = time.perf_counter()
    scores = evaluate(model, problem, train_examples=live[0].trial.workload.evaluation.train_examples)
    seconds = (time.perf_counter() - began) / len(live)
    for place, member in enumerate(live):
        member.eval_seconds += seconds
        member.measure(scores, place, lr_multiplier=lr_scale)


def _drop(live: list[Member], model: PackedModel, optimizer: PackOptimizer, order: PackOrder, watch: Watch) -> None:
    """Take the members with a fault out of `live` and out of the computation."""
    kept = unharmed(live)
    if len(kept) == len(live):
        return
    live[:] = [live[place] for place in kept]
    if live:
        index = torch.tensor(kept, device=model.device)
        model.select(index)
        optimizer.select(index)
        order.select(kept)
        watch.select(index)


def _share_time(live: list[Member], model: PackedModel, began: float) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    seconds = (time.perf_counter() - began) / len(live)
    for member in live:
        member.train_seconds += seconds
