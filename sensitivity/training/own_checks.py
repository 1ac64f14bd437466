"""Checks of the values that a user's loss and metrics return; each message contains the fix."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sensitivity.study.errors import UserError
from sensitivity.study.problem import LOSSES, ProblemSpec
from sensitivity.study.users_code import users_code
from sensitivity.training.metrics import accumulator
from sensitivity.training.problems import Problem

_ROUNDING = 1e-3
"""Tolerance relative to the largest loss, for comparing an example's loss in a batch with its loss alone."""
_EXAMPLES = 512


def own_loss(spec: ProblemSpec) -> bool:
    """Whether the loss is a user's function."""
    return spec.loss not in LOSSES


def loss_mistake(spec: ProblemSpec, problem: Problem, outputs: Tensor, targets: Tensor) -> str | None:
    """Return the mistake that a user's loss shows on a batch; None if it is valid or the loss is a shipped one."""
    if not own_loss(spec):
        return None
    where = f"problem.loss: {spec.loss}"
    try:
        with users_code(where):
            terms = problem.loss.terms(outputs[None], targets[None])
            alone = [
                problem.loss.terms(outputs[None, k : k + 1], targets[None, k : k + 1]) for k in (0, -1 % len(outputs))
            ]
    except UserError as error:
        return str(error)
    if not terms.is_floating_point():
        return f"{where} returned {str(terms.dtype).removeprefix('torch.')}; it must return floating-point losses"
    if outputs.requires_grad and not terms.requires_grad:
        return f"{where} returned losses without a gradient: it detaches the outputs, or computes outside torch"
    if not bool(torch.isfinite(terms).all()):
        count = int((~torch.isfinite(terms)).sum())
        return f"{where}: the loss of the untrained network is not finite on {count} of {len(outputs)} examples"
    mean = float(terms.detach().mean())
    if not mean > 0:
        return (
            f"{where}: the loss of the untrained network is {mean:.4g}; it must be positive, because "
            "divergence is detected relative to it: add a constant"
        )
    both = torch.cat([each[0] for each in alone])
    whole = terms[0][[0, -1]]
    if bool(((both - whole).abs() > _ROUNDING * whole.abs().max() + 1e-6).any()):
        return (
            f"{where}: the loss of an example depends on other examples in its batch; it must not, because "
            "packs and micro-batches change which examples are in a batch"
        )
    return None


@torch.no_grad()
def metric_mistakes(problem: Problem, model: nn.Module) -> Iterator[str]:
    """Yield the mistakes that a user's metrics show on some test examples with the untrained network."""
    if not problem.own_metrics:
        return
    data = problem.dataset
    targets = data.labels(data.test_targets[:_EXAMPLES])
    outputs = model.eval()(data.standardised(data.test_inputs[:_EXAMPLES]).clone())
    for name in problem.own_metrics:
        computed = accumulator(name, problem.own_metrics)
        try:
            computed.add(outputs[None], targets)
            value = float(computed.result(torch.zeros(1)))
        except UserError as error:
            yield str(error)
            continue
        if not math.isfinite(value):
            yield (
                f"problem.metrics.{name}: it is {value} for the untrained network on {len(targets)} test examples; it "
                "must be finite if the outputs are"
            )
