"""Whole trajectories against a K-FAC written as plainly as the papers have it.

The reference keeps sums and weights apart instead of a running average, makes every patch, inverts every Kronecker
product as one dense matrix, and moves one parameter after the other. Settings are drawn at random, one a seed.
"""

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sensitivity.kfac import KFAC, KFACConfig
from sensitivity.kfac.config import is_due

DOUBLE = torch.float64
SCHEDULES = (1, 2, 3, ((0, 1), (3, 2)))


class Net(nn.Module):
    """Two convolutions, one of them grouped, dilated and strided, a layer used twice, and a parameter of its own."""

    def __init__(self, *, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, (2, 3), stride=(1, 2), padding=(0, 1), dilation=(2, 1), groups=2, bias=False)
        self.shift = nn.Parameter(torch.full((4,), 0.1))
        self.twice = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first(x), inplace=self.inplace)
        x = torch.tanh(self.second(x)).mean((2, 3)) + self.shift
        return self.head(torch.tanh(self.twice(torch.tanh(self.twice(x)))))


def made(*, inplace: bool) -> Net:
    torch.manual_seed(0)
    return Net(inplace=inplace).to(DOUBLE)


def batches(steps: int, examples: int = 9) -> Iterator[tuple[Tensor, Tensor]]:
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(examples, 2, 5, 4, generator=generator, dtype=DOUBLE)
        yield x, torch.randint(3, (examples,), generator=generator)


