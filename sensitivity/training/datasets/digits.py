"""scikit-learn's digits: no download."""

from __future__ import annotations

import torch
from torch import Tensor

from sensitivity.study.spec import ProblemSpec
from sensitivity.training.datasets.dataset import Dataset


def digits(spec: ProblemSpec) -> Dataset:
    """Return scikit-learn's digits: 1,797 images ``[1, 8, 8]`` of ten classes (Alpaydin & Kaynak 1998).

    The test split is stratified by class and fixed by `split_seed`. Inputs are standardised with the mean
    and deviation of all training pixels (one channel), so that no rare pixel is blown up.
    """
    from sklearn.datasets import load_digits  # here: half a second that a problem of the user's own does not need
    from sklearn.model_selection import train_test_split

    images, classes = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        images, classes, test_size=spec.test_fraction, random_state=spec.split_seed, stratify=classes
    )
    mean, deviation = train_x.mean(), train_x.std()

    def inputs(pixels: object) -> Tensor:
        return torch.as_tensor((pixels - mean) / deviation).reshape(-1, 1, 8, 8)

    return Dataset(
        train_inputs=inputs(train_x),
        train_targets=torch.as_tensor(train_y).long(),
        test_inputs=inputs(test_x),
        test_targets=torch.as_tensor(test_y).long(),
    )
