"""Problems: the data set, model and loss that a study names, shipped or the user's own.

What differs between the trials of a study, such as a model's width, is a variant of its problem (``Problem.of``).

A data set of the user's own is a function without arguments that returns train inputs, train targets,
test inputs and test targets (tensors or arrays, split and scaled as wanted). A model of the user's own is a
function of (input shape, outputs) that returns an ``nn.Module``; outputs is the number of classes with
cross-entropy, the size of a target otherwise. Its further arguments come from ``problem.model_arguments``.
Both are named ``"module:function"``, the module lying beside the study file or installed.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sensitivity.study.errors import UserError
from sensitivity.study.problem import ProblemSpec
from sensitivity.study.user_functions import check_arguments, fitted_arguments, import_function
from sensitivity.training.datasets.dataset import Dataset, are_sequences
from sensitivity.training.datasets.load import load_dataset
from sensitivity.training.losses import IGNORED, LOSSES, LossFunction, cross_entropy
from sensitivity.training.models.alexnet import alexnet
from sensitivity.training.models.lenet import lenet
from sensitivity.training.models.perceptron import perceptron
from sensitivity.training.models.resnet import resnet20, resnet32, resnet44, resnet56
from sensitivity.training.models.small_cnn import small_cnn
from sensitivity.training.models.transformer import transformer
from sensitivity.training.noisy_quadratic import quadratic, spectrum
from sensitivity.training.precision import AUTOCAST
from sensitivity.training.user_models import checked_module

ModelBuilder = Callable[..., nn.Module]
"""A function of an input's shape, the number of outputs, and arguments of its own."""
_MODELS: dict[str, ModelBuilder] = {
    "perceptron": perceptron,
    "small_cnn": small_cnn,
    "lenet": lenet,
    "alexnet": alexnet,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet44": resnet44,
    "resnet56": resnet56,
    "transformer": transformer,
    "quadratic": quadratic,
}


