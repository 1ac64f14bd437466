"""Measuring a pack: mean loss and accuracy over a split, in chunks that take no more memory than training does.

The means are over the terms of the loss: examples, or the positions of sequences (`losses`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sensitivity.training.losses import accuracy, term_count
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.problems import Problem

_ROWS, _NUMBERS = 2**14, 2**19
"""Examples x trials, and numbers in their inputs, that go through the networks at once where training has fewer."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Loss and accuracy of each trial on both splits, ``[trials]`` on the CPU; NaN where not measured."""

    train_loss: Tensor
    train_accuracy: Tensor
    test_loss: Tensor
    test_accuracy: Tensor


def evaluate(
    model: PackedModel, problem: Problem, *, train_examples: int | None, chunk: int, training: bool = True
) -> Scores:
    """Measure every member on the test split and, if `training`, on the training split: its first `train_examples`.

    `chunk` examples of each member are known to fit in memory: so many are differentiated at once in training.
    """
    data = problem.dataset
    count = (train_examples or data.train_size) if training else 0
    rows = max(chunk, min(_ROWS, _NUMBERS // math.prod(data.train_inputs.shape[1:])) // model.trials)
    train = _split(model, problem, data.train_inputs[:count], data.train_targets[:count], rows)
    test = _split(model, problem, data.test_inputs, data.test_targets, rows)
    train_loss, train_accuracy, test_loss, test_accuracy = torch.cat((train, test)).cpu()  # one wait for the device
    return Scores(
        train_loss=train_loss, train_accuracy=train_accuracy, test_loss=test_loss, test_accuracy=test_accuracy
    )


def _split(model: PackedModel, problem: Problem, inputs: Tensor, targets: Tensor, rows: int) -> Tensor:
    """Return loss and accuracy ``[2, trials]``; NaN of no examples."""
    loss = torch.zeros(model.trials, dtype=torch.float64, device=inputs.device)
    correct, terms = torch.zeros_like(loss), torch.zeros_like(loss[:1])
    for start in range(0, len(inputs), rows):
        some, wanted = inputs[start : start + rows], problem.dataset.labels(targets[start : start + rows])
        outputs = model.eval_outputs(problem.dataset.standardised(some))
        weight = term_count(wanted[None]) if problem.has_classes else len(some)
        wanted = wanted.expand(model.trials, *wanted.shape)
        loss += problem.loss(outputs, wanted).double() * weight
        terms += weight
        if problem.has_classes:
            correct += accuracy(outputs, wanted) * weight
    if not problem.has_classes:
        correct.fill_(math.nan)
    return torch.stack((loss, correct)) / terms
