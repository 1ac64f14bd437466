"""Decoded images, stored in an array file that all workers of a node map into memory.

``images.npy`` holds bytes ``[images, channels, height, width]``, ``classes.npy`` ``[images]``, ``moments.npy`` the sum
and the sum of squares of each image's channels ``[images, 2, channels]``, which give the exact statistics of any
training split without reading pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sensitivity.study.problem import ProblemSpec
from sensitivity.training.datasets.data_folder import writing
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.datasets.kept import kept
from sensitivity.training.datasets.split import split_by_class

_FILES = ("images.npy", "classes.npy", "moments.npy")
_IMAGES = 1024
"""Number of images whose moments are computed at once."""


@dataclass(frozen=True)
class ImageArrays:
    """Decoded images with an official split, or without a split."""

    images: npt.NDArray[np.uint8]
    """``[images, channels, height, width]``, training images first; memory-mapped with copy on write."""
    classes: npt.NDArray[np.int64]
    moments: npt.NDArray[np.int64]
    train_size: int | None
    """Number of training images; None if the study defines the split."""

    def dataset(self, spec: ProblemSpec, *, fingerprint: str = "") -> Dataset:
        """Return the data set for a study, standardised with its training images."""
        train: slice | Tensor
        test: slice | Tensor
        if self.train_size is None:
            train, test = map(torch.from_numpy, split_by_class(self.classes, spec))
        else:
            train, test = slice(self.train_size), slice(self.train_size, None)
        images, classes = torch.from_numpy(self.images), torch.from_numpy(self.classes)
        sums = torch.from_numpy(self.moments)[train]
        pixels = len(sums) * images.shape[2] * images.shape[3]
        mean, square = (sums.sum(0, dtype=torch.int64).double() / pixels).unbind()
        # A constant channel is only centred.
        deviation = (square - mean.square()).clamp_min(0).sqrt()
        deviation = torch.where(deviation > 0, deviation, 1.0)
        return Dataset(
            train_inputs=images[train],
            train_targets=classes[train],
            test_inputs=images[test],
            test_targets=classes[test],
            mean=mean[:, None, None],
            deviation=deviation[:, None, None],
            fingerprint=fingerprint,
        )


Decode = Callable[[Path], tuple[npt.NDArray[np.int64], int | None]]
"""Writes ``images.npy`` to a folder; returns the classes and the number of training images (see ImageArrays)."""


def image_arrays(key: str, decode: Decode) -> ImageArrays:
    """Return the arrays stored under `key`; decode them first if they are missing or damaged.

    Raises:
        UserError: they can't be decoded, or the data folder can't be written.
    """

    def write(scratch: Path) -> dict[str, int | None]:
        classes, train_size = decode(scratch)
        with writing():
            np.save(scratch / "classes.npy", classes)
            np.save(scratch / "moments.npy", _moments(np.load(scratch / "images.npy", mmap_mode="r")))
        return {"train_size": train_size}

    folder, about = kept(key, _FILES, write)
    # Copy on write, because torch does not support read-only arrays; nothing is ever written.
    images, classes, moments = (np.load(folder / name, mmap_mode="c") for name in _FILES)
    return ImageArrays(images, classes, moments, about["train_size"])


def _moments(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    moments = np.empty((len(images), 2, images.shape[1]), np.int64)
    for start in range(0, len(images), _IMAGES):
        some = images[start : start + _IMAGES].astype(np.int64)
        moments[start : start + _IMAGES, 0] = some.sum((2, 3))
        moments[start : start + _IMAGES, 1] = np.square(some).sum((2, 3))
    return moments
