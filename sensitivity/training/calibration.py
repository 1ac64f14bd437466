"""A short measurement of what a step costs on this machine, and what a pack's memory is."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from sensitivity.study.schedule import evaluation_steps, total_steps
from sensitivity.study.trials import Pack
from sensitivity.training.cost import step_flops
from sensitivity.training.evaluation import evaluate
from sensitivity.training.loop import make_optimizer, take_step
from sensitivity.training.order import PackOrder
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.problems import Problem

_MEASURE_S = 0.3


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one trial of a pack costs."""

    steps: int
    flops: float
    """Of training, gradient and optimizer."""
    step_seconds: float
    """Device-seconds a step and trial, in a pack of the measured size."""
    evaluation_seconds: float
    """Device-seconds of all the trial's evaluations."""
    pack_size: int
    pack_bytes: int
    """Estimate of a pack's memory: parameters, gradients, optimizer state, and what the backward pass keeps."""

    @property
    def seconds(self) -> float:
        """Device-seconds of the whole trial."""
        return self.steps * self.step_seconds + self.evaluation_seconds


def calibrate(pack: Pack, problem: Problem) -> Cost:
    """Train a pack's first steps for about half a second, and extrapolate.

    Steps are measured in whole periods of the optimizer's updates, after one that warms up.
    """
    workload, batch_size, train_size = pack.trials[0].workload, pack.batch_size, problem.dataset.train_size
    seeds = [trial.seed for trial in pack.trials]
    model = PackedModel(problem.build_model, seeds)
    optimizer = make_optimizer(pack, model)
    order = PackOrder(seeds, train_size=train_size, batch_size=batch_size)
    total = total_steps(workload.budget, train_size=train_size, batch_size=batch_size)
    evaluations = evaluation_steps(workload.evaluation, total=total, train_size=train_size, batch_size=batch_size)

    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        take_step(model, problem, optimizer, order.draw(), step=0, lr_scale=0.0)
    began = time.perf_counter()
    step, period = 1, optimizer.period
    while step < 2 or time.perf_counter() - began < _MEASURE_S or (step - 1) % period:
        take_step(model, problem, optimizer, order.draw(), step=step, lr_scale=0.0)
        step += 1
    step_seconds = (time.perf_counter() - began) / (step - 1) / len(seeds)
    began = time.perf_counter()
    evaluate(model, problem, train_examples=workload.evaluation.train_examples)
    evaluation_seconds = (time.perf_counter() - began) / len(seeds)
    own = sum(p.nbytes for p in model.params.values())
    return Cost(
        steps=total,
        flops=total * step_flops(problem, optimizer, batch_size),
        step_seconds=step_seconds,
        evaluation_seconds=evaluation_seconds * (len(evaluations) + 1),
        pack_size=len(seeds),
        pack_bytes=2 * own + optimizer.state_bytes + sum(kept.values()),
    )
