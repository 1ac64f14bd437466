"""Computation of quantities for a pack, over a whole split that is processed in chunks.

Each computation is an ``Accumulator``, created for one evaluation of a pack. It receives chunks of outputs
``[trials, chunk, *positions, outputs]`` and targets ``[chunk, *positions]`` (classes, ``IGNORED`` if masked) or
``[chunk, *positions, outputs]`` (values), and returns ``[trials]`` in float64. The result depends on neither the chunk
size nor the pack size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from sensitivity.study.errors import UserError
from sensitivity.study.users_code import users_code
from sensitivity.study.words import kind_of
from sensitivity.training.losses import IGNORED


class Accumulator(Protocol):
    """The computation of one quantity in one evaluation."""

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a chunk of the split."""

    def result(self, loss: Tensor) -> Tensor:
        """Return the quantity of each trial; `loss` is the mean loss ``[trials]``."""


class MeanOfTerms:
    """Mean over unmasked terms of a function of outputs and targets ``[trials, chunk, ...]``."""

    def __init__(self, terms: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._terms = terms
        self._sum: Tensor | float = 0.0
        self._count: Tensor | int = 0

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a chunk of the split."""
        values = self._terms(outputs, targets.expand(len(outputs), *targets.shape)).double()
        if not targets.is_floating_point():
            values = torch.where(targets == IGNORED, 0.0, values)
            self._count = self._count + (targets != IGNORED).sum()
        else:
            self._count = self._count + values[0].numel()
        self._sum = self._sum + values.flatten(1).sum(1)

    def result(self, loss: Tensor) -> Tensor:
        """Return the mean."""
        return torch.as_tensor(self._sum / self._count)


def is_correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return whether the largest output is that of the target class."""
    return outputs.argmax(-1) == targets


def is_in_top5(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return whether the output of the target class is among the five largest."""
    largest = outputs.topk(min(5, outputs.shape[-1]), dim=-1).indices
    return (largest == targets.unsqueeze(-1)).any(-1)


class Perplexity:
    """The exponential of the mean cross-entropy in nats."""

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Do nothing, because the mean loss is sufficient."""

    def result(self, loss: Tensor) -> Tensor:
        """Return the perplexity."""
        return loss.double().exp()


class BitsPerByte:
    """Cross-entropy of all tokens in bits divided by their number of UTF-8 bytes, comparable across tokenizers."""

    def __init__(self, token_bytes: Tensor) -> None:
        self._token_bytes = token_bytes
        self._tokens: Tensor | int = 0
        self._bytes: Tensor | int = 0

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Count the tokens of a chunk and their bytes."""
        kept = targets[targets != IGNORED]
        self._tokens = self._tokens + kept.numel()
        self._bytes = self._bytes + self._token_bytes[kept].sum()

    def result(self, loss: Tensor) -> Tensor:
        """Return the bits per byte."""
        return loss.double() * self._tokens / self._bytes / math.log(2)


class R2:
    """Coefficient of determination, averaged over outputs with equal weights (scikit-learn's ``r2_score``)."""

    def __init__(self) -> None:
        self._residual: Tensor | float = 0.0
        self._count, self._mean, self._scatter = 0, torch.zeros(()), torch.zeros(())

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a chunk of the split."""
        values = targets.double().flatten(0, -2) if targets.dim() > 1 else targets.double()[:, None]
        found = outputs.double().flatten(1, -2)
        self._residual = self._residual + (found - values).square().sum(1)
        # Merging means and centred sums of squares (Chan et al. 1979) avoids cancellation for targets far from 0.
        count, mean = len(values), values.mean(0)
        scatter, shift = (values - mean).square().sum(0), mean - self._mean.to(mean)
        total = self._count + count
        self._scatter = self._scatter.to(mean) + scatter + shift.square() * (self._count * count / total)
        self._mean, self._count = self._mean.to(mean) + shift * (count / total), total

    def result(self, loss: Tensor) -> Tensor:
        """Return R²; an output with constant targets counts as 1 if predictions are exact, otherwise 0."""
        residual = torch.as_tensor(self._residual)
        constant = torch.where(residual == 0, 1.0, 0.0).double()
        each = torch.where(self._scatter > 0, 1 - residual / self._scatter, constant)
        return each.mean(1)


class MacroF1:
    """F1 score averaged over classes, excluding classes that are neither predicted nor present.

    With multiple labels per example, a label is predicted if its output is positive, and labels that are neither
    predicted nor present count as 0. Both conventions are scikit-learn's.
    """

    def __init__(self) -> None:
        self._counts: Tensor | None = None

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a chunk of the split."""
        counts = _label_counts(outputs, targets) if targets.is_floating_point() else _class_counts(outputs, targets)
        self._counts = counts if self._counts is None else self._counts + counts
        self._all = targets.is_floating_point()

    def result(self, loss: Tensor) -> Tensor:
        """Return the score."""
        assert self._counts is not None
        right, said, there = self._counts.double()
        score = torch.where(said + there > 0, 2 * right / (said + there).clamp_min(1), 0.0)
        used = torch.ones_like(score) if self._all else (said + there > 0).double()
        return (score * used).sum(1) / used.sum(1)


def _label_counts(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the numbers of correct, predicted and true labels ``[3, trials, labels]``."""
    said, there = outputs.flatten(1, -2) > 0, targets.flatten(0, -2) > 0.5
    return torch.stack([(said & there).sum(1), said.sum(1), there.sum(0).expand(len(outputs), -1)])


def _class_counts(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the numbers of correct, predicted and true terms of each class ``[3, trials, classes]``."""
    trials, classes = len(outputs), outputs.shape[-1]
    kept = targets.flatten() != IGNORED
    wanted = targets.flatten()[kept]
    said = outputs.argmax(-1).flatten(1)[:, kept]
    at = torch.arange(trials, device=outputs.device)[:, None] * classes

    def counted(labels: Tensor) -> Tensor:
        return torch.bincount(labels.flatten(), minlength=trials * classes).view(trials, classes)

    right = torch.stack([torch.bincount(own[own == wanted], minlength=classes) for own in said])
    return torch.stack([right, counted(said + at), counted(wanted.expand(trials, -1) + at)])


class Auroc:
    """Area under the ROC curve, averaged over classes or labels with both positive and negative examples.

    With two classes, it is the area for the second one; with more, each class is compared with the rest by its
    probability. Ties count half, as in scikit-learn's ``roc_auc_score`` (``multi_class="ovr"``, ``average="macro"``).
    """

    def __init__(self) -> None:
        self._scores: list[Tensor] = []
        self._positive: list[Tensor] = []

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Store the scores of a chunk; ranks need the whole split."""
        scores = outputs.flatten(1, -2)
        if targets.is_floating_point():
            positive = targets.flatten(0, -2) > 0.5
        else:
            kept = targets.flatten() != IGNORED
            scores = scores[:, kept].double().softmax(-1)
            positive = functional.one_hot(targets.flatten()[kept], outputs.shape[-1]).bool()
            if outputs.shape[-1] == 2:
                scores, positive = scores[..., 1:], positive[:, 1:]
        self._scores.append(scores)
        self._positive.append(positive)

    def result(self, loss: Tensor) -> Tensor:
        """Return the area; NaN if no class has both kinds of examples, or if a score is not finite."""
        scores, positive = torch.cat(self._scores, 1).movedim(2, 1).contiguous(), torch.cat(self._positive)
        ordered = scores.sort(-1).values
        ranks = (torch.searchsorted(ordered, scores) + torch.searchsorted(ordered, scores, right=True)).double() / 2
        ones = positive.sum(0).double()
        zeros = len(positive) - ones
        above = (ranks * positive.T).sum(-1) - ones.square() / 2
        area, known = above / (ones * zeros).clamp_min(1), (ones > 0) & (zeros > 0)
        found = torch.where(known, area, 0.0).sum(1) / known.sum()
        return torch.where(torch.isfinite(scores).all(-1).all(-1), found, math.nan)


class OfWholeSplit:
    """A user's function of one trial's outputs and targets on the whole split."""

    def __init__(self, function: Callable[[Tensor, Tensor], Any], where: str) -> None:
        self._function, self._where = function, where
        self._outputs: list[Tensor] = []
        self._targets: list[Tensor] = []

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Store a chunk."""
        self._outputs.append(outputs)
        self._targets.append(targets)

    def result(self, loss: Tensor) -> Tensor:
        """Return the function's value, or its mean if it returns one value per example."""
        targets = torch.cat(self._targets)
        with users_code(self._where):
            found = [self._number(self._function(own, targets)) for own in torch.cat(self._outputs, 1)]
        return torch.tensor(found, dtype=torch.float64, device=loss.device)

    def _number(self, found: Any) -> float:
        if isinstance(found, Tensor) and found.dim() > 0:
            found = found.double().mean()
        try:
            return float(found)
        except (TypeError, ValueError):
            raise UserError(
                f"{self._where} returned {kind_of(found)}; it must return a number, or one number per "
                "example to be averaged"
            ) from None


_COMPUTED: dict[str, Callable[[], Accumulator]] = {
    "accuracy": lambda: MeanOfTerms(is_correct),
    "top5_accuracy": lambda: MeanOfTerms(is_in_top5),
    "perplexity": Perplexity,
    "r2": R2,
    "macro_f1": MacroF1,
    "auroc": Auroc,
}


def computed_by(name: str, make: Callable[[], Accumulator]) -> None:
    """Register the computation of a declared quantity: `make` returns an accumulator for one evaluation."""
    _COMPUTED[name] = make


def accumulator(
    name: str, own: Mapping[str, Callable[[Tensor, Tensor], Any]], token_bytes: Tensor | None = None
) -> Accumulator:
    """Return a new accumulator of the quantity of that name.

    `own` contains the user's functions by name; `token_bytes` ``[vocabulary]`` the number of bytes of each token.
    """
    if name == "bits_per_byte":
        assert token_bytes is not None  # ensured by validation of the study
        return BitsPerByte(token_bytes)
    return OfWholeSplit(own[name], f"problem.metrics.{name}") if name in own else _COMPUTED[name]()