_OF_TOKENS = ("transformer",)
"""Shipped models that take sequences of ids, and no other inputs."""
_MANY_CLASSES = 1_000
_BYTES_A_NUMBER = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """What a pack trains. Two are equal only if they are one object: tensors have no other quick answer."""

    dataset: Dataset
    build_model: Callable[[], nn.Module]
    """Builds one network, drawing its initialisation from torch's global generator."""
    loss: LossFunction
    """As it is measured."""
    has_classes: bool
    outputs: int
    """Number of classes, or size of a target."""
    products: torch.dtype | None = None
    """Type in which the model's products are computed, if not that of its parameters."""
    shipped: bool = False
    """Whether the model is one of this product's, which is known to do the same in every pass."""
    curvature: Mapping[str, Tensor] | None = None
    """The exact diagonal curvature by parameter, where it is known: Newton's method uses it."""
    label_smoothing: float = 0.0
    """Of the loss that is trained."""
    model_arguments: Mapping[str, Any] = field(default_factory=dict)
    builder: Callable[[Mapping[str, Any]], Callable[[], nn.Module]] | None = None
    """Returns `build_model` for other model arguments."""
    _variants: dict[ProblemSpec, Problem] = field(default_factory=dict)

    @property
    def loss_kind(self) -> Literal["cross_entropy", "squared_error"] | None:
        """The loss of the outputs; None where the network returns its own."""
        if self.curvature is not None:
            return None
        return "cross_entropy" if self.has_classes else "squared_error"

    @property
    def terms_per_example(self) -> int:
        """How many terms the loss has for each example: the length of sequences that have a class at each position."""
        return math.prod(self.dataset.train_targets.shape[1:]) if self.has_classes else 1

    @property
    def ignores_terms(self) -> bool:
        """Whether some positions of the training sequences have no loss; looks at all of them."""
        targets = self.dataset.train_targets
        return self.terms_per_example > 1 and bool((targets == IGNORED).any())

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss that is trained, of each trial ``[trials]``."""
        if not self.label_smoothing:
            return self.loss(outputs, targets)
        return cross_entropy(outputs, targets, self.label_smoothing)

    def of(self, spec: ProblemSpec) -> Problem:
        """Return the variant of this problem that a trial trains; data and everything else are the same.

        Raises:
            UserError: the model does not take its arguments.
        """
        if spec.label_smoothing == self.label_smoothing and spec.model_arguments == self.model_arguments:
            return self
        if spec not in self._variants:
            build = self.build_model
            if spec.model_arguments != self.model_arguments:
                assert self.builder is not None
                build = self.builder(spec.model_arguments)
            self._variants[spec] = replace(
                self,
                build_model=build,
                label_smoothing=spec.label_smoothing,
                model_arguments=spec.model_arguments,
                _variants={},
            )
        return self._variants[spec]


def load_problem(
    spec: ProblemSpec,
    *,
    folder: Path | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Problem:
    """Return the problem that a study names.

    Args:
        spec: what the study names.
        folder: where the study file lies, for paths relative to it.
        device: where data and networks are to be; the CPU if none is given.
        dtype: of floating-point data and of networks.

    Raises:
        UserError: a data set can't be had, or the user's own function is not found or returns what does not fit.
    """
    dataset = load_dataset(spec, folder=folder).to(device or torch.device("cpu"), dtype)
    has_classes = spec.loss == "cross_entropy"
    outputs = _outputs(spec, dataset, has_classes=has_classes)
    build = _MODELS.get(spec.model) or import_function(spec.model, "problem.model")
    shape = tuple(dataset.train_inputs.shape[1:])
    _refuse_other_inputs(spec, dataset, outputs)

    def builder(arguments: Mapping[str, Any]) -> Callable[[], nn.Module]:
        given = fitted_arguments(build, arguments)
        with _named_arguments():
            check_arguments(build, spec.model, given, given=2)
        if spec.model in _MODELS:
            _refuse_too_large(spec, lambda: build(shape, outputs, **given), shape, outputs)

        def build_model() -> nn.Module:
            return checked_module(build(shape, outputs, **given), spec.model).to(device or torch.device("cpu"), dtype)

        return build_model

    return Problem(
        dataset=dataset,
        build_model=builder(spec.model_arguments),
        loss=LOSSES[spec.loss],
        has_classes=has_classes,
        outputs=outputs,
        products=AUTOCAST.get(spec.precision),
        shipped=spec.model in _MODELS,
        curvature={"x": spectrum()} if spec.is_oracle else None,
        label_smoothing=spec.label_smoothing,
        model_arguments=spec.model_arguments,
        builder=builder,
    )


def _refuse_sparse_classes(spec: ProblemSpec, dataset: Dataset, classes: int) -> None:
    """Refuse numbers that are no classes, such as ids: a network would have an output for each up to the largest."""
    targets = dataset.train_targets
    used = len(torch.unique(targets[targets != IGNORED]))
    if classes > _MANY_CLASSES and classes > 2 * used:
        raise UserError(
            f"problem.dataset: {spec.dataset}: {classes - used:,} of the {classes:,} classes (0 to {classes - 1:,}) "
            "have no training example\n  Number the classes from 0 without gaps"
        )


@contextlib.contextmanager
def _named_arguments() -> Iterator[None]:
    """Name the field of the study file in what is wrong with a model's arguments."""
    try:
        yield
    except UserError as error:
        hint = "; an argument that has an axis needs one" if "has no default" in str(error) else ""
        raise UserError(f"problem.model_arguments.{error}{hint}") from None


