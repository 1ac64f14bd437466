"""Problems: the data set, model and loss that a study names, shipped or the user's own.

Properties that differ between trials of a study, such as a model's width, define variants of its problem
(``Problem.of``). A user's data set is a function without arguments that returns train inputs, train targets, test
inputs and test targets (tensors or arrays, already split and scaled), or two streams of examples
(``datasets.streams``). A user's model is a function of (input shape, outputs) that returns an ``nn.Module``; outputs is
``problem.outputs`` or else the number of classes, or the size of a target. Further arguments come from
``problem.model_arguments``. A user's loss is a function of outputs and targets that returns the loss of each example
(``losses.own_terms``). All are named ``"module:function"``, where the module is next to the study file or installed.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.study.errors import UserError
from sensitivity.study.metrics import USUAL, Metric
from sensitivity.study.problem import ProblemSpec
from sensitivity.study.user_functions import check_arguments, fitted_arguments, import_function
from sensitivity.training.datasets.dataset import Dataset, are_sequences
from sensitivity.training.datasets.load import load_dataset
from sensitivity.training.datasets.pieces import pieces
from sensitivity.training.losses import Loss, LossKind, loss_of
from sensitivity.training.models.alexnet import alexnet
from sensitivity.training.models.lenet import lenet
from sensitivity.training.models.perceptron import perceptron
from sensitivity.training.models.resnet import resnet20, resnet32, resnet44, resnet56
from sensitivity.training.models.small_cnn import small_cnn
from sensitivity.training.models.transformer import transformer
from sensitivity.training.noisy_quadratic import quadratic, spectrum
from sensitivity.training.own_metrics import own_metrics
from sensitivity.training.precision import AUTOCAST
from sensitivity.training.targets import targets_of
from sensitivity.training.user_models import checked_module

ModelBuilder = Callable[..., nn.Module]
"""A function of the input shape, the number of outputs, and further arguments."""
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
"""Shipped models whose inputs must be sequences of ids."""
_BYTES_A_NUMBER = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """The problem that a pack trains. Compared by identity, because comparing tensors is slow."""

    dataset: Dataset
    build_model: Callable[[], nn.Module]
    """Builds one network, initialised with torch's global generator."""
    loss: Loss
    """The loss as measured, without label smoothing."""
    has_classes: bool
    outputs: int
    """Number of network outputs per loss term: the number of classes, or the size of a target."""
    metrics: tuple[Metric, ...] = ()
    """Measured metrics; empty for the loss and, with classes, the accuracy on the training and test splits."""
    own_metrics: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    """The user's functions by quantity."""
    products: torch.dtype | None = None
    """Dtype of the model's matrix products, if different from that of its parameters."""
    shipped: bool = False
    """Whether the model is part of this package, so that every pass is known to do the same operations."""
    curvature: Mapping[str, Tensor] | None = None
    """The exact diagonal curvature by parameter, if known; used by Newton's method."""
    label_smoothing: float = 0.0
    """Label smoothing of the training loss."""
    model_arguments: Mapping[str, Any] = field(default_factory=dict)
    builder: Callable[[Mapping[str, Any]], Callable[[], nn.Module]] | None = None
    """Returns `build_model` for given model arguments."""
    _variants: dict[ProblemSpec, Problem] = field(default_factory=dict)

    @property
    def loss_kind(self) -> LossKind | None:
        """The likelihood of the loss; None for other losses, and if the network returns its own loss."""
        return None if self.curvature is not None else self.loss.kind

    @property
    def measured(self) -> tuple[Metric, ...]:
        """The metrics measured in its runs."""
        return self.metrics or tuple(metric for metric in USUAL if metric.is_loss or self.has_classes)

    @property
    def terms_per_example(self) -> int:
        """Number of loss terms per example: the sequence length if there is a class at each position, otherwise 1."""
        return math.prod(self.dataset.train_targets.shape[1:]) if self.has_classes else 1

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the training loss of each trial ``[trials]``."""
        return (self.loss.smoothed(self.label_smoothing) if self.label_smoothing else self.loss)(outputs, targets)

    def of(self, spec: ProblemSpec) -> Problem:
        """Return the variant of this problem for a trial's `spec`, with the same data.

        Raises:
            UserError: the model does not accept its arguments.
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
    for_price: bool = False,
) -> Problem:
    """Load the problem of a study.

    Args:
        spec: the problem's table of the study file.
        folder: folder of the study file, for relative paths.
        device: device of data and networks; the CPU if None.
        dtype: dtype of floating-point data and of networks.
        for_price: as in ``load_dataset``.

    Raises:
        UserError: a data set is unavailable, or a user's function is not found or returns an invalid value.
    """
    dataset = load_dataset(spec, folder=folder, for_price=for_price).to(device or torch.device("cpu"), dtype)
    targets = targets_of(spec, dataset)
    outputs, shape = targets.outputs, tuple(dataset.train_inputs.shape[1:])
    build = _MODELS.get(spec.model) or import_function(spec.model, "problem.model")
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
        loss=loss_of(spec, masked=targets.masked),
        has_classes=targets.are_classes,
        outputs=outputs,
        metrics=spec.measured(),
        own_metrics=own_metrics(spec),
        products=AUTOCAST.get(spec.precision),
        shipped=spec.model in _MODELS,
        curvature={"x": spectrum()} if spec.is_oracle else None,
        label_smoothing=spec.label_smoothing,
        model_arguments=spec.model_arguments,
        builder=builder,
    )


