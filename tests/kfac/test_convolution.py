"""Moments of convolution patches against patches taken by the convolution itself, in every geometry."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sensitivity.kfac import Capture, KFACConfig, init_state, layers_of, statistics_of

DOUBLE = torch.float64


def patches_of(module: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """Rows [examples, positions, groups, d] of patches, bias last: what a convolution with one-hot kernels returns."""
    kernel = module.weight[0].numel()
    probe = type(module)(
        module.in_channels,
        module.groups * kernel,
        module.kernel_size,
        stride=module.stride,
        padding=module.padding,
        dilation=module.dilation,
        groups=module.groups,
        padding_mode=module.padding_mode,
        bias=False,
    ).to(x.dtype)
    with torch.no_grad():
        eye = torch.eye(kernel, dtype=x.dtype).reshape(kernel, *module.weight.shape[1:])
        probe.weight.copy_(eye.repeat(module.groups, *(1,) * (eye.dim() - 1)))
        rows = probe(x).flatten(2).mT.unflatten(-1, (module.groups, kernel))
    return torch.cat([rows, torch.ones_like(rows[..., :1])], -1) if module.bias is not None else rows


def factors_of(module: nn.Module, x: Tensor, g: Tensor, **config: Any) -> tuple[Tensor, Tensor]:
    settings_ = KFACConfig(reduction="sum", **config)
    model = nn.Sequential(module)
    state = init_state(layers_of(model), {n: p.detach() for n, p in model.named_parameters()}, settings_)
    new = statistics_of(state.layout, {"0": [Capture(x, g)]}, settings_)
    placement = state.layout.placements[0]
    assert placement.inputs is not None
    return placement.inputs.of(new.banks), placement.outputs.of(new.banks)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Conv1d | nn.Conv2d, tuple[int, ...]]:
    dims = draw(st.sampled_from([1, 2]))
    small = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(dims))  # noqa: E731
    kernel, stride, dilation, sizes = small(1, 4), small(1, 3), small(1, 2), small(1, 7)
    mode = draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]))
    padding: Any = small(0, 3)
    if all(s == 1 for s in stride) and draw(st.integers(0, 3)) == 0:
        padding = draw(st.sampled_from(["same", "valid"]))
    spans = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    pads = [s // 2 + s % 2 for s in spans] if padding == "same" else [0] * dims if padding == "valid" else padding
    assume(all(n + 2 * p - (padding == "same") >= span + 1 for n, p, span in zip(sizes, pads, spans, strict=True)))
    assume(mode == "zeros" or all(p < n for n, p in zip(sizes, pads, strict=True)))
    groups, channels = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    kind = nn.Conv1d if dims == 1 else nn.Conv2d
    module = kind(
        groups * channels,
        groups * 2,
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=mode,
        bias=draw(st.booleans()),
    )
    return module, sizes


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(convolutions(), st.sampled_from(["expand", "reduce"]), st.sampled_from([(DOUBLE, 1e-10), (torch.float32, 1e-4)]))
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_factors_are_those_of_explicit_patches(
    case: tuple[Any, tuple[int, ...]], sharing: Any, precision: tuple[torch.dtype, float]
) -> None:
    (module, sizes), (dtype, tolerance) = case, precision
    module.to(dtype)
    x = torch.randn(3, module.in_channels, *sizes, dtype=dtype)
    g = torch.randn_like(module(x))
    found_a, found_g = factors_of(module, x, g, sharing=sharing)
    rows = patches_of(module, x)
    grads = g.flatten(2).mT.unflatten(-1, (module.groups, -1))
    if sharing == "reduce":
        rows, grads = rows.mean(1, keepdim=True), grads.sum(1, keepdim=True)
    expected_a = torch.einsum("nsgi,nsgj->gij", rows, rows) / 3
    expected_g = torch.einsum("nsgi,nsgj->gij", grads, grads) / (3 * grads.shape[1])
    torch.testing.assert_close(found_a, expected_a, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found_g, expected_g, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("channels", [2, 3, 16])
def test_long_sums_in_single_precision_keep_its_accuracy(channels: int) -> None:
    torch.manual_seed(0)
    x = 3.0 + torch.randn(700, channels, 12, 12, dtype=DOUBLE)  # of one sign, as after a ReLU: rounding adds up
    module = nn.Conv2d(channels, 1, 3, padding=1)
    g = torch.zeros(700, 1, 12, 12)
    found, _ = factors_of(module, x.float(), g)
    expected, _ = factors_of(module.to(DOUBLE), x, g.double())
    assert float((found - expected).abs().max() / expected.abs().max()) < 3e-6
