"""Reported FLOPs equal those counted by torch over one period, except for decompositions."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sensitivity.optimizers.contract import Networks
from sensitivity.optimizers.matrices import EIGEN_FLOPS, QR_FLOPS
from sensitivity.optimizers.pack import PackOptimizer
from sensitivity.study.arms import arm_class

NETWORK = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(12, 20), nn.Linear(20, 5))
SIDES = {"0.weight": (8, 27), "1.weight": (20, 12), "2.weight": (5, 20)}
EACH = {"muon": 0.0, "shampoo": EIGEN_FLOPS, "soap": QR_FLOPS}
"""FLOPs of a decomposition divided by the cube of the side; torch only counts products."""


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("kind", EACH)
def test_products_are_counted(kind, members):
    interval = 4
    settings = {} if kind == "muon" else {"precondition_interval": interval, "max_side": 24}
    arm = arm_class(kind).model_validate({"kind": kind, "lr": 1e-3, **settings})
    params = {name: torch.randn(members, *p.shape) for name, p in NETWORK.named_parameters()}
    row = {name: axis.values[0] for name, axis in arm.axes().items()}
    networks = Networks(network=NETWORK, batch_size=1)
    optimizer = PackOptimizer(arm.settings(), [row] * members, params, networks)
    gradients = {name: torch.randn_like(p) for name, p in params.items()}
    optimizer.step(params, gradients, 1.0, step=0)  # of SOAP's first bases
    counter = FlopCounterMode(display=False)
    with counter:
        for step in range(1, 1 + interval):
            optimizer.step(params, gradients, 1.0, step=step)
    sides = [side for pair in SIDES.values() for side in pair if side <= 24]
    if kind == "shampoo":
        sides += [8, 20, 5]  # the biases
    decomposed = 0.0 if kind == "muon" else EACH[kind] * sum(side**3 for side in sides)
    told = interval * optimizer.flops(1, {}) - decomposed
    assert counter.get_total_flops() / members == pytest.approx(told)


def test_element_wise_work_is_not():
    params = {"x": torch.randn(2, 3)}
    networks = Networks(network=NETWORK, batch_size=1)
    row = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0}
    assert PackOptimizer({"kind": "sgd", "nesterov": False}, [row, row], params, networks).flops(8, {}) == 0
