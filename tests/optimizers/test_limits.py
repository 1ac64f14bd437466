"""In degenerate settings an optimizer equals another known one."""

import pytest
import torch

from sensitivity.optimizers.matrices import inverse_root, orthogonalised
from tests.optimizers.cases import GRADIENTS, bare, walked
from tests.optimizers.references import start


def same(one, other, tolerance=1e-10):
    for name, value in one.items():
        assert (value - start()[name]).abs().max() > 1e-3, "it has walked"
        torch.testing.assert_close(other[name], value, rtol=0, atol=tolerance)


LARGE = 1e9
SCALED_SGD = {
    "adam": {"lr": 0.1 * LARGE, "beta1": 0.0, "eps": LARGE},
    "adamw": {"lr": 0.1 * LARGE, "beta1": 0.0, "eps": LARGE, "weight_decay": 0.0},
    "nadam": {"lr": 0.1 * LARGE, "beta1": 0.0, "eps": LARGE},
    "rmsprop": {"lr": 0.1 * LARGE, "eps": LARGE},
    "adagrad": {"lr": 0.1 * LARGE, "eps": LARGE},
    "schedule_free_adamw": {"lr": 0.1 * LARGE, "beta1": 0.7, "eps": LARGE},
}


@pytest.mark.parametrize("kind", SCALED_SGD)
def test_a_large_epsilon_scales_the_gradient(kind):
    other = "schedule_free_sgd" if kind.startswith("schedule_free") else "sgd"
    same(walked(other, lr=0.1, momentum=0.7 if other != "sgd" else 0.0), walked(kind, **SCALED_SGD[kind]), 1e-7)


def test_shampoo_with_a_large_epsilon_is_sgd_over_its_root():
    numbers = {"lr": 0.1 * LARGE**0.5, "beta1": 0.0, "eps": LARGE, "graft": "none"}
    same(walked("sgd", lr=0.1), walked("shampoo", **numbers), 1e-6)  # two sides, each to the power -1/4


def test_shampoo_without_sides_and_graft_is_sgd():
    same(walked("sgd", lr=0.1), walked("shampoo", lr=0.1, beta1=0.0, graft="none", max_side=1))


def test_shampoo_first_step_is_orthogonal_with_the_grafted_length():
    params = {name: torch.stack([value, value]) for name, value in start().items()}
    before = {name: value.clone() for name, value in params.items()}
    gradients = GRADIENTS(params)
    bare("shampoo", params, lr=0.1, graft="sgd", beta1=0.0, eps=1e-14).step(params, gradients, 1.0, step=0)
    for name, value in params.items():
        gradient = gradients[name][1]
        length = 0.17 * torch.linalg.vector_norm(gradient)
        torch.testing.assert_close(torch.linalg.vector_norm(before[name][1] - value[1]), length)
        if gradient.dim() == 2:  # (g gᵀ)^(-1/4) g (gᵀ g)^(-1/4) = U Vᵀ
            u, _, vh = torch.linalg.svd(gradient)
            torch.testing.assert_close(before[name][1] - value[1], length / 6**0.5 * u @ vh, rtol=0, atol=1e-6)


def test_soap_without_bases_is_adam_a_step_later():
    numbers = {"lr": 0.01, "beta1": 0.8, "beta2": 0.95, "eps": 1e-12}
    late = walked("soap", steps=11, **numbers, weight_decay=0.0, max_side=1)
    # Its epsilon is added before the bias correction of the second moment, so it equals Adam's if it is small.
    same(walked("adam", steps=10, **numbers), late, 1e-9)


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        ("adam", {"beta1": 0.0, "beta2": 0.0, "eps": 0.0}),
        ("rmsprop", {"beta2": 0.0, "eps": 0.0}),
        ("lion", {"beta1": 0.0, "beta2": 0.5}),
    ],
)
def test_without_memory_only_the_sign_is_left(kind, numbers):
    params = {name: torch.stack([value, value]) for name, value in start().items()}
    before = {name: value.clone() for name, value in params.items()}
    gradients = GRADIENTS(params)
    bare(kind, params, lr=0.01, **numbers).step(params, gradients, 1.0, step=0)
    for name, value in params.items():
        torch.testing.assert_close(value[0], before[name][0] - 0.01 * gradients[name][0].sign())


def test_plain_rmsprop_is_adam_without_bias_correction():
    # After many steps the corrections are 1.
    params = {name: torch.stack([value, value]) for name, value in start().items()}
    one, other = bare("adam", params, lr=1e-12, beta1=0.0, beta2=0.5), bare("rmsprop", params, lr=1e-12, beta2=0.5)
    gradients = GRADIENTS(params)
    for step in range(60):
        one.step(params, gradients, 0.0, step=step)
        other.step(params, gradients, 0.0, step=step)
    moved = []
    for optimizer in (one, other):
        mine = {name: value.clone() for name, value in params.items()}
        optimizer.step(mine, gradients, 1e12, step=60)
        moved.append(mine)
    for name, value in moved[0].items():
        torch.testing.assert_close(moved[1][name], value)


@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3)])
def test_orthogonalised_matrices_keep_their_singular_vectors(shape):
    matrices = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
    inside = u.mT @ orthogonalised(matrices, 5) @ vh.mT
    torch.testing.assert_close(inside, torch.diag_embed(torch.diagonal(inside, dim1=1, dim2=2)), rtol=0, atol=1e-10)
    values = torch.diagonal(inside, dim1=1, dim2=2)[s > 0.05 * s[:, :1]]
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_inverse_roots_are_correct_and_independent_of_other_members():
    factor = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrices = factor @ factor.mT
    matrices[1, 2, 3] = torch.nan
    damping = torch.tensor([0.1, 0.1, 0.5])
    roots = inverse_root(matrices, damping, 4)
    for k in (0, 2):
        fourth = torch.linalg.matrix_power(roots[k], 4) @ (matrices[k] + damping[k] * torch.eye(6))
        torch.testing.assert_close(fourth, torch.eye(6, dtype=torch.float64), check_dtype=False, rtol=0, atol=1e-7)
    assert torch.isfinite(roots).all()
