"""Conversion of the result of a user's data function to tensors; each message contains the fix."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sensitivity.study.errors import UserError
from sensitivity.study.users_code import users_code
from sensitivity.study.words import kind_of
from sensitivity.training.datasets.pieces import is_mapped, pieces
from sensitivity.training.datasets.streams import is_stream, stored

PARTS = ("train inputs", "train targets", "test inputs", "test targets")
_STREAMS = ("train", "test")
_MOST = torch.finfo(torch.float32).max


def parts_of(returned: Any, where: str) -> tuple[Any, ...]:
    """Return the four parts of a data set, not validated yet; streams of examples are stored as arrays first.

    Raises:
        UserError: `returned` is neither four parts nor two streams, or streams can't be stored.
    """
    wanted = (
        f"it must return {', '.join(PARTS)}, in this order; or two, train and test, each a Dataset, a DataLoader, "
        "or a generator or list of tuples (input, target)"
    )
    if not isinstance(returned, (tuple, list)):
        got = f"{kind_of(returned)}{'' if returned is not None else '; does it have a return statement?'}"
        raise UserError(f"{where} returned {got}; {wanted}")
    if len(returned) == len(_STREAMS) and all(map(is_stream, returned)):
        train, test = (stored(part, f"{where}: {name}") for part, name in zip(returned, _STREAMS, strict=True))
        return (*train, *test)
    if len(returned) != len(PARTS):
        kinds = ", ".join(type(part).__name__ for part in returned[:6])
        raise UserError(f"{where} returned {len(returned)} ({kinds}); {wanted}")
    return tuple(returned)


def as_tensor(part: Any, where: str) -> Tensor:
    """Convert one part to a dense tensor ``[examples, ...]`` of real, finite numbers; `where` names it in messages.

    Raises:
        UserError: it can't be converted.
    """
    if isinstance(part, (np.ndarray, np.generic)):
        part = _checked_array(np.asanyarray(part), where)
    elif isinstance(part, (list, tuple, float, int)):
        pass
    elif not isinstance(part, Tensor):
        raise UserError(f"{where} are {kind_of(part)}; {_fix_of(part)}")
    with users_code(where), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about read-only arrays, which are never written
        try:
            values = torch.as_tensor(part).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{where} can't be converted to a tensor ({str(error).splitlines()[0]}); give a tensor, or an array of "
                "numbers, with all examples of the same shape"
            ) from None
    if values.is_meta:
        raise UserError(f'{where} are on the "meta" device and have no values; create them on the CPU')
    if values.dim() == 0 or values.layout != torch.strided or values.is_complex():
        raise UserError(f"{where} are {_form(values)}; they must be dense, real numbers, [examples, ...]")
    if 0 in values.shape[1:]:
        raise UserError(f"{where} are {_form(values)}; there must be at least one value per example")
    _refuse_unusable(values, where)
    return values


def _refuse_unusable(values: Tensor, where: str) -> None:
    if not values.is_floating_point():
        return
    for part in pieces(values):
        if not bool(torch.isfinite(part).all()):
            raise UserError(f"{where} contain NaN or infinity; remove or replace them")
        if part.numel() and float(part.abs().max()) > _MOST:
            raise UserError(
                f"{where} contain numbers beyond {_MOST:.2g}, which are too large for training in float32; scale them"
            )


def _checked_array(array: Any, where: str) -> Any:
    """Return an array in a form that torch supports."""
    if isinstance(array, np.ma.MaskedArray):
        raise UserError(f"{where} are a masked array; fill it (array.filled(0)) or remove the masked examples")
    if array.dtype.kind not in "biufc":
        raise UserError(
            f"{where} are an array of {array.dtype}; give numbers: encode text and dates, and give all "
            "examples the same shape"
        )
    if array.dtype == np.longdouble:
        array = array.astype(np.float64)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2 and not is_mapped(array):
        return array.astype(np.int32)  # of which torch supports few operations
    if not array.dtype.isnative or any(stride < 0 for stride in array.strides):  # unsupported by torch
        return np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    return array  # a memory-mapped array stays one


def _fix_of(part: Any) -> str:
    if hasattr(part, "to_numpy"):  # pandas, polars, xarray
        return "give its numbers: .to_numpy()"
    if hasattr(part, "toarray"):  # scipy's sparse matrices
        return "give them dense: .toarray()"
    if (hasattr(part, "__getitem__") and hasattr(part, "__len__")) or hasattr(part, "__next__"):
        return (
            "give tensors or arrays of all examples, such as torch.stack([x for x, y in dataset]), or return two data "
            "sets of pairs (input, target), train and test"
        )
    return "give a tensor, or an array of numbers"


def _form(values: Tensor) -> str:
    dtype, layout = (str(each).removeprefix("torch.") for each in (values.dtype, values.layout))
    return f"{dtype} of shape {list(values.shape)}, {layout}"
