"""One case for every registered optimizer, and a problem small enough to run them all in float64.

Layers are square in the middle and the batch is larger than any of them, so that gradients have full rank;
otherwise, eigenvectors of a factor's null space are arbitrary.
"""

import torch
from torch import nn
from torch.func import grad, vmap

from sensitivity.optimizers.contract import Networks
from sensitivity.optimizers.pack import PackOptimizer
from sensitivity.study.arms import arm_class
from sensitivity.study.load import parse_study
from sensitivity.study.trials import Pack, expand
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.losses import cross_entropy
from sensitivity.training.problems import Problem
from tests.optimizers.references import STEPS, loss_of, start

WILD = 1e9

ARMS = {
    "sgd": {"momentum": [0.5, 0.9], "weight_decay": 1e-3, "nesterov": True, "lr": [0.05, 0.1]},
    "kfac": {"damping": [0.1, 0.3], "weight_decay": 1e-3, "lr": [0.01, 0.03], "inverse_interval": 5},
    "adam": {"beta1": [0.8, 0.9], "weight_decay": 1e-2, "lr": [1e-3, 1e-2]},
    "adamw": {"beta2": [0.9, 0.99], "weight_decay": 0.1, "lr": [1e-3, 1e-2]},
    "nadam": {"beta1": [0.8, 0.9], "weight_decay": 0.1, "decoupled": True, "lr": [1e-3, 1e-2]},
    "rmsprop": {"momentum": [0.0, 0.9], "weight_decay": 1e-3, "centered": True, "lr": [1e-3, 3e-3]},
    "adagrad": {"lr_decay": [0.0, 0.01], "weight_decay": 1e-3, "lr": [1e-2, 3e-2]},
    "lion": {"beta1": [0.8, 0.9], "weight_decay": 0.1, "lr": [1e-4, 1e-3]},
    "sophia": {"beta1": [0.8, 0.9], "weight_decay": 0.1, "hessian_interval": 4, "lr": [1e-3, 3e-3]},
    "muon": {"momentum": [0.8, 0.95], "adam_lr": 3e-3, "weight_decay": 0.1, "lr": [1e-2, 3e-2]},
    "shampoo": {"beta2": [0.9, 0.99], "eps": 1e-6, "weight_decay": 0.1, "precondition_interval": 7, "lr": [1e-3, 1e-2]},
    "soap": {"beta2": [0.9, 0.95], "weight_decay": 0.1, "precondition_interval": 7, "lr": [1e-3, 1e-2]},
    "schedule_free_sgd": {"momentum": [0.8, 0.9], "weight_decay": 1e-3, "lr": [0.1, 0.5]},
    "schedule_free_adamw": {"beta1": [0.8, 0.9], "weight_decay": 1e-2, "lr": [1e-3, 1e-2]},
    "torch.optim:AdamW": {"beta1": [0.8, 0.9], "weight_decay": 0.1, "lr": [1e-3, 1e-2]},
}
"""By kind: hyperparameters with which it trains well, with two values of the first axis and of the learning rate."""


def problem(examples=24):
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(48, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 6, (48,), generator=generator)
    data = Dataset(train_inputs=x, train_targets=y, test_inputs=x[:9], test_targets=y[:9])

    def build():
        layers = (nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
        return nn.Sequential(*layers).double()

    return Problem(dataset=data, build_model=build, loss=cross_entropy, has_classes=True, outputs=6)


def pack(kind, *, steps, batch_size=24, seeds=1, every=5, **changes):
    arm = {"kind": kind, **ARMS[kind], **changes}
    raw = {
        "name": "test",
        "batch_sizes": [batch_size],
        "seeds": seeds,
        "budget": {"steps": steps},
        "evaluation": {"every_steps": every},
        "schedule": {"warmup_epochs": 4, "decay": "cosine"},
        "optimizers": {"a": arm},
    }
    return Pack(expand(parse_study(raw, source="test")))


def losses(result):
    return [loss for m in result.measurements for loss in (m.train_loss, m.test_loss)]


NETWORK = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
GRADIENTS = vmap(grad(loss_of))


def bare(kind, params, **numbers):
    """An optimizer of two members, where the second has a larger learning rate."""
    arm = arm_class(kind).model_validate({"kind": kind, **numbers})
    row = {name: axis.values[0] for name, axis in arm.axes().items()}
    networks = Networks(network=NETWORK, batch_size=24)
    return PackOptimizer(arm.settings(), [row, {**row, "lr": 1.7 * row["lr"]}], params, networks)


def walked(kind, *, steps=STEPS, **numbers):
    """The parameters for evaluation after some steps on the network of references.py, by name."""
    params = {name: torch.stack([value, value]) for name, value in start().items()}
    optimizer = bare(kind, params, **numbers)
    for step in range(steps):
        optimizer.step(params, GRADIENTS(params), 1.0, step=step)
    with optimizer.evaluating(params):
        return {name: value[0].clone() for name, value in params.items()}
