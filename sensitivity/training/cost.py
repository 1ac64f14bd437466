"""FLOPs of a training step, counted (a fused multiply-add is two)."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from sensitivity.training.problems import Problem

_PROBE = 2  # examples: BatchNorm in training mode refuses one


def gradient_flops(problem: Problem) -> float:
    """Return the FLOPs of one example's forward and backward pass: the matrix products and convolutions.

    Element-wise work is left out, as in the papers that K-FAC's cost is compared with.
    """
    data = problem.dataset
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = problem.build_model().train()
        counter = FlopCounterMode(display=False)
        with counter:
            outputs = model(data.train_inputs[:_PROBE])
            problem.loss(outputs.unsqueeze(0), data.train_targets[:_PROBE].unsqueeze(0)).sum().backward()  # type: ignore[no-untyped-call]
    return counter.get_total_flops() / _PROBE
