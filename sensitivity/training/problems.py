"""Problems: the data set, model and loss that a study names, shipped or the user's own.

A data set of the user's own is a function without arguments that returns train inputs, train targets,
test inputs and test targets (tensors or arrays, split and scaled as wanted). A model of the user's own is a
function of (input shape, outputs) that returns an ``nn.Module``; outputs is the number of classes with
cross-entropy, the size of a target otherwise. Both are named ``"module:function"``, the module lying beside
the study file or installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sensitivity.study.errors import UserError
from sensitivity.study.problem import ProblemSpec
from sensitivity.study.user_functions import import_function
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.datasets.load import load_dataset
from sensitivity.training.losses import LOSSES, LossFunction
from sensitivity.training.models.alexnet import alexnet
from sensitivity.training.models.lenet import lenet
from sensitivity.training.models.perceptron import perceptron
from sensitivity.training.models.resnet import resnet20, resnet32, resnet44, resnet56
from sensitivity.training.models.small_cnn import small_cnn
from sensitivity.training.noisy_quadratic import quadratic, spectrum
from sensitivity.training.precision import AUTOCAST
from sensitivity.training.user_models import checked_module

ModelBuilder = Callable[[tuple[int, ...], int], nn.Module]
_MODELS: dict[str, ModelBuilder] = {
    "perceptron": perceptron,
    "small_cnn": small_cnn,
    "lenet": lenet,
    "alexnet": alexnet,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet44": resnet44,
    "resnet56": resnet56,
    "quadratic": quadratic,
}


_MANY_CLASSES = 1_000
_BYTES_A_NUMBER = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """What a pack trains. Two are equal only if they are one object: tensors have no other quick answer."""

    dataset: Dataset
    build_model: Callable[[], nn.Module]
    """Builds one network, drawing its initialisation from torch's global generator."""
    loss: LossFunction
    has_classes: bool
    outputs: int
    """Number of classes, or size of a target."""
    products: torch.dtype | None = None
    """Type in which the model's products are computed, if not that of its parameters."""
    shipped: bool = False
    """Whether the model is one of this product's, which is known to do the same in every pass."""
    curvature: Mapping[str, Tensor] | None = None
    """The exact diagonal curvature by parameter, where it is known: Newton's method uses it."""


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

    if spec.model in _MODELS:
        _refuse_too_large(spec, build, shape, outputs)

    def build_model() -> nn.Module:
        return checked_module(build(shape, outputs), spec.model).to(device or torch.device("cpu"), dtype)

    return Problem(
        dataset=dataset,
        build_model=build_model,
        loss=LOSSES[spec.loss],
        has_classes=has_classes,
        outputs=outputs,
        products=AUTOCAST.get(spec.precision),
        shipped=spec.model in _MODELS,
        curvature={"x": spectrum()} if spec.is_oracle else None,
    )


def _refuse_sparse_classes(spec: ProblemSpec, dataset: Dataset, classes: int) -> None:
    """Refuse numbers that are no classes, such as ids: a network would have an output for each up to the largest."""
    used = len(torch.unique(dataset.train_targets))
    if classes > _MANY_CLASSES and classes > 2 * used:
        raise UserError(
            f"problem.dataset: {spec.dataset}: {classes - used:,} of the {classes:,} classes (0 to {classes - 1:,}) "
            "have no training example\n  Number the classes from 0 without gaps"
        )


def _refuse_too_large(spec: ProblemSpec, build: ModelBuilder, shape: tuple[int, ...], outputs: int) -> None:
    """Refuse a model of this product's that does not take such inputs, or does not fit this machine, unallocated."""
    try:
        with torch.device("meta"):
            numbers = sum(parameter.numel() for parameter in build(shape, outputs).parameters())
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
    targets: tuple[Tensor, ...] = (dataset.train_targets, dataset.test_targets)
    where = f'problem.dataset: {spec.dataset}: loss = "{spec.loss}" needs'
    for given in targets:
        got = f"got {str(given.dtype).removeprefix('torch.')} {list(given.shape)}"
        if has_classes and (given.dim() != 1 or given.dtype != torch.int64 or int(given.min()) < 0):
            raise UserError(
                f"{where} targets that are classes: int64 of shape [examples], from 0; {got}{_classes_fix(given)}"
            )
        if not has_classes and (given.dim() != 2 or not given.is_floating_point()):
            fix = " (y.float())" * (not given.is_floating_point()) + " (y[:, None])" * (given.dim() == 1)
            raise UserError(f"{where} floating-point targets of shape [examples, outputs]; {got}{fix}")
    if not has_classes:
        return int(targets[0].shape[1])
    classes = max(int(t.max()) for t in targets) + 1
    _refuse_sparse_classes(spec, dataset, classes)
    return classes


def _classes_fix(given: Tensor) -> str:
    if given.dim() == 2 and given.shape[1] > 1:
        return " (one row an example: y.argmax(1) if it is one-hot)"
    if given.dim() == 2:
        return " (y.squeeze(1).long())"
    return f", the smallest {int(given.min())}" if given.dtype == torch.int64 and given.dim() == 1 else " (y.long())"
