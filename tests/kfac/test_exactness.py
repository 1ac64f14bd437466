"""Blocks against the dense GGN and Fisher by autograd, where K-FAC is exact; steps against dense natural gradient."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sensitivity.kfac import (
    Hyperparameters,
    KFACConfig,
    KFACState,
    init_state,
    layers_of,
    pseudo_losses,
    statistics_of,
    step,
)

DOUBLE = torch.float64


def joined(truth: Any, model: nn.Module, x: Tensor, config: KFACConfig) -> dict[str, Any]:
    """Captures of all pseudo-losses, as one capture with a tuple of gradients a call."""
    from sensitivity.kfac import Capture

    count = len(list(pseudo_losses(model(x), config, (torch.Generator().manual_seed(3),))))
    parts = [
        truth.captures_of(
            model, lambda c=c: list(pseudo_losses(model(x), config, (torch.Generator().manual_seed(3),)))[c]
        )[1]
        for c in range(count)
    ]
    return {
        name: [
            Capture(calls[0].inputs, tuple(g for part in parts for g in part[name][i].columns))
            for i, calls in enumerate(zip(*(p[name] for p in parts), strict=True))
        ]
        for name in parts[0]
    }


def block(state: KFACState, name: str) -> Tensor:
    return torch.kron(state.factor(name, "outputs")[0], state.factor(name, "inputs")[0])


def averaged(truth: Any, model: nn.Module, x: Tensor, config: KFACConfig) -> KFACState:
    from sensitivity.kfac.statistics import average

    layers = layers_of(model)
    state = init_state(layers, dict(model.named_parameters()), config)
    new = statistics_of(state.layout, joined(truth, model, x, config), config, loss_scale=1.0)
    average(state, new, config.factor_decay, None)
    return state


@pytest.mark.parametrize(("loss", "scale"), [("squared_error", 1.0), ("mse", 2 / 3)])
def test_deep_linear_network_with_squared_error_is_exact(truth: Any, loss: Any, scale: float) -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 6, bias=False), nn.Linear(6, 3)).to(DOUBLE)
    x = torch.randn(7, 5, dtype=DOUBLE)
    state = averaged(truth, model, x, KFACConfig(fisher="type2", loss=loss))
    for layer in layers_of(model):
        dense = truth.dense_ggn(model, x, lambda f: scale * torch.eye(len(f), dtype=DOUBLE), layer.parameters)
        torch.testing.assert_close(block(state, layer.name), dense, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("examples", [1, 9])
def test_one_layer_softmax_is_exact_where_its_hessian_is_constant(truth: Any, examples: int) -> None:
    model = nn.Sequential(nn.Linear(5, 4)).to(DOUBLE)
    if examples > 1:
        nn.init.zeros_(model[0].weight)
    x = torch.randn(examples, 5, dtype=DOUBLE)
    state = averaged(truth, model, x, KFACConfig(fisher="type2"))
    dense = truth.dense_ggn(model, x, truth.softmax_hessian, ("0.weight", "0.bias"))
    torch.testing.assert_close(block(state, "0"), dense, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("loss", "reduction"), [("cross_entropy", "mean"), ("cross_entropy", "sum"), ("mse", "mean")])
def test_empirical_fisher_of_one_example_is_the_outer_product_of_its_gradient(
    truth: Any, loss: Any, reduction: Any
) -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).to(DOUBLE)
    x, y = torch.randn(1, 5, dtype=DOUBLE), torch.tensor([2])

    def compute() -> Tensor:
        if loss == "mse":
            return functional.mse_loss(model(x), torch.ones(1, 3, dtype=DOUBLE))
        return functional.cross_entropy(model(x), y, reduction=reduction)

    grads, captures = truth.captures_of(model, compute)
    config = KFACConfig(reduction=reduction, loss=loss)
    state = init_state(layers_of(model), dict(model.named_parameters()), config)
    step(
        config,
        state,
        {n: p.detach() for n, p in model.named_parameters()},
        grads,
        captures,
        Hyperparameters(lr=0.1, damping=1.0),
    )
    for name in ("0", "2"):
        gradient = torch.cat([grads[f"{name}.weight"], grads[f"{name}.bias"].unsqueeze(1)], 1).flatten()
        torch.testing.assert_close(block(state, name), torch.outer(gradient, gradient), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_factors_do_not_depend_on_reduction_or_on_repeating_the_batch(truth: Any, reduction: Any) -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).to(DOUBLE)
    x, y = torch.randn(6, 5, dtype=DOUBLE), torch.randint(3, (6,))
    layers, params = layers_of(model), dict(model.named_parameters())
    layout = init_state(layers, params, KFACConfig()).layout
    _, plain = truth.captures_of(model, lambda: functional.cross_entropy(model(x), y))
    _, twice = truth.captures_of(
        model, lambda: functional.cross_entropy(model(x.repeat(2, 1)), y.repeat(2), reduction=reduction)
    )
    expected = statistics_of(layout, plain, KFACConfig())
    found = statistics_of(layout, twice, KFACConfig(reduction=reduction))
    for dim, bank in expected.banks.items():
        torch.testing.assert_close(found.banks[dim], bank, rtol=1e-10, atol=1e-14)


def test_monte_carlo_fisher_is_unbiased(truth: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 3)).to(DOUBLE)
    x = torch.randn(3, 4, dtype=DOUBLE)
    exact = averaged(truth, model, x, KFACConfig(fisher="type2")).factor("0", "outputs")
    sampled = averaged(truth, model, x.repeat(20_000, 1), KFACConfig(fisher="monte_carlo")).factor("0", "outputs")
    torch.testing.assert_close(sampled, exact, rtol=0.03, atol=0.003)


@pytest.mark.parametrize("form", ["factored", "exact"])
def test_step_is_the_dense_natural_gradient_of_each_block(truth: Any, form: Any) -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).to(DOUBLE)
    x, y = torch.randn(6, 5, dtype=DOUBLE), torch.randint(3, (6,))
    grads, captures = truth.captures_of(model, lambda: functional.cross_entropy(model(x), y))
    config, damping = KFACConfig(damping_form=form), 0.03
    state = init_state(layers_of(model), dict(model.named_parameters()), config)
    params = {n: p.detach().clone() for n, p in model.named_parameters()}
    before = {n: p.clone() for n, p in params.items()}
    report = step(config, state, params, grads, captures, Hyperparameters(lr=0.5, damping=damping))
    assert not report.failed
    for name in ("0", "2"):
        a, g = state.factor(name, "inputs")[0], state.factor(name, "outputs")[0]
        if form == "exact":
            dense = torch.kron(g, a) + damping * torch.eye(len(a) * len(g), dtype=DOUBLE)
        else:
            pi = ((a.trace() / len(a)) / (g.trace() / len(g))).sqrt()
            eye = [torch.eye(len(m), dtype=DOUBLE) for m in (a, g)]
            dense = torch.kron(g + damping**0.5 / pi * eye[1], a + damping**0.5 * pi * eye[0])
        gradient = torch.cat([grads[f"{name}.weight"], grads[f"{name}.bias"].unsqueeze(1)], 1)
        moved = torch.cat(
            [
                params[n] - before[n] if before[n].dim() > 1 else (params[n] - before[n]).unsqueeze(1)
                for n in (f"{name}.weight", f"{name}.bias")
            ],
            1,
        )
        expected = -0.5 * torch.linalg.solve(dense, gradient.flatten()).reshape(gradient.shape)
        torch.testing.assert_close(moved, expected, rtol=1e-9, atol=1e-11)


def test_running_average_is_bias_corrected(truth: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 2)).to(DOUBLE)
    config = KFACConfig(factor_decay=0.8)
    state = init_state(layers_of(model), dict(model.named_parameters()), config)
    params = {n: p.detach() for n, p in model.named_parameters()}
    seen = []
    for _ in range(4):
        x, y = torch.randn(6, 3, dtype=DOUBLE), torch.randint(2, (6,))
        grads, captures = truth.captures_of(model, lambda x=x, y=y: functional.cross_entropy(model(x), y))
        rows = torch.cat([x, torch.ones(6, 1, dtype=DOUBLE)], 1)
        seen.append(rows.mT @ rows / 6)
        step(config, state, params, grads, captures, Hyperparameters(lr=0.1, damping=1.0))
    weights = torch.tensor([0.8**3, 0.8**2, 0.8, 1.0], dtype=DOUBLE)
    expected = (torch.stack(seen) * weights[:, None, None]).sum(0) / weights.sum()
    torch.testing.assert_close(state.factor("0", "inputs")[0], expected, rtol=1e-12, atol=1e-12)
