"""Kind of a problem's targets, checked against its loss, and the number of outputs of its model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sensitivity.study.errors import UserError
from sensitivity.study.metrics import QUANTITIES
from sensitivity.study.problem import LOSSES, ProblemSpec
from sensitivity.training.datasets.dataset import Dataset, are_sequences
from sensitivity.training.datasets.pieces import pieces, used_classes
from sensitivity.training.losses import IGNORED, is_ignored

_MANY_CLASSES = 1_000
_NARROW = (torch.uint8, torch.uint16, torch.int32)
"""Dtypes in which tokens may be stored, besides int64."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Properties of a data set's targets."""

    are_classes: bool
    """Whether they are classes (int64) rather than numbers."""
    outputs: int
    """Number of model outputs per loss term."""
    masked: bool
    """Whether some targets are ``IGNORED``."""


def targets_of(spec: ProblemSpec, dataset: Dataset) -> Targets:
    """Return the properties of the targets, checked against the loss, the metrics and the declared outputs.

    Raises:
        UserError: the targets do not match these.
    """
    own_loss = spec.loss not in LOSSES
    classes = spec.loss == "cross_entropy" or (own_loss and dataset.train_targets.dtype == torch.int64)
    where = f'problem.dataset: {spec.dataset}: loss = "{spec.loss}" needs'
    for inputs, given in dataset.splits:
        _require_form(spec, given, where, classes=classes, own_loss=own_loss)
        if classes and given.dim() > 1:
            _require_sequences(spec, inputs, given)
    _require_metrics(spec, classes=classes)
    masked = classes and any(bool(is_ignored(part).any()) for given in dataset.targets for part in pieces(given))
    if classes:
        found = Targets(are_classes=True, outputs=_classes(spec, dataset), masked=masked)
        _require_classes(spec, found.outputs)
        return found
    size = int(dataset.train_targets.shape[-1]) if dataset.train_targets.dim() > 1 else 1
    if spec.outputs not in (None, size) and not own_loss:
        raise UserError(
            f'problem.outputs: {spec.outputs}, but a target has {size} numbers, and loss = "{spec.loss}" compares them '
            "one by one; remove it"
        )
    return Targets(are_classes=False, outputs=spec.outputs or size, masked=False)


def _require_form(spec: ProblemSpec, given: Tensor, where: str, *, classes: bool, own_loss: bool) -> None:
    got = f"got {str(given.dtype).removeprefix('torch.')} {list(given.shape)}"
    if classes:
        whole = given.dtype == torch.int64 or (given.dim() > 1 and given.dtype in _NARROW)
        least = _least(given) if whole and given.numel() else 0
        if not whole or least < 0 or _one_hot(given) or given.shape[1:] == (1,):
            raise UserError(
                f"{where} targets that are classes: int64 of shape [examples], from 0; {got}{_classes_fix(given)}"
            )
        return
    if own_loss:
        return
    if given.dim() < 2 or not given.is_floating_point():
        fix = " (y.float())" * (not given.is_floating_point()) + " (y[:, None])" * (given.dim() == 1)
        raise UserError(f"{where} floating-point targets of shape [examples, outputs]; {got}{fix}")
    if spec.loss == "binary_cross_entropy":
        low = min(float(part.min()) for part in pieces(given))
        high = max(float(part.max()) for part in pieces(given))
        if low < 0 or high > 1:
            raise UserError(f"{where} a target from 0 to 1 for each label; they range from {low:g} to {high:g}")


def _require_sequences(spec: ProblemSpec, inputs: Tensor, given: Tensor) -> None:
    """Reject targets whose length differs from that of their sequences, and sequences with only masked targets."""
    if not are_sequences(inputs, given):
        raise UserError(
            f"problem.dataset: {spec.dataset}: targets {list(given.shape)} are a class at each position of sequences; "
            f"inputs must be ids of that shape, or [examples, {given.shape[1]}, features]; "
            f"got {str(inputs.dtype).removeprefix('torch.')} {list(inputs.shape)}"
        )
    if (empty := sum(int(is_ignored(part).all(1).sum()) for part in pieces(given))) > 0:
        raise UserError(
            f"problem.dataset: {spec.dataset}: {empty:,} of {len(given):,} sequences have no target but {IGNORED}; "
            "remove them"
        )


