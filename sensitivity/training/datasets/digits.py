"""The digits included in scikit-learn, without a download; split once and stored with the other data sets."""

from __future__ import annotations

import functools
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from sensitivity.study.errors import UserError
from sensitivity.study.problem import ProblemSpec
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.datasets.image_arrays import image_arrays
from sensitivity.training.datasets.split import split_by_class


def digits(spec: ProblemSpec) -> Dataset:
    """Return scikit-learn's digits: 1,797 images ``[1, 8, 8]`` of ten classes (Alpaydin & Kaynak 1998).

    The test split is stratified by class and fixed by `split_seed`. Inputs are standardised with the mean and
    standard deviation of all training pixels (one channel), so that rarely used pixels are not amplified.
    """
    key = f"digits-{version('scikit-learn')}-{spec.test_fraction}-{spec.split_seed}"
    decode = functools.partial(_decode, spec)
    try:
        arrays = image_arrays(key, decode)
        images, classes, train_size = arrays.images, arrays.classes, arrays.train_size
    except UserError:  # the data folder can't be written, so they are made in memory
        with tempfile.TemporaryDirectory() as scratch:
            classes, train_size = decode(Path(scratch))
            images = np.load(Path(scratch) / "images.npy")
    train, test = slice(train_size), slice(train_size, None)
    pixels = images.astype(np.float64)
    standardised = (pixels - pixels[train].mean()) / pixels[train].std()
    inputs, targets = torch.from_numpy(standardised), torch.from_numpy(classes)
    return Dataset(
        train_inputs=inputs[train], train_targets=targets[train], test_inputs=inputs[test], test_targets=targets[test]
    )


def _decode(spec: ProblemSpec, folder: Path) -> tuple[npt.NDArray[np.int64], int]:
    """Split the images and store them, training images first."""
    from sklearn.datasets import load_digits  # imported here because it takes a second

    images, classes = load_digits(return_X_y=True)
    train, test = split_by_class(classes, spec)
    rows = np.concatenate([train, test])
    np.save(folder / "images.npy", images[rows].astype(np.uint8).reshape(-1, 1, 8, 8))
    return classes[rows].astype(np.int64), len(train)
