"""Losses of packs, computed per term: an example, or a token of a sequence.

Outputs are ``[trials, batch, *positions, outputs]``; images have no positions, sequences have one dimension of
positions. Targets are classes ``[trials, batch, *positions]`` (int64; ``IGNORED`` for masked terms), or values with the
shape of the outputs. A loss returns its terms ``[trials, batch, *positions]``; training minimises the mean over the
unmasked terms of a batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from sensitivity.study.errors import UserError
from sensitivity.study.problem import ProblemSpec
from sensitivity.study.user_functions import check_arguments, fitted_arguments, import_function
from sensitivity.study.words import kind_of

LossKind = Literal["cross_entropy", "squared_error", "binary_cross_entropy"]
"""Losses that are negative log-likelihoods with a known Fisher matrix."""
TermFunction = Callable[[Tensor, Tensor], Tensor]
IGNORED = -100
"""Class of masked terms, as in ``torch.nn.functional.cross_entropy``."""

_FEW_CLASSES = 16
"""For fewer classes, torch's CPU kernels are 4 to 9 times as fast if classes are not the last dimension."""


def is_ignored(targets: Tensor) -> Tensor:
    """Return where targets are ``IGNORED``; never for unsigned ones, which torch would compare modulo 256."""
    return targets == IGNORED if targets.dtype.is_signed else torch.zeros_like(targets, dtype=torch.bool)


@dataclass(frozen=True, kw_only=True, eq=False)
class Loss:
    """The loss function of a pack."""

    terms: Callable[..., Tensor]
    """Returns the terms, given outputs and targets (`TermFunction`)."""
    kind: LossKind | None = None
    """The likelihood whose negative logarithm the loss is; None for other losses."""
    masked: bool = False
    """Whether targets may be ``IGNORED``, which are excluded from means."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the terms of each trial, ``[trials]``."""
        terms = self.terms(outputs, targets).flatten(1)
        if not self.masked:
            return terms.mean(1)
        return terms.sum(1) / (targets != IGNORED).flatten(1).sum(1).clamp_min(1)

    def count(self, targets: Tensor) -> Tensor | int:
        """Return the number of terms in the mean over targets ``[batch, *positions]``, up to a constant factor."""
        return (targets != IGNORED).sum() if self.masked else len(targets)

    def smoothed(self, share: float) -> Loss:
        """Return cross-entropy with label smoothing: `share` of every target is spread evenly over all classes."""
        return replace(self, terms=functools.partial(self.terms, smoothing=share))


def cross_entropy_terms(
    outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy of each term; 0 for masked terms.

    `smoothing` is the share of every target that is spread evenly over all classes (Szegedy et al. 2016).
    `class_weights` ``[classes]`` weight the terms by class. Unlike in torch, they are not normalised by their sum over
    the batch, so that the loss of an example does not depend on others.
    """
    options: dict[str, Any] = {"reduction": "none", "label_smoothing": smoothing, "ignore_index": IGNORED}
    if class_weights is not None:
        options["weight"] = class_weights.to(outputs)
    if outputs.device.type == "cpu" and outputs.shape[-1] < _FEW_CLASSES:
        return functional.cross_entropy(outputs.movedim(-1, 1), targets, **options)
    losses = functional.cross_entropy(outputs.flatten(0, -2), targets.flatten(), **options)
    return losses.view(targets.shape)


def squared_error_terms(outputs: Tensor, targets: Tensor) -> Tensor:
    """Half the squared distance of each example, summed over positions and outputs."""
    _require_same_shape(outputs, targets)
    return (outputs - targets).square().flatten(2).sum(2) / 2


def huber_terms(outputs: Tensor, targets: Tensor, *, delta: float = 1.0) -> Tensor:
    """Huber loss summed over the outputs of each example: half the square up to `delta`, linear beyond."""
    _require_same_shape(outputs, targets)
    return functional.huber_loss(outputs, targets, reduction="none", delta=delta).flatten(2).sum(2)


def binary_cross_entropy_terms(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each label, averaged over the labels of each example; targets are in [0, 1]."""
    _require_same_shape(outputs, targets)
    losses = functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
    return losses.flatten(2).mean(2)


def mean_output_terms(outputs: Tensor, targets: Tensor) -> Tensor:
    """Output of each example, for networks that return their loss ``[trials, batch, 1]``."""
    return outputs.flatten(1)


def _require_same_shape(outputs: Tensor, targets: Tensor) -> None:
    """Raise ValueError if shapes differ, because broadcasting would give a wrong loss."""
    if outputs.shape != targets.shape:
        raise ValueError(f"outputs {list(outputs.shape[1:])} and targets {list(targets.shape[1:])} differ in shape")


def own_terms(function: Callable[..., Any], where: str) -> TermFunction:
    """Return the term function of a user's loss, which returns the loss of each example ``[batch]``.

    The user's function receives the examples of all trials as one batch of outputs and targets ``[batch, ...]``. This
    is correct because the loss of an example must not depend on others.
    """

    def terms(outputs: Tensor, targets: Tensor) -> Tensor:
        trials, batch = outputs.shape[:2]
        found = function(outputs.flatten(0, 1), targets.flatten(0, 1))
        if not isinstance(found, Tensor) or found.dim() == 0 or found.shape[0] != trials * batch:
            got = f"a tensor of shape {list(found.shape)}" if isinstance(found, Tensor) else kind_of(found)
            raise UserError(
                f"{where} returned {got} for {trials * batch} examples; it must return the loss of each example, "
                "[batch], or of each token, [batch, time], without averaging (reduction='none')"
            )
        return found.reshape(trials, batch, *found.shape[1:])

    return terms


cross_entropy = Loss(terms=cross_entropy_terms, kind="cross_entropy")
squared_error = Loss(terms=squared_error_terms, kind="squared_error")
_SHIPPED: Mapping[str, Loss] = {
    "cross_entropy": cross_entropy,
    "squared_error": squared_error,
    "huber": Loss(terms=huber_terms),
    "binary_cross_entropy": Loss(terms=binary_cross_entropy_terms, kind="binary_cross_entropy"),
    "quadratic": Loss(terms=mean_output_terms),
}


def loss_of(spec: ProblemSpec, *, masked: bool = False) -> Loss:
    """Return the loss of a study with its arguments, without label smoothing; `masked` as in ``Loss``.

    Raises:
        UserError: a user's loss is not found or does not accept its arguments.
    """
    given = dict(spec.loss_arguments)
    if (shipped := _SHIPPED.get(spec.loss)) is not None:
        if "class_weights" in given:  # a weighted loss is not a log-likelihood
            given["class_weights"] = torch.tensor(given["class_weights"], dtype=torch.float64)
            shipped = replace(shipped, kind=None)
        terms = functools.partial(shipped.terms, **given) if given else shipped.terms
        return replace(shipped, terms=terms, masked=masked)
    function = import_function(spec.loss, "problem.loss")
    try:
        fitted = fitted_arguments(function, given)
        check_arguments(function, spec.loss, fitted, given=2)
    except UserError as error:
        raise UserError(f"problem.loss_arguments.{error}") from None
    terms = own_terms(functools.partial(function, **fitted), f"problem.loss: {spec.loss}")
    return Loss(terms=terms, masked=masked)