def _require_metrics(spec: ProblemSpec, *, classes: bool) -> None:
    """Reject shipped metrics that are not defined for the targets of a user's loss; others were checked earlier."""
    for name, declared in spec.metrics.items():
        needs = QUANTITIES[name].needs if declared.shipped else ""
        if (classes and needs == "values") or (not classes and needs == "classes"):
            got = "classes" if classes else "numbers"
            raise UserError(f"problem.metrics.{name}: is not defined for targets that are {got}; remove it")


def _require_classes(spec: ProblemSpec, classes: int) -> None:
    """Reject a wrong number of class weights, and top-5 accuracy with at most five classes."""
    weights = spec.loss_arguments.get("class_weights") if spec.loss in LOSSES else None
    if weights is not None and len(weights) != classes:
        raise UserError(
            f"problem.loss_arguments.class_weights: {len(weights)} numbers; give one for each of the {classes} classes"
        )
    if "top5_accuracy" in spec.metrics and classes <= 5:
        raise UserError(f"problem.metrics.top5_accuracy: it is always 100% with {classes} outputs; remove it")


def _classes(spec: ProblemSpec, dataset: Dataset) -> int:
    vocabulary = 0 if dataset.token_bytes is None else len(dataset.token_bytes)
    largest = max(vocabulary - 1, *(int(part.max()) for given in dataset.targets for part in pieces(given)))
    if spec.outputs is None:
        _refuse_sparse_classes(spec, dataset, largest + 1)
        return largest + 1
    if largest >= spec.outputs:
        raise UserError(
            f"problem.outputs: {spec.outputs}, but the targets of {spec.dataset} have the class {largest}; classes are "
            f"counted from 0, so at least {largest + 1} outputs are needed"
        )
    return spec.outputs


def _refuse_sparse_classes(spec: ProblemSpec, dataset: Dataset, classes: int) -> None:
    """Reject numbers that are not classes, such as ids: the network would have an output for each possible number."""
    used = len(used_classes(pieces(dataset.train_targets)))
    if dataset.token_bytes is None and classes > _MANY_CLASSES and classes > 2 * used:
        raise UserError(
            f"problem.dataset: {spec.dataset}: {classes - used:,} of the {classes:,} classes (0 to {classes - 1:,}) "
            "have no training example\n  Number the classes from 0 without gaps, or set problem.outputs"
        )


def _least(given: Tensor) -> int:
    """Return the smallest unmasked class; -1 if all are masked."""
    kept = (part[~is_ignored(part)] for part in pieces(given))
    return min((int(part.min()) for part in kept if len(part)), default=-1)


def _one_hot(given: Tensor) -> bool:
    """Whether targets ``[examples, n]`` are one-hot, in contrast to sequences of classes."""
    return (
        given.dim() == 2
        and given.shape[1] > 1
        and all(bool((part.sum(1) == 1).all() and (part.amax(1) == 1).all()) for part in pieces(given))
    )


def _classes_fix(given: Tensor) -> str:
    if given.dim() == 2 and not given.is_floating_point() and _least(given) < 0:
        if all(bool(is_ignored(each).all()) for each in pieces(given)):
            return f", every one {IGNORED}: no position has a target"
        return f", the smallest {_least(given)}; use {IGNORED} for positions without a loss"
    if given.dim() == 2 and given.shape[1] > 1:
        return " (use y.argmax(1) if it is one-hot)"
    if given.dim() == 2 and given.shape[1] == 1:
        return " (y.squeeze(1).long())"
    return f", the smallest {_least(given)}" if given.dtype == torch.int64 and given.dim() == 1 else " (y.long())"
