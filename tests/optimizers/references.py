"""Trajectories of established implementations on a small network in float64.

Run with pytorch_optimizer 4.1.0, lion-pytorch 0.2.5 and schedulefree 1.4.1 installed, this file writes golden.json,
where the tests find the trajectories of packages that need not be installed:

    python tests/optimizers/references.py
"""

import json
from pathlib import Path

import torch

GOLDEN = Path(__file__).with_name("golden.json")
SHAPES = {"0.weight": (6, 6), "0.bias": (6,), "2.weight": (6, 6), "2.bias": (6,)}
STEPS = 20
_GENERATOR = torch.Generator().manual_seed(2)
X = torch.randn(24, 6, generator=_GENERATOR, dtype=torch.float64)
Y = torch.randn(24, 6, generator=_GENERATOR, dtype=torch.float64)


def start():
    generator = torch.Generator().manual_seed(1)
    return {name: 0.5 * torch.randn(s, generator=generator, dtype=torch.float64) for name, s in SHAPES.items()}


def loss_of(params):
    """Mean squared error of a network with one hidden layer on 24 examples, more than the inputs of any layer."""
    hidden = torch.tanh(X @ params["0.weight"].T + params["0.bias"])
    return (hidden @ params["2.weight"].T + params["2.bias"] - Y).square().mean()


def trajectory(build, *, evaluated=False):
    """The parameters, by name, after the last step of the optimizer that `build` creates for a list of parameters."""
    params = {name: torch.nn.Parameter(value) for name, value in start().items()}
    optimizer = build(list(params.values()))
    for each in optimizer if isinstance(optimizer, tuple) else (optimizer,):
        if hasattr(each, "train"):
            each.train()
    for _ in range(STEPS):
        for parameter in params.values():
            parameter.grad = None
        loss_of(params).backward()
        for each in optimizer if isinstance(optimizer, tuple) else (optimizer,):
            each.step()
    if evaluated:
        optimizer.eval()
    return {name: parameter.detach().clone() for name, parameter in params.items()}


def foreign():
    """By name: an optimizer of an optional package, and whether it has separate parameters for evaluation."""
    import lion_pytorch
    import pytorch_optimizer
    import schedulefree

    return {
        "lion": (lambda p: lion_pytorch.Lion(p, lr=1e-2, betas=(0.8, 0.95), weight_decay=0.1), False),
        "schedule_free_sgd": (
            lambda p: schedulefree.SGDScheduleFree(p, lr=0.3, momentum=0.8, weight_decay=0.01), True,
        ),
        "schedule_free_adamw": (
            lambda p: schedulefree.AdamWScheduleFree(p, lr=0.03, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.01), True,
        ),
        "soap": (
            lambda p: pytorch_optimizer.SOAP(
                p, lr=0.01, betas=(0.9, 0.95), weight_decay=0.1, precondition_frequency=4, eps=1e-8
            ), False,
        ),
        "shampoo": (lambda p: pytorch_optimizer.Shampoo(p, lr=0.05, matrix_eps=1e-3), False),
    }  # fmt: skip


if __name__ == "__main__":
    found = {name: trajectory(build, evaluated=evaluated) for name, (build, evaluated) in foreign().items()}
    content = {name: {key: value.tolist() for key, value in params.items()} for name, params in found.items()}
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n")
