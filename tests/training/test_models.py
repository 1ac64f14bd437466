"""Shipped models: parameter counts from the literature, shapes, and the structure of residual networks."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from sensitivity.study.problem import MODELS
from sensitivity.training.problems import _MODELS

COLOUR, GRAY = (3, 32, 32), (1, 28, 28)


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [
        # He et al. (2016), table 6: 0.27M, 0.46M, 0.66M, 0.85M; exactly, with option-A shortcuts, by the sum
        # 9·(3·16 + 2n·16² + 16·32 + (2n-1)·32² + 32·64 + (2n-1)·64²) + 2·(16·(1+2n) + 32·2n + 64·2n) + 64·10 + 10.
        ("resnet20", COLOUR, 269_722),
        ("resnet32", COLOUR, 464_154),
        ("resnet44", COLOUR, 658_586),
        ("resnet56", COLOUR, 853_018),
        # LeNet-5 with full connections: 156 + 2,416 + 48,120 + 10,164 + 850.
        ("lenet", GRAY, 61_706),
        ("lenet", (1, 32, 32), 61_706),
        ("lenet", COLOUR, 62_006),
        # 23,296 + 307,392 + 663,936 + 884,992 + 590,080 + 2,570.
        ("alexnet", COLOUR, 2_472_266),
        ("perceptron", (1, 8, 8), 26_122),
        ("small_cnn", (1, 8, 8), 6_090),
    ],
)
def test_parameters_are_those_of_the_literature(name, shape, count):
    network = _MODELS[name](shape, 10)
    assert sum(p.numel() for p in network.parameters()) == count
    n = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9}.get(name)
    if n:
        weights = 9 * (3 * 16 + 2 * n * 16**2 + 16 * 32 + (2 * n - 1) * 32**2 + 32 * 64 + (2 * n - 1) * 64**2)
        assert count == weights + 2 * (16 * (1 + 2 * n) + 32 * 2 * n + 64 * 2 * n) + 64 * 10 + 10
        assert sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in network.modules()) == 6 * n + 2
    assert network(torch.zeros(2, *shape)).shape == (2, 10)


def test_every_model_that_a_study_may_name_is_there():
    assert set(MODELS) == set(_MODELS)


def test_a_residual_network_by_hand():
    torch.manual_seed(0)
    network = _MODELS["resnet20"](COLOUR, 7).eval()
    x = torch.randn(2, *COLOUR)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    h = functional.relu(norms[0](convolutions[0](x)))
    for block in range(9):
        first, second = 1 + 2 * block, 2 + 2 * block
        inner = norms[second](convolutions[second](functional.relu(norms[first](convolutions[first](h)))))
        if block in (3, 6):  # option A: every second pixel, new channels zero
            small = torch.zeros_like(inner)
            small[:, : h.shape[1]] = h[:, :, ::2, ::2]
            h = small
        h = functional.relu(inner + h)
    assert h.shape == (2, 64, 8, 8)
    logits = network[-1](h.mean((2, 3)))
    torch.testing.assert_close(network(x), logits)


def test_residual_networks_start_with_variance_two_over_inputs():
    torch.manual_seed(0)
    for module in _MODELS["resnet56"](COLOUR, 10).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 9000:
            inputs = 9 * module.in_channels
            assert module.weight.var().item() == pytest.approx(2 / inputs, rel=0.06)


def test_equal_generators_give_equal_networks():
    for name in ("resnet20", "alexnet", "lenet"):
        torch.manual_seed(3)
        one = _MODELS[name](COLOUR, 10)
        torch.manual_seed(3)
        two = _MODELS[name](COLOUR, 10)
        assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("alexnet", GRAY, r"\[channels, 32, 32\]; got \(1, 28, 28\)"),
        ("lenet", (1, 8, 8), "at least 16×16"),
        ("resnet20", (64,), r"resnet20 takes images \[channels, height, width\]"),
        ("small_cnn", (3,), "small_cnn takes images"),
    ],
)
def test_incompatible_inputs_are_reported(name, shape, words):
    with pytest.raises(ValueError, match=words):
        _MODELS[name](shape, 10)
