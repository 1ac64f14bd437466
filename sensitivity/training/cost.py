"""FLOPs of a training step; a fused multiply-add counts as two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sensitivity.optimizers.pack import PackOptimizer
from sensitivity.study.schedule import total_steps
from sensitivity.study.trials import Pack, Trial
from sensitivity.training.dispatch_modes import FlopCounter
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.problems import Problem
from sensitivity.training.step import make_optimizer

_EXAMPLES = 2  # BatchNorm in training mode rejects a single example


@dataclass(frozen=True, kw_only=True)
class ExampleCost:
    """FLOPs of one example."""

    gradient_flops: float
    """Forward and backward pass: matrix products and convolutions. Element-wise work is not counted, as is usual."""
    backward_flops: float
    """The part of `gradient_flops` in the backward pass."""
    signal_flops: float
    """A further backward pass that only computes gradients of layer outputs."""
    positions: Mapping[str, int]
    """How often each layer's weights are applied to one example over all calls: the output positions of a convolution,
    the sequence length for layers on sequences, 1 for a plain linear layer."""


_counted: WeakKeyDictionary[Problem, ExampleCost] = WeakKeyDictionary()


def example_cost(problem: Problem) -> ExampleCost:
    """Count the FLOPs of one example, cached per problem because every pack of a worker needs them."""
    if problem not in _counted:
        _counted[problem] = _count(problem)
    return _counted[problem]


def _count(problem: Problem) -> ExampleCost:
    data = problem.dataset
    positions: dict[str, int] = {}

    def record_call(name: str, module: nn.Module, outputs: Tensor) -> None:
        channels = outputs.shape[1 if isinstance(module, (nn.Conv1d, nn.Conv2d)) else -1]
        rows = outputs.numel() // (_EXAMPLES * channels)
        positions[name] = positions.get(name, 0) + rows

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = problem.build_model().train()
        names: dict[int, str] = {}  # by weight, as in K-FAC: modules that share a weight are one layer
        for own_name, module in model.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding)):
                name = names.setdefault(id(module.weight), own_name)
                module.register_forward_hook(lambda m, _, out, name=name: record_call(name, m, out))
        counter = FlopCounter()
        with counter:
            outputs = model(data.standardised(data.train_inputs[:_EXAMPLES]).clone())
            loss = problem.loss(outputs.unsqueeze(0), data.labels(data.train_targets[:_EXAMPLES]).unsqueeze(0))
            forward = counter.total
            loss.sum().backward()  # type: ignore[no-untyped-call]
    # The backward pass takes as many FLOPs for weights as the forward pass; the rest is for activations.
    signal = max(0.0, counter.total - 2 * forward)
    return ExampleCost(
        gradient_flops=counter.total / _EXAMPLES,
        backward_flops=(counter.total - forward) / _EXAMPLES,
        signal_flops=signal / _EXAMPLES,
        positions=positions,
    )


def step_flops(problem: Problem, optimizer: PackOptimizer, batch_size: int) -> float:
    """Return the FLOPs of an average step of one trial: gradient and optimizer."""
    example = example_cost(problem)
    passes = example.signal_flops * optimizer.passes(problem.outputs)
    passes += example.backward_flops * optimizer.backward_passes
    return (example.gradient_flops + passes) * batch_size + optimizer.flops(batch_size, example.positions)


def run_cost(trial: Trial, problem: Problem) -> tuple[int, float]:
    """Return the steps of a trial, and the FLOPs of its training, which need no measurement."""
    problem = problem.of(trial.problem)
    optimizer = make_optimizer(Pack((trial,)), PackedModel(problem.build_model, [trial.seed]), problem)
    steps = total_steps(trial.workload.budget, train_size=problem.dataset.train_size, batch_size=trial.batch_size)
    return steps, steps * step_flops(problem, optimizer, trial.batch_size)
