"""Loading of the data set that a study names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sensitivity.study.errors import UserError
from sensitivity.study.problem import IMAGE_FOLDER, TABLE, ProblemSpec
from sensitivity.training.datasets import downloaded
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.datasets.diabetes import diabetes
from sensitivity.training.datasets.digits import digits
from sensitivity.training.datasets.own import user_dataset
from sensitivity.training.datasets.own_arrays import as_tensor
from sensitivity.training.datasets.split import held_out
from sensitivity.training.datasets.stand_in import is_missing, stand_in
from sensitivity.training.datasets.streams import chosen
from sensitivity.training.datasets.table import table
from sensitivity.training.datasets.text import text
from sensitivity.training.noisy_quadratic import noisy_quadratic


def load_dataset(spec: ProblemSpec, *, folder: Path | None, for_price: bool = False) -> Dataset:
    """Return the data set of a study, reduced to the examples that the study uses.

    Args:
        spec: the problem's table of the study file.
        folder: folder of the study file, for relative paths.
        for_price: whether to return a placeholder of the same size for a data set that is not downloaded yet.

    Raises:
        UserError: it is unavailable; the message contains the fix.
    """
    whole = stand_in(spec.dataset) if for_price and is_missing(spec.dataset) else _whole(spec, folder)
    train = _drawn(len(whole.train_inputs), spec.train_subset, spec.split_seed, "train_subset", "training")
    test = _drawn(len(whole.test_inputs), spec.test_subset, spec.split_seed, "test_subset", "test")
    whole = replace(
        whole,
        train_inputs=whole.train_inputs if train is None else whole.train_inputs[train],
        train_targets=whole.train_targets if train is None else whole.train_targets[train],
        test_inputs=whole.test_inputs if test is None else whole.test_inputs[test],
        test_targets=whole.test_targets if test is None else whole.test_targets[test],
    )
    if spec.validation_fraction is None or whole.validation_inputs is not None:
        return whole
    return _with_validation(whole, spec.validation_fraction, spec.split_seed)


def _with_validation(whole: Dataset, fraction: float, seed: int) -> Dataset:
    """Hold out a part of the training examples, stratified if targets are single classes."""
    rows = held_out(whole.train_size, fraction, seed, classes=whole.train_targets if _by_class(whole) else None)
    kept = torch.ones(whole.train_size, dtype=torch.bool)
    kept[rows] = False
    train = whole.train_inputs, whole.train_targets
    if whole.mapped is None:
        train = whole.train_inputs[kept], whole.train_targets[kept]
    else:  # the remaining examples may be larger than memory
        where = "problem.validation_fraction"
        left = chosen(*train, kept.nonzero()[:, 0], where)
        train = as_tensor(left[0], where), as_tensor(left[1], where)
    return replace(
        whole,
        train_inputs=train[0],
        train_targets=train[1],
        validation_inputs=whole.train_inputs[rows],
        validation_targets=whole.train_targets[rows],
    )


def _by_class(whole: Dataset) -> bool:
    return whole.train_targets.dim() == 1 and not whole.train_targets.is_floating_point()


def _whole(spec: ProblemSpec, folder: Path | None) -> Dataset:
    if spec.dataset == "digits":
        return digits(spec)
    if spec.dataset == "diabetes":
        return diabetes(spec)
    if spec.dataset == "noisy_quadratic":
        return noisy_quadratic()
    if spec.dataset in downloaded.NAMES:
        return downloaded.downloaded(spec)
    if spec.dataset.startswith(IMAGE_FOLDER):
        from sensitivity.training.datasets.image_folder import image_folder  # only this one needs Pillow

        return image_folder(spec, beside=folder)
    if spec.is_text:
        return text(spec, beside=folder)
    if spec.dataset.startswith(TABLE):
        return table(spec, beside=folder)
    return user_dataset(spec)


def _drawn(available: int, wanted: int | None, seed: int, field: str, split: str) -> Tensor | None:
    """Return the examples of a subset, drawn without replacement and shuffled; None for all."""
    if wanted is None:
        return None
    if wanted > available:
        raise UserError(
            f"problem.{field}: {wanted} is more than the {split} set has; allowed: 1 to {available}, or remove it"
        )
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(available, generator=generator)[:wanted]
