"""A data set of the user's own, by import path."""

from __future__ import annotations

import torch

from sensitivity.study.errors import UserError, users_code
from sensitivity.study.spec import ProblemSpec
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.user_functions import import_function


def user_dataset(spec: ProblemSpec) -> Dataset:
    """Return what the user's function gives, checked.

    Raises:
        UserError: the function is not found, raises, or returns something else than a data set.
    """
    load = import_function(spec.dataset, "problem.dataset")
    with users_code(f"problem.dataset: {spec.dataset}"):
        parts = load()
    if not isinstance(parts, (tuple, list)) or len(parts) != 4:
        raise UserError(
            f"problem.dataset: {spec.dataset} must return train inputs, train targets, test inputs, test targets"
        )
    with users_code(f"problem.dataset: {spec.dataset}"):
        train_x, train_y, test_x, test_y = (torch.as_tensor(part).detach() for part in parts)
    for name, inputs, targets in (("train", train_x, train_y), ("test", test_x, test_y)):
        for what, values in (("inputs", inputs), ("targets", targets)):
            if values.dim() == 0 or values.layout != torch.strided or values.is_complex() or 0 in values.shape[1:]:
                raise UserError(
                    f"problem.dataset: {spec.dataset}: {name} {what} are {str(values.dtype).removeprefix('torch.')} of "
                    f"shape {list(values.shape)}, {str(values.layout).removeprefix('torch.')}; they must be dense, "
                    "real numbers, [examples, ...], at least one an example"
                )
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