@contextlib.contextmanager
def _named_arguments() -> Iterator[None]:
    """Add the field of the study file to errors about a model's arguments."""
    try:
        yield
    except UserError as error:
        hint = "; an argument that has an axis needs one" if "has no default" in str(error) else ""
        raise UserError(f"problem.model_arguments.{error}{hint}") from None


def _refuse_other_inputs(spec: ProblemSpec, dataset: Dataset, outputs: int) -> None:
    """Reject a shipped model that does not accept the data set's kind of inputs: sequences or other inputs.

    Also reject ids that are not below the number of outputs, because they have no embedding.
    """
    if spec.model not in _MODELS:
        return
    sequences = are_sequences(dataset.train_inputs, dataset.train_targets)
    if sequences is not (spec.model in _OF_TOKENS):
        fix = 'use model = "transformer", or your own' if sequences else "it is for text and other sequences of ids"
        raise UserError(
            f"problem.model: {spec.model} takes no {'sequences' if sequences else 'such inputs'} as {spec.dataset} has "
            f"them, inputs {list(dataset.train_inputs.shape[1:])} with targets "
            f"{list(dataset.train_targets.shape[1:])}\n  Here {fix}"
        )
    if sequences and dataset.token_bytes is None:

        def ids() -> Iterator[Tensor]:
            return itertools.chain(pieces(dataset.train_inputs), pieces(dataset.test_inputs))

        low, high = min(int(part.min()) for part in ids()), max(int(part.max()) for part in ids())
        if low < 0 or high >= outputs:
            raise UserError(
                f"problem.dataset: {spec.dataset}: {spec.model} takes ids from 0 to below the number of outputs, "
                f"{outputs:,}; inputs have {low:,} to {high:,}"
            )


def _refuse_too_large(spec: ProblemSpec, build: Callable[[], nn.Module], shape: tuple[int, ...], outputs: int) -> None:
    """Reject a shipped model that does not accept the inputs or exceeds the memory, without allocating it."""
    try:
        with torch.device("meta"):
            numbers = sum(parameter.numel() for parameter in build().parameters())
    except ValueError as error:
        raise UserError(
            f"problem.model: {error}\n  Use another model, or a data set other than {spec.dataset}"
        ) from None
    needed, memory = 4 * numbers * _BYTES_A_NUMBER, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise UserError(
            f"problem.model: {spec.model} for inputs {list(shape)} and {outputs:,} outputs has {numbers:,} parameters: "
            f"with gradients and an optimizer's state about {needed / 2**30:,.1f} GiB; this machine has "
            f"{memory / 2**30:,.1f} GiB\n  Use a smaller model, smaller inputs, or fewer classes"
        )
