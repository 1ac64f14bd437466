"""Batches smaller than the layers are wide: preconditioned in another form, to the result of the plain formula."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from sensitivity.kfac import (
    KFAC,
    Capture,
    Hyperparameters,
    KFACConfig,
    init_state,
    layers_of,
    step,
    step_flops,
    uses_calls,
)

DOUBLE = torch.float64
LR, DAMPING = 0.5, 0.03


def solved(weights: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
    """Precondition a joint gradient as Martens and Grosse (2015, section 6.3) have it, by dense solves."""
    ratio = ((inputs.trace() / len(inputs)) / (outputs.trace() / len(outputs))).sqrt()
    a = inputs + ratio * DAMPING**0.5 * torch.eye(len(inputs), dtype=DOUBLE)
    g = outputs + DAMPING**0.5 / ratio * torch.eye(len(outputs), dtype=DOUBLE)
    return torch.linalg.solve(g, torch.linalg.solve(a, weights.mT).mT)


class Wide(nn.Module):
    """Two layers wide enough that calls pay, one of them used twice, and a narrow one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(300, 280)
        self.twice = nn.Linear(280, 280, bias=False)
        self.head = nn.Linear(280, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        return self.head(torch.tanh(self.twice(torch.tanh(self.twice(x)))))


def trained(model: nn.Module, config: KFACConfig) -> tuple[KFAC, Callable[..., None]]:
    """Give an optimizer, and a function that takes a step and compares it with the plain formula."""
    optimizer, drawn = KFAC(model, config), torch.Generator().manual_seed(0)

    def take(meddle: Callable[[], Any] = lambda: None, parts: int = 1) -> None:
        optimizer.zero_grad()
        for _ in range(parts):
            x = torch.randn(6, 300, generator=drawn, dtype=DOUBLE)
            (functional.cross_entropy(model(x), torch.randint(4, (6,), generator=drawn)) / parts).backward()
            if parts == 1:
                x.zero_()  # a buffer that is filled anew
        meddle()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        grads = {name: p.grad.clone() for name, p in model.named_parameters()}
        optimizer.step()
        for name in ("first", "twice", "head"):
            own = [n for n in (f"{name}.weight", f"{name}.bias") if n in before]
            joint = torch.cat([grads[n].reshape(len(grads[n]), -1) for n in own], 1)
            factors = [optimizer.kfac.factor(name, side)[0] for side in ("inputs", "outputs")]
            now = {n: p.detach() for n, p in model.named_parameters()}
            moved = torch.cat([(before[n] - now[n]).reshape(len(joint), -1) for n in own], 1)
            torch.testing.assert_close(moved, LR * solved(joint, *factors), rtol=1e-8, atol=1e-12)

    return optimizer, take


def test_every_step_is_that_of_the_plain_formula() -> None:
    model = Wide().to(DOUBLE)
    config = KFACConfig(lr=LR, damping=DAMPING, momentum=0.0, factor_interval=3, inverse_interval=1)
    _, take = trained(model, config)
    for _ in range(5):
        take()


def test_it_costs_less_on_steps_with_and_without_new_factors() -> None:
    costs = []
    for batch in (6, 400):
        model = nn.Sequential(nn.Linear(300, 280))
        optimizer = KFAC(model, KFACConfig(lr=LR, damping=DAMPING, factor_interval=2, inverse_interval=100))
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(batch, 300)).square().mean().backward()
            with FlopCounterMode(display=False) as counter:
                optimizer.step()
            costs.append(counter.get_total_flops())
    layers, config = layers_of(model), KFACConfig()
    full = step_flops(layers, config, examples=400, calls=True).precondition
    thin = step_flops(layers, config, examples=6, calls=True).precondition
    assert full == 2 * 280 * 301 * (280 + 301)
    assert thin == 2 * 6 * (300 * 301 + 280 * 280 + 301 * 280)
    # Inverses come by LAPACK, and gradients are tried on vectors: neither is counted.
    assert costs == [thin] * 3 + [full] * 3


