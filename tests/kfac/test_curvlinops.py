"""Blocks and their inverses against curvlinops, for the Fisher types and settings that both define."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sensitivity.kfac import KFAC, KFACConfig

DOUBLE = torch.float64
OUTPUTS = 3

curvlinops = pytest.importorskip("curvlinops", reason="curvlinops-for-pytorch is not installed")

MODELS: dict[str, Callable[[], nn.Module]] = {
    "perceptron": lambda: nn.Sequential(
        nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4, bias=False), nn.Tanh(), nn.Linear(4, 3)
    ),
    "convolutions": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 3, 3, stride=2, dilation=2, padding=1, bias=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(27, 3),
    ),
    "grouped": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 1),
        nn.Tanh(),
        nn.Conv2d(4, 2, (2, 3), padding=(1, 2), dilation=(1, 2)),
        nn.Flatten(),
        nn.Linear(144, 3),
    ),
}


def data(name: str, loss: str) -> tuple[Tensor, Tensor]:
    x = torch.randn(7, *((6,) if name == "perceptron" else (2, 8, 8)), dtype=DOUBLE)
    y = torch.randint(3, (7,)) if loss == "cross_entropy" else torch.randn(7, 3, dtype=DOUBLE)
    return x, y


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("fisher", ["empirical", "type2"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("name", MODELS)
def test_blocks_equal_those_of_curvlinops(name: str, loss: Any, fisher: Any, sharing: Any, reduction: Any) -> None:
    """Equal but for the empirical Fisher of a squared error averaged over C outputs, where theirs is C times ours.

    The loss of an example, ℓ = ‖f - y‖² / C, has the Hessian 2 / C whichever Gaussian it is the negative log-likelihood
    of: variance C / 2 (ours, p ∝ exp(-ℓ)), or variance 1 / 2 with the weight 1 / C in front, joined with the mean's 1 /
    N (theirs). The expected outer product of gradients agrees with both, so "type2" does; that of the given labels does
    not: (2 / C)² r rᵀ for the residual r against 4 / C r rᵀ. Ours is what a user's own gradients give, as
    `test_empirical_fisher_of_one_example_is_the_outer_product_of_its_gradient` checks for this loss too; theirs
    treats the average over outputs like one over examples.
    """
    torch.manual_seed(0)
    model = MODELS[name]().to(DOUBLE)
    x, y = data(name, loss)
    kind = nn.CrossEntropyLoss if loss == "cross_entropy" else nn.MSELoss
    # Both losses are given as means: ours is the Fisher of the mean loss for either reduction.
    operator = curvlinops.KFACLinearOperator(
        model,
        kind(reduction="mean").to(DOUBLE),
        [p for p in model.parameters() if p.requires_grad],
        [(x, y)],
        fisher_type="type-2" if fisher == "type2" else fisher,
        kfac_approx=sharing,
        separate_weight_and_bias=False,
        check_deterministic=False,
    )
    operator.compute_kronecker_factors()
    optimizer = KFAC(model, KFACConfig(fisher=fisher, loss=loss, sharing=sharing, reduction=reduction))
    outputs = model(x)
    optimizer.observe(outputs)
    function = functional.cross_entropy if loss == "cross_entropy" else functional.mse_loss
    scale = OUTPUTS if reduction == "sum" and loss == "mse" else 1
    (function(outputs, y, reduction=reduction) / scale).backward()
    optimizer.step()
    for layer in optimizer.report().layers:
        a, g = (optimizer.kfac.factor(layer, side)[0] for side in ("inputs", "outputs"))
        theirs_a, theirs_g = operator._input_covariances[layer], operator._gradient_covariances[layer]
        if loss == "mse" and fisher == "empirical":
            theirs_g = theirs_g / OUTPUTS
        torch.testing.assert_close(torch.kron(g, a), torch.kron(theirs_g, theirs_a), rtol=1e-9, atol=1e-12)
        eye = torch.eye(len(a) * len(g), dtype=DOUBLE)
        ours = torch.linalg.inv(torch.kron(g, a) + 0.1 * eye)
        theirs = torch.linalg.inv(torch.kron(theirs_g, theirs_a) + 0.1 * eye)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("form", ["factored", "exact"])
def test_preconditioned_gradients_equal_those_of_curvlinops(form: Any) -> None:
    torch.manual_seed(0)
    model = MODELS["convolutions"]().to(DOUBLE)
    x, y = data("convolutions", "cross_entropy")
    operator = curvlinops.KFACLinearOperator(
        model,
        nn.CrossEntropyLoss(),
        list(model.parameters()),
        [(x, y)],
        fisher_type="type-2",
        separate_weight_and_bias=False,
        check_deterministic=False,
    )
    inverse = curvlinops.KFACInverseLinearOperator(
        operator, damping=0.03, use_heuristic_damping=form == "factored", use_exact_damping=form == "exact"
    )
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = KFAC(model, KFACConfig(fisher="type2", damping_form=form, damping=0.03, lr=1.0, momentum=0.0))
    outputs = model(x)
    optimizer.observe(outputs)
    functional.cross_entropy(outputs, y).backward()
    expected = inverse @ [p.grad.clone() for p in model.parameters() if p.grad is not None]
    optimizer.step()
    for p, old, move in zip(model.parameters(), before, expected, strict=True):
        torch.testing.assert_close(old - p.detach(), move, rtol=1e-8, atol=1e-11)
