"""A data set of the user's own, by import path."""

from __future__ import annotations

import torch

from sensitivity.study.errors import UserError
from sensitivity.study.problem import ProblemSpec
from sensitivity.study.user_functions import import_function
from sensitivity.study.users_code import users_code
from sensitivity.training.datasets.dataset import Dataset, are_sequences
from sensitivity.training.datasets.own_arrays import PARTS, as_tensor, parts_of


def user_dataset(spec: ProblemSpec) -> Dataset:
    """Return what the user's function gives, checked.

    Raises:
        UserError: the function is not found, raises, or returns something else than a data set.
    """
    where = f"problem.dataset: {spec.dataset}"
    load = import_function(spec.dataset, "problem.dataset")
    with users_code(where):
        returned = load()
    named = zip(PARTS, parts_of(returned, where), strict=True)
    train_x, train_y, test_x, test_y = (as_tensor(part, f"{where}: {name}") for name, part in named)
    for split, inputs, targets in (("train", train_x, train_y), ("test", test_x, test_y)):
        if len(inputs) != len(targets) or not len(inputs):
            raise UserError(
                f"{where}: {len(inputs)} {split} inputs and {len(targets)} targets; there must be as many, and at "
                "least one"
            )
    if train_x.shape[1:] != test_x.shape[1:] or train_x.dtype != test_x.dtype:
        raise UserError(
            f"{where}: a train input is {list(train_x.shape[1:])} of {train_x.dtype}, a test "
            f"input {list(test_x.shape[1:])} of {test_x.dtype}; they must be alike"
        )
    ids = train_x.dtype in (torch.int32, torch.int64) or (train_x.dim() == 2 and are_sequences(train_x, train_y))
    if not train_x.is_floating_point() and not ids:
        train_x, test_x = train_x.float(), test_x.float()  # images as bytes; wider integers may be an embedding's
    return Dataset(train_inputs=train_x, train_targets=train_y, test_inputs=test_x, test_targets=test_y)
