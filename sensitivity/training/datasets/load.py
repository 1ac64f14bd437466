"""From what a study names to its data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sensitivity.study.errors import UserError
from sensitivity.study.problem import IMAGE_FOLDER, ProblemSpec
from sensitivity.training.datasets import downloaded
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.datasets.digits import digits
from sensitivity.training.datasets.image_folder import image_folder
from sensitivity.training.datasets.own import user_dataset
from sensitivity.training.datasets.text import text
from sensitivity.training.noisy_quadratic import noisy_quadratic


def load_dataset(spec: ProblemSpec, *, folder: Path | None) -> Dataset:
    """Return the data set that a study names, or the part of it that the study trains and tests on.

    Args:
        spec: what is asked for.
        folder: where the study file lies, for paths relative to it.

    Raises:
        UserError: it can't be had; the message says what to do.
    """
    whole = _whole(spec, folder)
    train = _drawn(len(whole.train_inputs), spec.train_subset, spec.split_seed, "train_subset", "training")
    test = _drawn(len(whole.test_inputs), spec.test_subset, spec.split_seed, "test_subset", "test")
    return replace(
        whole,
        train_inputs=whole.train_inputs if train is None else whole.train_inputs[train],
        train_targets=whole.train_targets if train is None else whole.train_targets[train],
        test_inputs=whole.test_inputs if test is None else whole.test_inputs[test],
        test_targets=whole.test_targets if test is None else whole.test_targets[test],
    )


def _whole(spec: ProblemSpec, folder: Path | None) -> Dataset:
    if spec.dataset == "digits":
        return digits(spec)
    if spec.dataset == "noisy_quadratic":
        return noisy_quadratic()
    if spec.dataset in downloaded.NAMES:
        return downloaded.downloaded(spec)
    if spec.dataset.startswith(IMAGE_FOLDER):
        return image_folder(spec, beside=folder)
    if spec.is_text:
        return text(spec, beside=folder)
    return user_dataset(spec)


def _drawn(available: int, wanted: int | None, seed: int, field: str, split: str) -> Tensor | None:
    """Return which examples a subset keeps, drawn without replacement, shuffled; None keeps all."""
    if wanted is None:
        return None
    if wanted > available:
        raise UserError(
            f"problem.{field}: {wanted} is more than the {split} set has; allowed: 1 to {available}, or leave it out"
        )
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(available, generator=generator)[:wanted]