@pytest.mark.parametrize(
    "case", ["clipped", "behind its back", "replaced", "elsewhere", "accumulated", "taken twice", "without"]
)
def test_gradients_that_are_no_longer_those_of_the_calls_count(case: str) -> None:
    model = Wide().to(DOUBLE)
    _, take = trained(model, KFACConfig(lr=LR, damping=DAMPING, momentum=0.0, inverse_interval=1))
    take()
    weight = model.first.weight

    def noise() -> None:
        weight.grad.data.add_(torch.randn(weight.shape, dtype=DOUBLE), alpha=0.01 * float(weight.grad.std()))

    def replace() -> None:
        weight.grad = torch.randn_like(weight)

    meddle: dict[str, Callable[[], Any]] = {
        "clipped": lambda: nn.utils.clip_grad_norm_(model.parameters(), 1e-2),
        "behind its back": noise,
        "replaced": replace,
        "elsewhere": lambda: (weight.square().sum() * 0.1).backward(),
        "taken twice": lambda: model.twice.weight.grad.mul_(2),
        "without": lambda: model.first.bias.grad.zero_(),
    }
    take(meddle.get(case, lambda: None), parts=2 if case == "accumulated" else 1)
    take()


def test_a_weight_decay_adds_to_the_gradient() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(6, 300, dtype=DOUBLE), torch.randint(4, (6,))
    moved = []
    for decay in (0.0, 0.25):
        torch.manual_seed(1)
        model = Wide().to(DOUBLE)
        optimizer = KFAC(model, KFACConfig(lr=LR, damping=DAMPING, momentum=0.0, weight_decay=decay))
        start, penalty = model.first.weight.detach().clone(), 0.25 - decay
        functional.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for p in model.parameters():
                p.grad.add_(p, alpha=penalty)
        optimizer.step()
        moved.append(model.first.weight.detach() - start)
    torch.testing.assert_close(*moved, rtol=1e-9, atol=1e-13)


def test_a_restored_run_goes_on_bit_for_bit() -> None:
    def run(model: nn.Module, optimizer: KFAC, steps: range) -> None:
        for i in steps:
            x = torch.randn(6, 300, generator=torch.Generator().manual_seed(i))
            optimizer.zero_grad()
            functional.cross_entropy(model(x), torch.arange(6) % 4).backward()
            optimizer.step()

    config = KFACConfig(lr=0.01, damping=DAMPING, factor_interval=4, inverse_interval=4)
    model = Wide()
    optimizer = KFAC(model, config)
    run(model, optimizer, range(6))
    twin = Wide()
    twin.load_state_dict(model.state_dict())
    other = KFAC(twin, config)
    other.load_state_dict(optimizer.state_dict())
    run(model, optimizer, range(6, 10))
    run(twin, other, range(6, 10))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("trials", [(), (3,), (2, 2)])
@pytest.mark.parametrize("form", ["factored", "exact"])
def test_a_step_with_its_calls_is_the_step_without(truth: Any, trials: tuple[int, ...], form: Any) -> None:
    config = KFACConfig(damping_form=form, factor_interval=2)
    models = [nn.Sequential(nn.Linear(12, 40), nn.Tanh(), nn.Linear(40, 40, bias=False)).to(DOUBLE) for _ in range(4)]
    models = models[: max(1, torch.tensor(trials).prod().int())]
    ways = []
    for given in (False, True):
        params = joined([{n: p.detach() for n, p in m.named_parameters()} for m in models], trials)
        state = init_state(layers_of(models[0]), params, config)
        for index in range(3):
            grads, captures = [], []
            for seed, model in enumerate(models):
                x = torch.randn(5, 12, dtype=DOUBLE, generator=torch.Generator().manual_seed(10 * seed + index))
                g, c = truth.captures_of(model, lambda m=model, x=x: m(x).square().mean())
                grads.append(g)
                captures.append({name: calls[0] for name, calls in c.items()})
            calls = {
                name: [
                    Capture(
                        joined([{"x": c[name].inputs} for c in captures], trials)["x"],
                        joined([{"g": c[name].output_grads} for c in captures], trials)["g"],
                    )
                ]
                for name in ("0", "2")
            }
            numbers = Hyperparameters(lr=0.3, damping=0.1)
            step(
                *(config, state, params, joined(grads, trials), calls if index % 2 == 0 else None, numbers),
                calls=calls if given else None,
            )
        ways.append(params)
    assert all(uses_calls(layer, 5) for layer in layers_of(models[0]))
    for name, without in ways[0].items():
        torch.testing.assert_close(ways[1][name], without, rtol=1e-10, atol=1e-14)


def joined(parts: list[dict[str, Tensor]], trials: tuple[int, ...]) -> dict[str, Tensor]:
    return {n: torch.stack([p[n] for p in parts]).reshape(*trials, *parts[0][n].shape).clone() for n in parts[0]}