def rows_of(module: nn.Module, x: Tensor, g: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Rows of inputs (with a 1 for the bias) and of output gradients, [rows, d], of every group of one call."""
    if isinstance(module, nn.Conv2d):
        groups, places = module.groups, g[0, 0].numel()
        columns = functional.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)  # type: ignore[arg-type]
        inputs = [c.permute(0, 2, 1).reshape(len(x) * places, -1) for c in columns.chunk(groups, 1)]
        outputs = [c.flatten(2).permute(0, 2, 1).reshape(len(x) * places, -1) for c in g.chunk(groups, 1)]
    else:
        inputs, outputs = [x], [g]
    if module.bias is not None:
        inputs = [torch.cat([a, torch.ones(len(a), 1, dtype=DOUBLE)], 1) for a in inputs]
    return inputs, outputs


class Reference:
    """One K-FAC run; `numbers` maps a parameter's name to its lr, damping, momentum and weight decay."""

    def __init__(self, model: nn.Module, config: KFACConfig, numbers: dict[str, dict[str, float]]) -> None:
        self.model, self.config, self.numbers = model, config, numbers
        self.layers = {n: m for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
        self.sums: dict[tuple[str, int, str], Tensor] = {}
        self.weight, self.steps = 0.0, 0
        self.inverses: dict[tuple[str, int], Tensor] = {}
        self.velocity = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
        self.clip = 1.0

    def step(self, grads: dict[str, Tensor], captures: Any) -> None:
        config, parameters = self.config, dict(self.model.named_parameters())
        if is_due(config.factor_interval, self.steps):
            self.average(captures)
        if is_due(config.inverse_interval, self.steps):
            for name, module in self.layers.items():
                for group in range(getattr(module, "groups", 1)):
                    self.inverses[name, group] = self.inverse(name, group)
        decayed = {n: self.numbers[n]["weight_decay"] * p.detach() for n, p in parameters.items()}
        if not config.decoupled_weight_decay:
            grads = {n: g + decayed[n] for n, g in grads.items()}
        moves = self.clipped({**grads, **self.solved(grads)}, grads)
        for name, p in parameters.items():
            lr, momentum = self.numbers[name]["lr"], self.numbers[name]["momentum"]
            self.velocity[name] = momentum * self.velocity[name] + moves[name]
            update = moves[name] + momentum * self.velocity[name] if config.nesterov else self.velocity[name]
            p.data = p.data - lr * (update + decayed[name] if config.decoupled_weight_decay else update)
        self.steps += 1

    def average(self, captures: Any) -> None:
        decay = self.config.factor_decay
        self.weight = decay * self.weight + 1 - decay
        for key, new in self.factors(captures).items():
            self.sums[key] = decay * self.sums.get(key, torch.zeros_like(new)) + (1 - decay) * new

    def clipped(self, moves: dict[str, Tensor], grads: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.config.kl_clip is None:
            return moves
        covered = [f"{n}.{p}" for n, m in self.layers.items() for p, _ in m.named_parameters()]
        size = sum(float((moves[n] * grads[n]).sum()) * self.numbers[n]["lr"] ** 2 for n in covered)
        self.clip = min(1.0, (self.config.kl_clip / size) ** 0.5)
        return {**moves, **{n: moves[n] * self.clip for n in covered}}

    def factors(self, captures: Any) -> dict[tuple[str, int, str], Tensor]:
        found: dict[tuple[str, int, str], Tensor] = {}
        for name, module in self.layers.items():
            examples = len(captures[name][0].inputs)
            calls = [rows_of(module, call.inputs, call.output_grads * examples) for call in captures[name]]
            for group in range(getattr(module, "groups", 1)):
                a = torch.cat([inputs[group] for inputs, _ in calls])
                g = torch.cat([outputs[group] for _, outputs in calls])
                found[name, group, "inputs"] = a.T @ a / examples
                found[name, group, "outputs"] = g.T @ g / len(g)
        return found

    def inverse(self, name: str, group: int) -> Tensor:
        a, g = (self.sums[name, group, side] / self.weight for side in ("inputs", "outputs"))
        damping = self.numbers[f"{name}.weight"]["damping"]
        if self.config.damping_form == "exact":
            block = torch.kron(g, a)
            return torch.linalg.inv(block + damping * torch.eye(len(block), dtype=DOUBLE))
        # All groups of a layer have the layer's damping, and a π of their own.
        ratio = ((a.trace() / len(a)) / (g.trace() / len(g))) ** 0.5
        damped = [m + damping**0.5 * r * torch.eye(len(m), dtype=DOUBLE) for m, r in ((g, 1 / ratio), (a, ratio))]
        return torch.linalg.inv(torch.kron(*damped))

    def solved(self, grads: dict[str, Tensor]) -> dict[str, Tensor]:
        found = {}
        for name, module in self.layers.items():
            weight = grads[f"{name}.weight"]
            matrix = weight.flatten(1)
            if module.bias is not None:
                matrix = torch.cat([matrix, grads[f"{name}.bias"].unsqueeze(1)], 1)
            parts = matrix.chunk(getattr(module, "groups", 1))
            solved = torch.cat([(self.inverses[name, i] @ m.flatten()).view_as(m) for i, m in enumerate(parts)])
            if module.bias is not None:
                found[f"{name}.bias"], solved = solved[:, -1], solved[:, :-1]
            found[f"{name}.weight"] = solved.reshape(weight.shape)
        return found


def drawn(seed: int) -> tuple[KFACConfig, list[dict[str, float]], bool]:
    """A configuration, the numbers of two parameter groups (equal where there is one), and whether there are two."""
    draw = random.Random(seed)
    config = KFACConfig(
        momentum=0.9,
        nesterov=draw.random() < 0.5,
        decoupled_weight_decay=draw.random() < 0.5,
        kl_clip=draw.choice([None, 1e-3, 1e3]),
        damping_form=draw.choice(["factored", "exact"]),
        factor_decay=draw.choice([0.0, 0.5, 0.95]),
        factor_interval=draw.choice(SCHEDULES),
        inverse_interval=draw.choice(SCHEDULES),
    )
    two = draw.random() < 0.5
    numbers = [
        {
            "lr": draw.choice([0.01, 0.1]),
            "damping": draw.choice([0.01, 0.3]),
            "momentum": draw.choice([0.0, 0.9]),
            "weight_decay": draw.choice([0.0, 0.1]),
        }
        for _ in range(2)
    ]
    return config, numbers if two else numbers[:1] * 2, two


@pytest.mark.parametrize("seed", range(24))
def test_trajectories_are_those_of_a_plain_k_fac(seed: int, truth: Any) -> None:
    config, numbers, two = drawn(seed)
    ours, plain = made(inplace=True), made(inplace=False)
    named = dict(ours.named_parameters())
    front = [n for n in named if n.startswith(("first", "twice"))]
    back = [n for n in named if n not in front]
    groups = [{"params": [named[n] for n in part], **own} for part, own in zip((front, back), numbers, strict=True)]
    if not two:
        groups = [{"params": list(named.values()), **numbers[0]}]
    with pytest.warns(UserWarning, match="the model itself"):
        optimizer = KFAC(ours, config, param_groups=groups)
    reference = Reference(plain, config, {n: numbers[n in back] for n in named})
    for x, y in batches(6):
        optimizer.zero_grad()
        functional.cross_entropy(ours(x.to(memory_format=torch.channels_last)), y).backward()
        report = optimizer.step()
        reference.step(*truth.captures_of(plain, lambda x=x, y=y: functional.cross_entropy(plain(x), y)))
        assert float(report.clip) == pytest.approx(reference.clip, rel=1e-8)
        for name, p in plain.named_parameters():
            torch.testing.assert_close(named[name], p, rtol=1e-8, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
