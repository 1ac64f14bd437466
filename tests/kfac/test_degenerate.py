"""In degenerate settings K-FAC is a known optimizer."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from sensitivity.kfac import KFAC, Hyperparameters, KFACConfig, init_state, layers_of, step

DOUBLE = torch.float64


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 8),
        nn.Tanh(),
        nn.Linear(8, 3),
    ).to(DOUBLE)


def batches(count: int) -> list[Any]:
    generator = torch.Generator().manual_seed(2)
    return [
        (torch.randn(6, 2, 4, 4, generator=generator, dtype=DOUBLE), torch.randint(3, (6,), generator=generator))
        for _ in range(count)
    ]


@pytest.mark.parametrize("form", ["factored", "exact"])
def test_large_damping_is_sgd_scaled_by_one_over_damping(form: Any) -> None:
    damping = 1e12
    ours, theirs = network(), network()
    config = KFACConfig(lr=0.05 * damping, damping=damping, momentum=0.9, damping_form=form)
    covered = [p for layer in layers_of(ours) for p in (dict(ours.named_parameters())[n] for n in layer.parameters)]
    rest = [p for p in ours.parameters() if all(p is not c for c in covered)]
    optimizer = KFAC(ours, config, param_groups=[{"params": covered}, {"params": rest, "lr": 0.05}])
    reference = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9)
    for x, y in batches(5):
        for model, o in ((ours, optimizer), (theirs, reference)):
            o.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            o.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_identity_factors_are_sgd(decay: float, momentum: float, nesterov: bool, truth: Any) -> None:
    ours, theirs = network(), network()
    config = KFACConfig(momentum=momentum or 0.5, nesterov=nesterov, inverse_interval=100)
    params = {n: p.detach() for n, p in ours.named_parameters()}
    state = init_state(layers_of(ours), params, config)
    for bank in state.factors.values():
        bank.copy_(torch.eye(bank.shape[-1], dtype=DOUBLE))
    state.averaged.fill_(1)
    reference = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=momentum, weight_decay=decay, nesterov=nesterov)
    for x, y in batches(4):
        grads, _ = truth.captures_of(ours, lambda x=x, y=y: functional.cross_entropy(ours(x), y))
        step(
            config,
            state,
            params,
            grads,
            None,
            Hyperparameters(lr=0.1, damping=1e-30, momentum=momentum, weight_decay=decay),
        )
        reference.zero_grad()
        functional.cross_entropy(theirs(x), y).backward()
        reference.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


def test_decoupled_decay_shrinks_the_parameters_by_lr_times_decay(truth: Any) -> None:
    model = network()
    config = KFACConfig(decoupled_weight_decay=True)
    x, y = batches(1)[0]
    grads, captures = truth.captures_of(model, lambda: functional.cross_entropy(model(x), y))
    moved = []
    for decay in (0.0, 0.3):
        params = {n: p.detach().clone() for n, p in model.named_parameters()}
        state = init_state(layers_of(model), params, config)
        step(config, state, params, grads, captures, Hyperparameters(lr=0.1, damping=0.1, weight_decay=decay))
        moved.append(params)
    for name, p in model.named_parameters():
        torch.testing.assert_close(moved[1][name], moved[0][name] - 0.1 * 0.3 * p.detach(), rtol=1e-12, atol=1e-12)


def test_kl_clip_bounds_the_step(truth: Any) -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).to(DOUBLE)
    x, y = torch.randn(6, 5, dtype=DOUBLE), torch.randint(3, (6,))
    grads, captures = truth.captures_of(model, lambda: functional.cross_entropy(model(x), y))
    config = KFACConfig()
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    reports, moves = [], []
    for clip in (None, 1e-5, 1e9):
        params = {n: p.clone() for n, p in start.items()}
        state = init_state(layers_of(model), params, config)
        reports.append(
            step(config, state, params, grads, captures, Hyperparameters(lr=0.3, damping=0.01, kl_clip=clip))
        )
        moves.append({n: params[n] - start[n] for n in params})
    product = sum(float((moves[0][n] / -0.3 * grads[n]).sum()) for n in grads)
    expected = (1e-5 / (0.3**2 * product)) ** 0.5
    assert expected < 1
    torch.testing.assert_close(reports[1].clip, torch.tensor(expected, dtype=DOUBLE))
    torch.testing.assert_close(reports[1].effective_lr, torch.tensor(0.3 * expected, dtype=DOUBLE))
    for name in start:
        torch.testing.assert_close(moves[1][name], expected * moves[0][name])
        torch.testing.assert_close(moves[2][name], moves[0][name])
