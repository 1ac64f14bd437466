"""Losses of packs, as the loss of every term: of an example, or of a token of a sequence.

Outputs are ``[trials, batch, *positions, outputs]``; images have no positions, sequences have one dimension of them.
Targets are classes ``[trials, batch, *positions]`` (int64; ``IGNORED`` where a term is masked), or values of the shape
of the outputs. A loss returns its terms ``[trials, batch, *positions]``, and what is minimised is their mean over the
terms of a batch that are not masked.
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

LossKind = Literal["cross_entropy", "squared_error", "binary_cross_entropy"]
"""Losses that are the negative logarithm of a likelihood, whose Fisher is known."""
TermFunction = Callable[[Tensor, Tensor], Tensor]
IGNORED = -100
"""The class of a term that is masked, as in ``torch.nn.functional.cross_entropy``."""

_FEW_CLASSES = 16
"""Below so many, torch's CPU kernels are 4 to 9 times as fast over classes in another than the last dimension."""


def is_ignored(targets: Tensor) -> Tensor:
    """Return where targets are ``IGNORED``; unsigned ones never are, though torch would compare them modulo 256."""
    return targets == IGNORED if targets.dtype.is_signed else torch.zeros_like(targets, dtype=torch.bool)


@dataclass(frozen=True, kw_only=True, eq=False)
class Loss:
    """A loss function of a pack."""

    terms: Callable[..., Tensor]
    """A function of outputs and targets (`TermFunction`)."""
    kind: LossKind | None = None
    """The likelihood that it is of, exactly; None of any other loss."""
    masked: bool = False
    """Whether targets may be ``IGNORED``, so that means are over the others."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the terms of each trial, ``[trials]``."""
        terms = self.terms(outputs, targets).flatten(1)
        if not self.masked:
            return terms.mean(1)
        return terms.sum(1) / (targets != IGNORED).flatten(1).sum(1).clamp_min(1)

    def count(self, targets: Tensor) -> Tensor | int:
        """Return how many terms a mean over ``[batch, *positions]`` targets is of, up to a constant factor."""
        return (targets != IGNORED).sum() if self.masked else len(targets)

    def smoothed(self, share: float) -> Loss:
        """Return cross-entropy with that share of every target spread evenly over all classes."""
        return replace(self, terms=functools.partial(self.terms, smoothing=share))


def cross_entropy_terms(
    outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy of each term; a masked term has 0.

    With `smoothing`, that share of every target is spread evenly over all classes (Szegedy et al. 2016). With
    `class_weights` ``[classes]``, a term counts with the weight of its class. It isn't divided by the sum of weights
    of its batch, so that the loss of an example does not depend on others.
    """
    options: dict[str, Any] = {"reduction": "none", "label_smoothing": smoothing, "ignore_index": IGNORED}
    if class_weights is not None:
        options["weight"] = class_weights.to(outputs)
    if outputs.device.type == "cpu" and outputs.shape[-1] < _FEW_CLASSES:
        return functional.cross_entropy(outputs.movedim(-1, 1), targets, **options)
    losses = functional.cross_entropy(outputs.flatten(0, -2), targets.flatten(), **options)
    return losses.view(targets.shape)


def squared_error_terms(outputs: Tensor, targets: Tensor) -> Tensor:
    """Half the squared distance of each example, over all of its positions and outputs."""
    _require_same_shape(outputs, targets)
    return (outputs - targets).square().flatten(2).sum(2) / 2


def huber_terms(outputs: Tensor, targets: Tensor, *, delta: float = 1.0) -> Tensor:
    """Huber's function summed over the outputs of each example: half the square up to `delta`, and linear beyond."""
    _require_same_shape(outputs, targets)
    return functional.huber_loss(outputs, targets, reduction="none", delta=delta).flatten(2).sum(2)


def binary_cross_entropy_terms(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each label, averaged over the labels of each example; targets lie from 0 to 1."""
    _require_same_shape(outputs, targets)
    losses = functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
    return losses.flatten(2).mean(2)


def mean_output_terms(outputs: Tensor, targets: Tensor) -> Tensor:
    """Output of each example, for a network that returns its own loss ``[trials, batch, 1]``."""
    return outputs.flatten(1)


def _require_same_shape(outputs: Tensor, targets: Tensor) -> None:
    """Raise ValueError where shapes differ; broadcasting would give the loss of something else."""
    if outputs.shape != targets.shape:
        raise ValueError(f"outputs {list(outputs.shape[1:])} and targets {list(targets.shape[1:])} differ in shape")


def own_terms(function: Callable[..., Any], where: str) -> TermFunction:
    """Return the terms of a loss of the user's: of outputs and targets ``[batch, ...]``, the loss of each example.

    The function sees the examples of all trials as one batch. As the loss of an example must not depend on the others,
    it need not know of packs.
    """

    def terms(outputs: Tensor, targets: Tensor) -> Tensor:
        trials, batch = outputs.shape[:2]
        found = function(outputs.flatten(0, 1), targets.flatten(0, 1))
        if not isinstance(found, Tensor) or found.dim() == 0 or found.shape[0] != trials * batch:
            got = f"a tensor of shape {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise UserError(
                f"{where} returned {got} for {trials * batch} examples; it must return the loss of each example, "
                "[batch], or of each token, [batch, time]: no mean over them (reduction='none')"
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
    """Return the loss that a study names, with its arguments, without label smoothing; `masked` as of ``Loss``.

    Raises:
        UserError: a loss of the user's own is not found, or does not take its arguments.
    """
    given = dict(spec.loss_arguments)
    if (shipped := _SHIPPED.get(spec.loss)) is not None:
        if "class_weights" in given:  # which no likelihood has
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
