"""Counted FLOPs against those that torch counts in the products of a step."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, bmm_flop, mm_flop

from sensitivity.kfac import (
    Capture,
    Hyperparameters,
    KFACConfig,
    init_state,
    layers_of,
    needs_statistics,
    statistics_of,
    step,
    step_flops,
)


def accumulated(target: Any, a: Any, b: Any, out_shape: Any = None, **_: Any) -> int:
    """FLOPs of target + a b, which torch counts only where it is not in place."""
    return (mm_flop if len(a) == 2 else bmm_flop)(a, b)


IN_PLACE = {torch.ops.aten.addmm_: accumulated, torch.ops.aten.baddbmm_: accumulated}


def counted(
    model: nn.Sequential, captures: dict[str, list[Capture]], config: KFACConfig, *, lead: bool = False
) -> tuple[float, float]:
    """FLOPs of the products in the factors, and in a step without statistics; with `lead` of a pack of one."""
    layers, params = layers_of(model), {n: p.detach() for n, p in model.named_parameters()}
    params = {n: p[None].clone() for n, p in params.items()} if lead else params
    state = init_state(layers, params, config)
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as factors:
        statistics_of(state.layout, captures, config)
    grads, numbers = {n: torch.ones_like(p) for n, p in params.items()}, Hyperparameters(lr=0.1, damping=1.0)
    step(config, state, params, grads, captures, numbers)
    with FlopCounterMode(display=False) as solve:
        step(config, state, params, grads, None, numbers)
    return factors.get_total_flops(), solve.get_total_flops()


@pytest.mark.parametrize("form", ["factored", "exact"])
def test_perceptron_flops_are_exact(form: Any) -> None:
    model = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 10, bias=False))
    captures = {
        "0": [Capture(torch.randn(16, 20), torch.randn(16, 30))],
        "1": [Capture(torch.randn(16, 30), torch.randn(16, 10))],
    }
    config = KFACConfig(damping_form=form, inverse_interval=100)
    found = step_flops(layers_of(model), config, examples=16)
    alone = counted(model, captures, config)
    assert (found.factors - 2 * 16 * (21**2 - 20**2), found.precondition) == alone, "the bias's row is no product alone"
    of_one = {name: [Capture(c.inputs[None], c.columns[0][None]) for c in calls] for name, calls in captures.items()}
    assert (found.factors, found.precondition) == counted(model, of_one, config, lead=True)
    cubes = 21**3 + 30**3 + 30**3 + 10**3
    assert found.inverses == pytest.approx((9 if form == "exact" else 1) * cubes / 100)
    assert found.total == found.factors + found.inverses + found.precondition


@pytest.mark.parametrize(("stride", "tolerance"), [(1, 0.11), (2, 0.02)])
def test_convolution_flops_but_for_border_strips_and_zeros_between_lines(stride: int, tolerance: float) -> None:
    # In float64, where the autocorrelations are products on every device.
    model = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1, stride=stride, groups=2, bias=False)).double()
    x = torch.randn(4, 8, 32, 32, dtype=torch.float64)
    captures = {"0": [Capture(x, torch.randn_like(model(x)))]}
    config = KFACConfig(inverse_interval=100)
    positions = (32 // stride) ** 2
    found = step_flops(layers_of(model), config, examples=4, positions={"0": positions})
    factors, solve = counted(model, captures, config)
    assert found.factors == pytest.approx(factors, rel=tolerance)
    assert found.precondition == solve


def test_intervals_divide_the_cost() -> None:
    layers = layers_of(nn.Sequential(nn.Linear(20, 30)))
    each = step_flops(layers, KFACConfig(factor_interval=1, inverse_interval=1), examples=8)
    rare = step_flops(layers, KFACConfig(factor_interval=((0, 1), (50, 5)), inverse_interval=20), examples=8, steps=100)
    assert rare.factors == pytest.approx(each.factors * 0.6)
    assert rare.inverses == pytest.approx(each.inverses / 20)
    assert [needs_statistics(KFACConfig(factor_interval=3), i) for i in range(4)] == [True, False, False, True]
