"""K-FAC optimises: fewer steps than tuned SGD on digits, and the known gap on a deep autoencoder.

Both optimizers get the same momentum and as many trials of a fixed grid, the best of which counts, on each seed: SGD
spends them on learning rates, which bracket its best, K-FAC on learning rates times dampings. No clip.
"""

import functools
import math
from collections.abc import Iterator
from itertools import islice, pairwise, product

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from sensitivity.kfac import KFAC, KFACConfig, LevenbergMarquardt

MOMENTUM = 0.9


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    return torch.tensor(data.data / 16.0, dtype=torch.float32), torch.tensor(data.target)


def classifier(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def train_losses(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> Iterator[float]:
    """Loss on all the training data after each step."""
    x, y = digits()
    generator = torch.Generator().manual_seed(seed)
    while True:
        index = torch.randint(len(x), (128,), generator=generator)
        optimizer.zero_grad()
        functional.cross_entropy(model(x[index]), y[index]).backward()
        optimizer.step()
        with torch.no_grad():
            yield functional.cross_entropy(model(x), y).item()


def test_reaches_the_loss_of_tuned_sgd_in_fewer_steps() -> None:
    """The best loss that SGD reaches anywhere in 90 steps at any of its rates, and when K-FAC first reaches it."""
    budget, shares = 90, []
    for seed in range(3):
        best = math.inf
        for rate in (0.1, 0.2, 0.4, 0.8):
            model = classifier(seed)
            sgd = torch.optim.SGD(model.parameters(), lr=rate, momentum=MOMENTUM)
            best = min(best, *islice(train_losses(model, sgd, seed), budget))
        needed = 10 * budget
        for rate, damping in product((0.03, 0.06), (0.03, 0.1)):
            model = classifier(seed)
            ours = KFAC(model, KFACConfig(lr=rate, damping=damping, momentum=MOMENTUM, inverse_interval=2))
            losses = islice(train_losses(model, ours, seed), min(needed, budget))
            needed = next((i + 1 for i, loss in enumerate(losses) if loss <= best), needed)
        shares.append(needed / budget)
    assert max(shares) < 0.9
    assert sum(shares) / len(shares) < 0.75


def autoencoder(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    widths = (64, 48, 32, 24, 12, 6, 12, 24, 32, 48)
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(48, 64))


def reconstruction(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
    """Half the squared error of 400 digits after some steps on all of them; a K-FAC adapts its damping."""
    x = digits()[0][:400]

    def error(outputs: Tensor) -> Tensor:
        return 0.5 * (outputs - x).square().sum() / len(x)

    for _ in range(steps):
        optimizer.zero_grad()
        outputs = model(x)
        loss = error(outputs)
        if isinstance(optimizer, KFAC):
            optimizer.observe(outputs)
        loss.backward()
        optimizer.step()
        if isinstance(optimizer, KFAC):
            with torch.no_grad():
                optimizer.adapt_damping(loss.item(), error(model(x)).item())
    return error(model(x)).item()


@pytest.mark.parametrize("seed", range(2))
def test_a_deep_autoencoder_shows_the_known_gap(seed: int) -> None:
    """Ten layers, 150 steps on all the data; SGD's largest rate diverges."""
    steps, plain, ours = 150, [], []
    for rate in (0.025, 0.05, 0.1, 0.2):
        model = autoencoder(seed)
        plain.append(reconstruction(model, torch.optim.SGD(model.parameters(), lr=rate, momentum=MOMENTUM), steps))
    for rate, damping in product((0.05, 0.1), (1.0, 10.0)):
        model = autoencoder(seed)
        config = KFACConfig(
            lr=rate,
            damping=damping,
            momentum=MOMENTUM,
            fisher="monte_carlo",
            loss="squared_error",
            inverse_interval=1,
            levenberg_marquardt=LevenbergMarquardt(interval=1, grow=1.2),
        )
        ours.append(reconstruction(model, KFAC(model, config), steps))
    assert not math.isfinite(plain[-1])
    assert min(ours) < 0.6 * min(value for value in plain if math.isfinite(value))
