"""SGD runs compared with an independent loop: torch.optim.SGD on separately loaded and split data."""

import functools
import hashlib

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from sensitivity.training.loop import train_pack


def stream_seed(purpose: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{purpose}/{seed}".encode()).digest()[:4], "big")


@functools.cache
def digits():
    images, classes = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        images, classes, test_size=0.2, random_state=0, stratify=classes
    )
    mean, deviation = train_x.mean(), train_x.std()
    x, y = torch.tensor((train_x - mean) / deviation), torch.tensor(train_y)
    return x, y, torch.tensor((test_x - mean) / deviation), torch.tensor(test_y)


def plain_run(*, lr, momentum, weight_decay, nesterov, batch_size, seed, steps, multipliers):
    x, y, held_x, held_y = digits()
    torch.manual_seed(stream_seed("init", seed))
    network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)).double()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov
    )
    generator = torch.Generator().manual_seed(stream_seed("order", seed))
    passes = steps * batch_size // len(x) + 1
    order = torch.cat([torch.randperm(len(x), generator=generator) for _ in range(passes)])
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * multipliers[step]
        rows = order[step * batch_size : (step + 1) * batch_size]
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
        optimizer.step()
    with torch.no_grad():
        return {
            "train_loss": nn.functional.cross_entropy(network(x), y).item(),
            "test_loss": nn.functional.cross_entropy(network(held_x), held_y).item(),
            "train_accuracy": (network(x).argmax(1) == y).double().mean().item(),
            "test_accuracy": (network(held_x).argmax(1) == held_y).double().mean().item(),
        }


@pytest.mark.parametrize("batch_size", [50, 500])
@pytest.mark.parametrize("nesterov", [False, True])
def test_every_member_of_a_pack_equals_a_plain_pytorch_run(digits64, make_study, pack_of, batch_size, nesterov):
    spec = make_study(
        batch_sizes=[batch_size],
        seeds=[0, 7],
        budget={"steps": 16},
        schedule={"decay_at": [0.5], "decay_factor": 0.1},
        optimizers={
            "sgd": {
                "kind": "sgd",
                "lr": [0.01, 0.1],
                "momentum": [0.5, 0.9],
                "weight_decay": [0.0, 0.01],
                "nesterov": nesterov,
            }
        },
    )
    results = train_pack(pack_of(spec), digits64)
    assert len(results) == 16
    for result in results:
        truth = plain_run(
            **dict(result.trial.hyperparameters),
            nesterov=nesterov,
            batch_size=batch_size,
            seed=result.trial.seed,
            steps=16,
            multipliers=[1.0] * 8 + [0.1] * 8,
        )
        last = result.measurements[-1]
        for metric, value in truth.items():
            assert getattr(last, metric) == pytest.approx(value, rel=1e-9), (result.trial.label(), metric)


def test_warm_up_and_decay_reach_the_update(digits64, make_study, pack_of):
    # 1437 training examples, batch 500: 2 epochs are 6 steps; warm-up over one epoch is 3 steps.
    spec = make_study(
        batch_sizes=[500],
        budget={"epochs": 2},
        evaluation={"every_epochs": 1},
        schedule={"warmup_epochs": 1.0, "decay_at": [0.5, 0.8], "decay_factor": 0.5},
        optimizers={"sgd": {"kind": "sgd", "lr": 0.1, "momentum": 0.9}},
    )
    (result,) = train_pack(pack_of(spec), digits64)
    truth = plain_run(
        lr=0.1,
        momentum=0.9,
        weight_decay=0.0,
        nesterov=False,
        batch_size=500,
        seed=0,
        steps=6,
        multipliers=[1 / 3, 2 / 3, 1.0, 0.5, 0.5, 0.25],
    )
    assert result.steps == 6
    assert result.measurements[-1].train_loss == pytest.approx(truth["train_loss"], rel=1e-9)
    assert [m.step for m in result.measurements] == [0, 3, 6]
    assert [m.epoch for m in result.measurements] == pytest.approx([0, 1500 / 1437, 3000 / 1437])
