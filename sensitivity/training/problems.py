"""Problems: the data set, model and loss that a study names, shipped or the user's own.

A data set of the user's own is a function without arguments that returns train inputs, train targets,
test inputs and test targets (tensors or arrays, split and scaled as wanted). A model of the user's own is a
function of (input shape, outputs) that returns an ``nn.Module``; outputs is the number of classes with
cross-entropy, the size of a target otherwise. Both are named ``"module:function"``, the module lying beside
the study file or installed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.kfac import layers_of
from sensitivity.study.errors import StudyFileError, UserError
from sensitivity.study.spec import ProblemSpec, StudySpec
from sensitivity.training.datasets import Dataset, digits
from sensitivity.training.losses import LOSSES, LossFunction
from sensitivity.training.models import perceptron, small_cnn

ModelBuilder = Callable[[tuple[int, ...], int], nn.Module]
_DATASETS: dict[str, Callable[[ProblemSpec], Dataset]] = {"digits": digits}
_MODELS: dict[str, ModelBuilder] = {"perceptron": perceptron, "small_cnn": small_cnn}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What a pack trains."""

    dataset: Dataset
    build_model: Callable[[], nn.Module]
    """Builds one network, drawing its initialisation from torch's global generator."""
    loss: LossFunction
    has_classes: bool


def load_problem(
    spec: ProblemSpec, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Problem:
    """Return the problem that a study names, its data on `device` (the CPU if none is given).

    Raises:
        UserError: the user's own function is not found, or what it returns does not fit.
    """
    builder = _DATASETS.get(spec.dataset)
    dataset = builder(spec) if builder else _user_dataset(spec)
    dataset = dataset.to(device or torch.device("cpu"), dtype)
    has_classes = spec.loss == "cross_entropy"
    outputs = _outputs(spec, dataset, has_classes=has_classes)
    build = _MODELS.get(spec.model) or _import(spec.model, "problem.model")
    shape = tuple(dataset.train_inputs.shape[1:])

    def build_model() -> nn.Module:
        model = build(shape, outputs)
        if not isinstance(model, nn.Module):
            raise UserError(f"problem.model: {spec.model} returned {type(model).__name__}; return a torch.nn.Module")
        return model.to(device or torch.device("cpu"), dtype)

    return Problem(dataset=dataset, build_model=build_model, loss=LOSSES[spec.loss], has_classes=has_classes)


def check_study(spec: StudySpec, problem: Problem, *, source: str) -> None:
    """Check what only the problem can tell, and build and run its model once.

    Raises:
        StudyFileError: with every mistake found; `source` names the study file.
    """
    size = problem.dataset.train_size
    mistakes = [
        f"batch_sizes[{k}]: {batch} is larger than the training set; allowed: 1 to {size}"
        for k, batch in enumerate(spec.batch_sizes)
        if batch > size
    ]
    if (spec.evaluation.train_examples or 0) > size:
        mistakes.append(
            f"evaluation.train_examples: {spec.evaluation.train_examples} is more than the training set has; "
            f"allowed: 1 to {size}"
        )
    try:
        model = problem.build_model()
        with torch.no_grad():
            outputs = model(problem.dataset.train_inputs[:2])
        problem.loss(outputs.unsqueeze(0), problem.dataset.train_targets[:2].unsqueeze(0))
    except UserError:
        raise
    except Exception as error:  # whatever the user's model raises is theirs to read
        mistakes.append(f"problem.model: {spec.problem.model} fails on two examples: {type(error).__name__}: {error}")
    else:
        if not layers_of(model):
            mistakes += [
                f"optimizers.{name}: K-FAC covers no layer of problem.model ({spec.problem.model}); it covers trained "
                "Linear, Conv1d, Conv2d and Embedding layers. Use another model, or leave this optimizer out"
                for name, arm in spec.optimizers.items()
                if arm.kind == "kfac"
            ]
    if mistakes:
        raise StudyFileError(source, mistakes)


def _user_dataset(spec: ProblemSpec) -> Dataset:
    parts = _import(spec.dataset, "problem.dataset")()
    if not isinstance(parts, (tuple, list)) or len(parts) != 4:
        raise UserError(
            f"problem.dataset: {spec.dataset} must return train inputs, train targets, test inputs, test targets"
        )
    train_x, train_y, test_x, test_y = (torch.as_tensor(part) for part in parts)
    for name, inputs, targets in (("train", train_x, train_y), ("test", test_x, test_y)):
        if len(inputs) != len(targets) or not len(inputs):
            raise UserError(
                f"problem.dataset: {spec.dataset}: {len(inputs)} {name} inputs and {len(targets)} targets; "
                "there must be as many, and at least one"
            )
        if not torch.isfinite(inputs).all():
            raise UserError(f"problem.dataset: {spec.dataset}: {name} inputs hold NaN or infinity; clean or fill them")
    if not train_x.is_floating_point():
        train_x, test_x = train_x.float(), test_x.float()
    return Dataset(train_inputs=train_x, train_targets=train_y, test_inputs=test_x, test_targets=test_y)


def _outputs(spec: ProblemSpec, dataset: Dataset, *, has_classes: bool) -> int:
    targets: tuple[Tensor, ...] = (dataset.train_targets, dataset.test_targets)
    if has_classes:
        if any(t.dim() != 1 or t.dtype != torch.int64 or int(t.min()) < 0 for t in targets):
            raise UserError(
                f'problem.dataset: {spec.dataset}: loss = "cross_entropy" needs targets that are classes: '
                f"int64 of shape [examples], from 0; got {targets[0].dtype} {list(targets[0].shape)}"
            )
        return max(int(t.max()) for t in targets) + 1
    if any(t.dim() != 2 or not t.is_floating_point() for t in targets):
        raise UserError(
            f'problem.dataset: {spec.dataset}: loss = "squared_error" needs floating-point targets of shape '
            f"[examples, outputs]; got {targets[0].dtype} {list(targets[0].shape)}"
        )
    return int(targets[0].shape[1])


def _import(path: str, field: str) -> Callable[..., Any]:
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{field}: {path}: {error}\n  Put the module beside the study file, or install it in this environment"
        ) from None
    found = getattr(module, name, None)
    if not callable(found):
        raise UserError(f"{field}: {module_name} has no function {name!r}")
    function: Callable[..., Any] = found
    return function
