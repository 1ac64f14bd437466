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

from sensitivity.study.errors import UserError, users_code
from sensitivity.study.spec import ProblemSpec
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.datasets.digits import digits
from sensitivity.training.losses import LOSSES, LossFunction
from sensitivity.training.models.perceptron import perceptron
from sensitivity.training.models.small_cnn import small_cnn

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
    outputs: int
    """Number of classes, or size of a target."""


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

    return Problem(
        dataset=dataset, build_model=build_model, loss=LOSSES[spec.loss], has_classes=has_classes, outputs=outputs
    )


def _user_dataset(spec: ProblemSpec) -> Dataset:
    load = _import(spec.dataset, "problem.dataset")
    with users_code(f"problem.dataset: {spec.dataset}"):
        parts = load()
    if not isinstance(parts, (tuple, list)) or len(parts) != 4:
        raise UserError(
            f"problem.dataset: {spec.dataset} must return train inputs, train targets, test inputs, test targets"
        )
    with users_code(f"problem.dataset: {spec.dataset}"):
        train_x, train_y, test_x, test_y = (torch.as_tensor(part) for part in parts)
    for name, inputs, targets in (("train", train_x, train_y), ("test", test_x, test_y)):
        if len(inputs) != len(targets) or not len(inputs):
            raise UserError(
                f"problem.dataset: {spec.dataset}: {len(inputs)} {name} inputs and {len(targets)} targets; "
                "there must be as many, and at least one"
            )
        for what, values in (("inputs", inputs), ("targets", targets)):
            if not torch.isfinite(values).all():
                raise UserError(
                    f"problem.dataset: {spec.dataset}: {name} {what} hold NaN or infinity; clean or fill them"
                )
    if train_x.shape[1:] != test_x.shape[1:] or train_x.dtype != test_x.dtype:
        raise UserError(
            f"problem.dataset: {spec.dataset}: a train input is {list(train_x.shape[1:])} of {train_x.dtype}, a test "
            f"input {list(test_x.shape[1:])} of {test_x.dtype}; they must be alike"
        )
    if not train_x.is_floating_point() and train_x.dtype not in (torch.int32, torch.int64):
        train_x, test_x = train_x.float(), test_x.float()  # images as bytes; wider integers may be an embedding's
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
    except Exception as error:
        raise UserError(f"{field}: {path}: importing it raises {type(error).__name__}: {error}") from None
    found = getattr(module, name, None)
    if not callable(found):
        raise UserError(f"{field}: {module_name} has no function {name!r}")
    function: Callable[..., Any] = found
    return function
