"""A user's data set, by import path."""

from __future__ import annotations

import torch

from sensitivity.study.errors import UserError
from sensitivity.study.problem import ProblemSpec
from sensitivity.study.user_functions import import_function
from sensitivity.study.users_code import users_code
from sensitivity.training.datasets.dataset import Dataset, Mapped, are_sequences
from sensitivity.training.datasets.own_arrays import PARTS, as_tensor, parts_of
from sensitivity.training.datasets.pieces import is_mapped


def user_dataset(spec: ProblemSpec) -> Dataset:
    """Return the validated result of the user's function.

    Raises:
        UserError: the function is not found, raises an exception, or does not return a data set.
    """
    where = f"problem.dataset: {spec.dataset}"
    load = import_function(spec.dataset, "problem.dataset")
    with users_code(where):
        returned = load()
    parts = parts_of(returned, where)
    mapped = any(map(is_mapped, parts))
    train_x, train_y, test_x, test_y = (
        as_tensor(part, f"{where}: {name}") for name, part in zip(PARTS, parts, strict=True)
    )
    for split, inputs, targets in (("train", train_x, train_y), ("test", test_x, test_y)):
        if len(inputs) != len(targets) or not len(inputs):
            raise UserError(
                f"{where}: {len(inputs)} {split} inputs and {len(targets)} targets; their numbers must be equal and at "
                "least 1"
            )
    if train_x.shape[1:] != test_x.shape[1:] or train_x.dtype != test_x.dtype:
        raise UserError(
            f"{where}: a train input is {list(train_x.shape[1:])} of {train_x.dtype}, a test "
            f"input {list(test_x.shape[1:])} of {test_x.dtype}; they must be equal"
        )
    ids = train_x.dtype in (torch.uint16, torch.int32, torch.int64) or (
        train_x.dim() == 2 and are_sequences(train_x, train_y)
    )
    as_floats = not train_x.is_floating_point() and not ids  # images as bytes; wider integers may be ids
    if as_floats and not mapped:
        train_x, test_x = train_x.float(), test_x.float()
    return Dataset(
        train_inputs=train_x,
        train_targets=train_y,
        test_inputs=test_x,
        test_targets=test_y,
        mapped=Mapped(as_floats=as_floats) if mapped else None,
    )
