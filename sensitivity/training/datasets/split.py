"""Stratified splits, in which every class has training and test examples."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sensitivity.study.errors import UserError
from sensitivity.study.problem import ProblemSpec

_Rows = npt.NDArray[np.int64]


def split_by_class(classes: _Rows, spec: ProblemSpec) -> tuple[_Rows, _Rows]:
    """Return the training and test examples, shuffled, according to `test_fraction` and `split_seed`.

    Raises:
        UserError: with this fraction a class would have no training or no test example.
    """
    from sklearn.model_selection import train_test_split  # imported here because it takes half a second

    examples, kinds = len(classes), len(np.unique(classes))
    test = math.ceil(spec.test_fraction * examples)
    if min(test, examples - test) < kinds:
        lowest, highest = kinds / examples, (examples - kinds) / examples
        allowed = (
            f"allowed: {lowest:.4g} to {highest:.4g}, or add examples"
            if lowest <= highest
            else f"add examples: there must be at least {2 * kinds:,}"
        )
        raise UserError(
            f"problem.test_fraction: {spec.test_fraction:g} of {examples:,} examples leaves {examples - test:,} for "
            f"training and {test:,} for testing; each of the {kinds:,} classes needs one in both\n  {allowed}"
        )
    try:
        train_rows, test_rows = train_test_split(
            np.arange(examples), test_size=spec.test_fraction, random_state=spec.split_seed, stratify=classes
        )
    except ValueError as error:  # a class with a single example
        raise UserError(
            f"problem.test_fraction: {spec.test_fraction:g} can't split {examples:,} examples by class ({error})\n"
            "  Choose another fraction, or add examples"
        ) from None
    return train_rows, test_rows


def held_out(
    examples: int, fraction: float, seed: int, *, classes: Tensor | None = None, field: str = "validation_fraction"
) -> Tensor:
    """Return the held-out examples, drawn without replacement: `fraction` of all, or of each of `classes`.

    Raises:
        UserError: no example would be held out, or none would be left.
    """
    generator = torch.Generator().manual_seed(seed)
    if classes is None:
        count = round(fraction * examples)
        if not 0 < count < examples:
            raise UserError(
                f"problem.{field}: {fraction:g} of {examples:,} examples holds out {count:,}; at least one must be "
                "held out and one left\n  Choose another fraction, or add examples"
            )
        return torch.randperm(examples, generator=generator)[:count]
    found = []
    for each in torch.unique(classes).tolist():
        rows = (classes == each).nonzero()[:, 0]
        count = round(fraction * len(rows))
        if not 0 < count < len(rows):
            raise UserError(
                f"problem.{field}: {fraction:g} of the {len(rows):,} training examples of class {each} holds out "
                f"{count:,}; each class needs one held out and one left\n  Choose another fraction, or add examples"
            )
        found.append(rows[torch.randperm(len(rows), generator=generator)[:count]])
    return torch.cat(found)
