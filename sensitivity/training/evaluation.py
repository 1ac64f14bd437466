"""Evaluation of a pack: metrics over whole splits, in chunks that need no more memory than training."""

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
"""Limits of a chunk, if training uses smaller batches: examples x trials, input values, and loss terms. On the host
a chunk fits in the caches; on an accelerator it is large enough that launch overhead is negligible."""

Scores = Mapping[str, Tensor]
"""Values ``[trials]`` on the CPU of each measured metric."""


def evaluate(
    model: PackedModel, problem: Problem, *, train_examples: int | None, chunk: int, training: bool = True
) -> Scores:
    """Measure every member on the splits, including the first `train_examples` of the training split if `training`.

    `chunk` is the number of examples per member that are differentiated at once in training and thus fit in memory.
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
    return dict(zip(names, torch.stack(values).cpu(), strict=True))  # a single synchronisation


def _rows(device: torch.device, numbers: int, terms: int) -> int:
    """Return the chunk size in examples x trials, given the input values and loss terms of each."""
    rows, most_numbers, most_terms = _AT_ONCE[device.type]
    return min(rows, most_numbers // numbers, most_terms // terms)


def _measured(
    model: PackedModel, problem: Problem, metrics: Sequence[Metric], inputs: Tensor, targets: Tensor, rows: int
) -> list[Tensor]:
    """Return the value ``[trials]`` of each of `metrics` over some examples."""
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