def _refuse_other_inputs(spec: ProblemSpec, dataset: Dataset, outputs: int) -> None:
    """Refuse a shipped model that takes no sequences where there are some, and the reverse.

    Ids that are not below the number of outputs have no embedding.
    """
    if spec.model not in _MODELS:
        return
    sequences = are_sequences(dataset.train_inputs, dataset.train_targets)
    if sequences is not (spec.model in _OF_TOKENS):
        fix = 'give model = "transformer", or your own' if sequences else "it is for text and other sequences of ids"
        raise UserError(
            f"problem.model: {spec.model} takes no {'sequences' if sequences else 'such inputs'} as {spec.dataset} has "
            f"them, inputs {list(dataset.train_inputs.shape[1:])} with targets "
            f"{list(dataset.train_targets.shape[1:])}\n  Here {fix}"
        )
    if sequences and dataset.token_bytes is None:
        ids = (dataset.train_inputs, dataset.test_inputs)
        low, high = min(int(each.min()) for each in ids), max(int(each.max()) for each in ids)
        if low < 0 or high >= outputs:
            raise UserError(
                f"problem.dataset: {spec.dataset}: {spec.model} takes ids from 0 to below the number of outputs, "
                f"{outputs:,}; inputs have {low:,} to {high:,}"
            )


def _refuse_too_large(spec: ProblemSpec, build: Callable[[], nn.Module], shape: tuple[int, ...], outputs: int) -> None:
    """Refuse a model of this product's that does not take such inputs, or does not fit this machine, unallocated."""
    try:
        with torch.device("meta"):
            numbers = sum(parameter.numel() for parameter in build().parameters())
    except ValueError as error:
        raise UserError(
            f"problem.model: {error}\n  Take another model, or another data set than {spec.dataset}"
        ) from None
    needed, memory = 4 * numbers * _BYTES_A_NUMBER, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise UserError(
            f"problem.model: {spec.model} for inputs {list(shape)} and {outputs:,} outputs has {numbers:,} parameters: "
            f"with gradients and an optimizer's state about {needed / 2**30:,.1f} GiB; this machine has "
            f"{memory / 2**30:,.1f} GiB\n  Take a smaller model, smaller inputs, or fewer classes"
        )


def _outputs(spec: ProblemSpec, dataset: Dataset, *, has_classes: bool) -> int:
    splits = ((dataset.train_inputs, dataset.train_targets), (dataset.test_inputs, dataset.test_targets))
    where = f'problem.dataset: {spec.dataset}: loss = "{spec.loss}" needs'
    for inputs, given in splits:
        got = f"got {str(given.dtype).removeprefix('torch.')} {list(given.shape)}"
        if has_classes and are_sequences(inputs, given):
            _check_sequences(given, f"problem.dataset: {spec.dataset}")
        elif has_classes and (given.dim() != 1 or given.dtype != torch.int64 or int(given.min()) < 0):
            raise UserError(
                f"{where} targets that are classes: int64 of shape [examples], from 0; {got}{_classes_fix(given)}"
            )
        if not has_classes and (given.dim() != 2 or not given.is_floating_point()):
            fix = " (y.float())" * (not given.is_floating_point()) + " (y[:, None])" * (given.dim() == 1)
            raise UserError(f"{where} floating-point targets of shape [examples, outputs]; {got}{fix}")
    if not has_classes:
        return int(dataset.train_targets.shape[1])
    if dataset.token_bytes is not None:
        return len(dataset.token_bytes)
    classes = max(int(targets.max()) for _, targets in splits) + 1
    _refuse_sparse_classes(spec, dataset, classes)
    return classes


def _check_sequences(targets: Tensor, where: str) -> None:
    if int(targets.min()) >= 0:
        return
    if bool(((targets < 0) & (targets != IGNORED)).any()):
        raise UserError(
            f"{where}: targets of sequences are classes from 0, or {IGNORED} at positions without a loss; the smallest "
            f"is {int(targets.min())}"
        )
    if (empty := int((targets == IGNORED).all(1).sum())) > 0:
        raise UserError(
            f"{where}: {empty:,} of {len(targets):,} sequences have no target but {IGNORED}; leave them out"
        )


def _classes_fix(given: Tensor) -> str:
    if given.dim() == 2 and given.shape[1] > 1:
        return " (one row an example: y.argmax(1) if it is one-hot)"
    if given.dim() == 2:
        return " (y.squeeze(1).long())"
    return f", the smallest {int(given.min())}" if given.dtype == torch.int64 and given.dim() == 1 else " (y.long())"
