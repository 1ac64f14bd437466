"""Measuring a pack: its metrics over whole splits, in chunks that take no more memory than training does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sensitivity.study.metrics import LOSS, Metric, Split
from sensitivity.training.metrics import accumulator
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.problems import Problem

_AT_ONCE = {"cpu": (2**14, 2**19, 2**16), "cuda": (2**18, 2**25, 2**20)}
"""Examples x trials, numbers in their inputs, and terms of their losses, that go through the networks at once where
training has fewer: on the host what its caches hold; on an accelerator so many that launches are nothing beside their
work."""

Scores = Mapping[str, Tensor]
"""Of each metric that was measured, the value of each trial ``[trials]``, on the CPU."""


def evaluate(
    model: PackedModel, problem: Problem, *, train_examples: int | None, chunk: int, training: bool = True
) -> Scores:
    """Measure every member on the splits: the training split if `training`, and of it the first `train_examples`.

    `chunk` examples of each member are known to fit in memory: so many are differentiated at once in training.
    """
    data = problem.dataset
    at_once = _rows(model.device, math.prod(data.train_inputs.shape[1:]), problem.terms_per_example)
    rows = max(1, chunk, at_once // model.trials)
    by_split: dict[Split, list[Metric]] = {}
    for metric in problem.measured:
        if training or not metric.of_training:
            by_split.setdefault(metric.on, []).append(metric)
    names: list[Metric] = []
    values: list[Tensor] = []
    for split, metrics in by_split.items():
        inputs, targets = data.split(split)
        if split == "train":
            inputs, targets = inputs[:train_examples], targets[:train_examples]
        names += metrics
        values += _measured(model, problem, metrics, inputs, targets, rows)
    return dict(zip(names, torch.stack(values).cpu(), strict=True))  # one wait for the device


def _rows(device: torch.device, numbers: int, terms: int) -> int:
    """Return how many examples x trials, each of so many numbers and terms, go through the networks at once."""
    rows, most_numbers, most_terms = _AT_ONCE[device.type]
    return min(rows, most_numbers // numbers, most_terms // terms)


def _measured(
    model: PackedModel, problem: Problem, metrics: Sequence[Metric], inputs: Tensor, targets: Tensor, rows: int
) -> list[Tensor]:
    """Return the value of each of `metrics` over some examples: ``[trials]`` each."""
    loss = torch.zeros(model.trials, dtype=torch.float64, device=model.device)
    count: Tensor | int = 0
    names = [metric.quantity.name for metric in metrics if not metric.is_loss]
    others = {name: accumulator(name, problem.own_metrics, problem.dataset.token_bytes) for name in names}
    for start in range(0, len(inputs), rows):
        some, wanted = inputs[start : start + rows], problem.dataset.labels(targets[start : start + rows])
        outputs = model.eval_outputs(problem.dataset.standardised(some))
        terms = problem.loss.count(wanted)
        loss += problem.loss(outputs, wanted.expand(model.trials, *wanted.shape)).double() * terms
        count = count + terms
        for each in others.values():
            each.add(outputs, wanted)
    loss = loss / count
    found = {LOSS.name: loss, **{name: each.result(loss) for name, each in others.items()}}
    return [found[metric.quantity.name] for metric in metrics]
