"""Conversion of a table's rows to a data set: split at random, by class, by group or by a column, and standardised."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sensitivity.study.errors import UserError
from sensitivity.study.metrics import SPLITS, Split
from sensitivity.study.problem import ColumnsSpec, ProblemSpec
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.datasets.split import held_out


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Examples before splitting."""

    inputs: Tensor
    """``[examples, ...]``."""
    targets: Tensor
    """Classes ``[examples]`` (int64), or numbers ``[examples, outputs]``."""
    splits: Tensor | None = None
    """Index in ``SPLITS`` of each example's split; None if splits are drawn."""
    groups: Tensor | None = None
    """Group number of each example; None if there are no groups."""


def split_rows(rows: Rows, spec: ProblemSpec, fingerprint: str = "") -> Dataset:
    """Return the data set, standardised with its training examples according to ``problem.columns``.

    Raises:
        UserError: a split would have no example.
    """
    places = rows.splits if rows.splits is not None else _drawn(rows, spec)
    shuffled = torch.randperm(len(places), generator=torch.Generator().manual_seed(spec.split_seed))
    chosen = {split: shuffled[places[shuffled] == place] for place, split in enumerate(SPLITS)}
    for split in ("train", "test"):
        if not len(chosen[split]):
            raise UserError(f"problem.columns: no row is for {split}; the split column must contain train and test")
    inputs, targets = rows.inputs, rows.targets
    what = (spec.columns or ColumnsSpec()).standardise
    if what != "none":
        inputs = _standardised(inputs, chosen["train"])
    if what == "all" and targets.is_floating_point() and spec.loss != "binary_cross_entropy":
        targets = _standardised(targets, chosen["train"])
    held = chosen["validation"]
    return Dataset(
        train_inputs=inputs[chosen["train"]],
        train_targets=targets[chosen["train"]],
        test_inputs=inputs[chosen["test"]],
        test_targets=targets[chosen["test"]],
        validation_inputs=inputs[held] if len(held) else None,
        validation_targets=targets[held] if len(held) else None,
        fingerprint=fingerprint,
    )


def _drawn(rows: Rows, spec: ProblemSpec) -> Tensor:
    """Draw the test split from all examples, then the validation split from the rest."""
    places = torch.full((len(rows.inputs),), SPLITS.index("train"))
    wanted: tuple[tuple[Split, float | None], ...] = (
        ("test", spec.test_fraction),
        ("validation", spec.validation_fraction),
    )
    for split, fraction in wanted:
        if fraction is None:
            continue
        left = (places == SPLITS.index("train")).nonzero()[:, 0]
        field = f"{split}_fraction"
        if rows.groups is not None:
            held = _whole_groups(rows.groups[left], fraction, spec.split_seed, field)
        else:
            classes = None if rows.targets.is_floating_point() else rows.targets[left]
            held = held_out(len(left), fraction, spec.split_seed, classes=classes, field=field)
        places[left[held]] = SPLITS.index(split)
    return places


def _whole_groups(groups: Tensor, fraction: float, seed: int, field: str) -> Tensor:
    """Return the examples of whole groups, which are drawn until they make up `fraction` of all examples."""
    numbers, of = torch.unique(groups, return_inverse=True)
    sizes = torch.bincount(of)
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed))
    before = sizes[order].cumsum(0) - sizes[order]
    taken = order[before < fraction * len(groups)]
    if len(taken) == len(numbers):
        raise UserError(
            f"problem.{field}: {fraction:g} of the {len(numbers):,} groups leaves none for training\n"
            "  Choose a smaller fraction, or a column with more groups"
        )
    return torch.isin(of, taken).nonzero()[:, 0]


def _standardised(values: Tensor, train: Tensor) -> Tensor:
    """Standardise values on the training examples, per column, or jointly for arrays with more dimensions."""
    values = values.double()
    axes = (0,) if values.dim() == 2 else tuple(range(values.dim()))
    seen = values[train]
    deviation = seen.std(axes, correction=0, keepdim=True)
    centred = values - seen.mean(axes, keepdim=True)
    return centred / torch.where(deviation > 0, deviation, 1.0)  # a constant column is only centred
