"""Train a network on scikit-learn's digits with K-FAC, as in any PyTorch script, and with SGD for comparison.

    python examples/kfac_training.py --epochs 5

The K-FAC loop differs from the SGD loop in one line: the optimizer is built from the model.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from sensitivity.kfac import KFAC, KFACConfig


def load() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return train images ``[1437, 1, 8, 8]`` and classes, test images and classes."""
    pixels, classes = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, targets = images[order], torch.tensor(classes)[order]
    return images[:1437], targets[:1437], images[1437:], targets[1437:]


def network() -> nn.Module:
    """Return a small convolutional network."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 64), nn.ReLU(),
        nn.Linear(64, 10),
    )  # fmt: skip


def train(model: nn.Module, optimizer: torch.optim.Optimizer, epochs: int, batch: int = 64) -> float:
    """Train, and return the test accuracy."""
    inputs, targets, test_inputs, test_targets = load()
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs), generator=generator).split(batch):
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        return float((model(test_inputs).argmax(1) == test_targets).double().mean())


def main() -> None:
    """Train with both optimizers and print what they reach."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    epochs = parser.parse_args().epochs

    model = network()
    accuracy = train(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), epochs)
    print(f"SGD    test accuracy {accuracy:.1%} after {epochs} epochs")

    model = network()
    optimizer = KFAC(model, KFACConfig(lr=0.01, damping=0.03, momentum=0.9, factor_interval=2, inverse_interval=10))
    accuracy = train(model, optimizer, epochs)
    report = optimizer.report()
    print(f"K-FAC  test accuracy {accuracy:.1%} after {epochs} epochs ({report.failed_steps} steps failed)")


if __name__ == "__main__":
    main()
