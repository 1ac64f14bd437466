"""Placeholder images of the same number and size as a data set that is not downloaded yet, to estimate costs."""

from __future__ import annotations

import torch
from torch import Tensor

from sensitivity.training.datasets.data_folder import data_folder
from sensitivity.training.datasets.dataset import Dataset

_SIZES: dict[str, tuple[int, int, tuple[int, int, int], int]] = {
    "mnist": (60_000, 10_000, (1, 28, 28), 10),
    "fashion_mnist": (60_000, 10_000, (1, 28, 28), 10),
    "cifar10": (50_000, 10_000, (3, 32, 32), 10),
    "cifar100": (50_000, 10_000, (3, 32, 32), 100),
    "svhn": (73_257, 26_032, (3, 32, 32), 10),
}
"""Numbers of training and test images, image shape, and number of classes."""
_DIFFERENT = 512


def is_missing(name: str) -> bool:
    """Whether a data set would have to be downloaded."""
    kept = data_folder()
    downloads = kept / "downloads" / name
    there = downloads.is_dir() and any(downloads.rglob("*"))
    return name in _SIZES and not (kept / "arrays" / name / "about.json").exists() and not there


def stand_in(name: str) -> Dataset:
    """Return a placeholder with repeated random images and alternating classes."""
    train, test, shape, classes = _SIZES[name]
    some = torch.randint(0, 256, (_DIFFERENT, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def images(count: int) -> Tensor:
        return some.repeat(-(-count // _DIFFERENT), 1, 1, 1)[:count]

    return Dataset(
        train_inputs=images(train),
        train_targets=torch.arange(train) % classes,
        test_inputs=images(test),
        test_targets=torch.arange(test) % classes,
        mean=torch.full((shape[0], 1, 1), 127.5),
        deviation=torch.full((shape[0], 1, 1), 74.0),
        is_stand_in=True,
    )
