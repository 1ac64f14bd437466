"""FLOPs of each model's gradient compared with hand counts: twice the multiplications of all three passes."""

import pytest
import torch

from sensitivity.study.problem import ProblemSpec
from sensitivity.training.cost import example_cost
from sensitivity.training.datasets import Dataset
from sensitivity.training.losses import cross_entropy
from sensitivity.training.problems import _MODELS, Problem, load_problem


def problem(name, shape):
    data = Dataset(
        train_inputs=torch.zeros(4, *shape, dtype=torch.uint8),
        train_targets=torch.arange(4),
        test_inputs=torch.zeros(1, *shape, dtype=torch.uint8),
        test_targets=torch.zeros(1, dtype=torch.int64),
        mean=torch.zeros(shape[0], 1, 1),
        deviation=torch.ones(shape[0], 1, 1),
    )
    return Problem(
        dataset=data, build_model=lambda: _MODELS[name](shape, 10), loss=cross_entropy, has_classes=True, outputs=10
    )


def residual(depth):
    """(output positions, inputs per position, outputs per position) of each layer."""
    n = (depth - 2) // 6
    yield 32 * 32, 9 * 3, 16
    for side, channels, before in ((32, 16, 16), (16, 32, 16), (8, 64, 32)):
        yield side * side, 9 * before, channels
        for _ in range(2 * n - 1):
            yield side * side, 9 * channels, channels
    yield 1, 64, 10


LAYERS = {
    "lenet": [(28 * 28, 25, 6), (10 * 10, 25 * 6, 16), (1, 400, 120), (1, 120, 84), (1, 84, 10)],
    "alexnet": [
        (8 * 8, 121 * 3, 64),
        (4 * 4, 25 * 64, 192),
        (2 * 2, 9 * 192, 384),
        (2 * 2, 9 * 384, 256),
        (2 * 2, 9 * 256, 256),
        (1, 256, 10),
    ],
    "resnet20": list(residual(20)),
    "resnet32": list(residual(32)),
    "resnet44": list(residual(44)),
    "resnet56": list(residual(56)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradient_flops_and_positions_are_those_counted_by_hand(name):
    layers = LAYERS[name]
    products = [2 * positions * inputs * outputs for positions, inputs, outputs in layers]
    cost = example_cost(problem(name, (1, 28, 28) if name == "lenet" else (3, 32, 32)))
    assert cost.gradient_flops == 3 * sum(products) - products[0]  # inputs of the first layer need no gradient
    assert list(cost.positions.values()) == [positions for positions, _, _ in layers]


def test_the_literature_counts_the_same_multiplications():
    # 40.6 million multiplications forward are commonly given for ResNet-20 on CIFAR-10, 125 million for ResNet-56.
    for depth, millions in ((20, 40.6), (56, 125.5)):
        assert sum(p * i * o for p, i, o in residual(depth)) / 1e6 == pytest.approx(millions, rel=0.01)


def test_the_noisy_quadratic_is_two_products_with_the_noise_of_a_batch():
    spec = ProblemSpec(dataset="noisy_quadratic", model="quadratic", loss="quadratic")
    # Forward and backward, of the two examples that are counted.
    assert example_cost(load_problem(spec)).gradient_flops == 2 * 2 * 1000 / 2
