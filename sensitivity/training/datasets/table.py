"""A user's table, ``table:PATH``: CSV, Parquet, ``.npz`` or ``.npy``.

A relative PATH is relative to the study file or else to the data folder. ``problem.columns`` assigns roles to columns.
The columns of an ``.npy`` are its second dimension, named "0", "1" and so on; an ``.npz`` contains arrays by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sensitivity.study.errors import UserError
from sensitivity.study.metrics import SPLITS
from sensitivity.study.nearest import nearest
from sensitivity.study.paths import expanded, path_faults
from sensitivity.study.problem import TABLE, ColumnsSpec, ProblemSpec
from sensitivity.training.datasets.data_folder import data_folder
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.datasets.own_arrays import as_tensor
from sensitivity.training.datasets.rows import Rows, split_rows

_Column = npt.NDArray[Any]
_FEW = 8
"""Maximum number of names in a message."""


def table(spec: ProblemSpec, *, beside: Path | None) -> Dataset:
    """Return the rows of ``table:PATH`` as a data set, where `beside` is the folder of the study file.

    Raises:
        UserError: the file is missing or damaged, or a column is missing or not numeric.
    """
    path = _find(spec.dataset.removeprefix(TABLE).strip(), beside)
    where = f"problem.dataset: {path.name}"
    with path_faults(path, "Give a readable file"):
        content = path.read_bytes()
    try:
        columns = _READERS[path.suffix.lower()](path)
    except (OSError, ValueError, KeyError, EOFError) as error:  # pyarrow's errors are ValueErrors
        raise UserError(f"{where}: can't be read as {path.suffix} ({str(error).splitlines()[0]})") from None
    rows = _rows(columns, spec, where, arrays=path.suffix.lower() == ".npz")
    return split_rows(rows, spec, hashlib.sha256(content).hexdigest()[:16])


def _find(named: str, beside: Path | None) -> Path:
    path = expanded(named, what="problem.dataset")
    places = [path] if path.is_absolute() else [*([] if beside is None else [beside / path]), data_folder() / path]
    for place in places:
        with path_faults(place, "Give the path of a readable file"):
            if place.is_file():
                return place.resolve()
    raise UserError(
        f"problem.dataset: there is no file {named!r}; tried\n" + "\n".join(f"    {place}" for place in places)
    )


def _arrow(read: Callable[[Path], Any]) -> Callable[[Path], dict[str, _Column]]:
    def columns(path: Path) -> dict[str, _Column]:
        found = read(path)
        if len(set(found.column_names)) < found.num_columns:
            raise ValueError("a column name is repeated")
        return {name: found[name].to_numpy() for name in found.column_names}

    return columns


def _csv(path: Path) -> Any:
    from pyarrow import csv  # imported here because only tables need it

    return csv.read_csv(path)


def _parquet(path: Path) -> Any:
    from pyarrow import parquet

    return parquet.read_table(path)


def _npz(path: Path) -> dict[str, _Column]:
    with np.load(path, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def _npy(path: Path) -> dict[str, _Column]:
    found = np.load(path, allow_pickle=False)
    if found.ndim != 2:
        raise ValueError(f"an array of shape {list(found.shape)}; it must be [rows, columns]")
    return {str(k): found[:, k] for k in range(found.shape[1])}


_READERS: Mapping[str, Callable[[Path], dict[str, _Column]]] = {
    ".csv": _arrow(_csv),
    ".parquet": _arrow(_parquet),
    ".npz": _npz,
    ".npy": _npy,
}


def _rows(columns: Mapping[str, _Column], spec: ProblemSpec, where: str, *, arrays: bool) -> Rows:
    chosen = spec.columns or ColumnsSpec()
    targets = chosen.targets or (("y",) if arrays else tuple(columns)[-1:])
    used = {name for name in (*targets, chosen.split, chosen.group) if name is not None}
    inputs = chosen.inputs or (("x",) if arrays else tuple(name for name in columns if name not in used))
    for field, names in (
        ("inputs", inputs),
        ("targets", targets),
        ("split", (chosen.split,)),
        ("group", (chosen.group,)),
    ):
        for name in names:
            if name is not None and name not in columns:
                raise UserError(f"problem.columns.{field}: {where} has no {_missing(name, columns)}")
    if not inputs:
        raise UserError(f"{where}: no column is left for inputs; already used: {', '.join(sorted(used))}")
    if shared := set(inputs) & used:
        raise UserError(f"problem.columns.inputs: {sorted(shared)[0]!r} has another role in problem.columns; remove it")
    lengths = {name: len(columns[name]) for name in (*inputs, *used)}
    if len(set(lengths.values())) > 1:
        raise UserError(f"{where}: arrays of different lengths: {', '.join(f'{n} {k:,}' for n, k in lengths.items())}")
    if not next(iter(lengths.values())):
        raise UserError(f"{where}: it has no rows")
    return Rows(
        inputs=_joined([_numbers(columns[name], f"{where}: column {name}") for name in inputs]),
        targets=_targets([columns[name] for name in targets], targets, spec, where),
        splits=None if chosen.split is None else _splits(columns[chosen.split], chosen.split, where, spec),
        groups=None if chosen.group is None else _codes(columns[chosen.group]),
    )


def _missing(name: str, columns: Mapping[str, _Column]) -> str:
    meant = nearest(name, columns)
    hint = f" (did you mean {meant!r}?)" if meant else ""
    more = f", and {len(columns) - _FEW:,} more" if len(columns) > _FEW else ""
    return f"column {name!r}{hint}. It has: {', '.join(list(columns)[:_FEW])}{more}"


def _numbers(column: _Column, where: str) -> Tensor:
    """Return a numeric column ``[rows, ...]`` without missing values."""
    if column.dtype.kind in "OUSMm":
        raise UserError(f"{where} contains {_kind(column)}; inputs are numbers: encode it, or remove it from inputs")
    if column.dtype.kind == "f" and not np.isfinite(column).all():
        bad = ~np.isfinite(column.reshape(len(column), -1)).all(1)
        raise UserError(
            f"{where}: {int(bad.sum()):,} of {len(column):,} rows have no finite number, the first is row "
            f"{int(bad.argmax()) + 1}; fill in values, or remove these rows"
        )
    return as_tensor(column, where)


def _kind(column: _Column) -> str:
    if column.dtype.kind in "Mm":
        return "dates"
    values = column.ravel().tolist()
    return "missing values" if any(value is None for value in values) else "text"


def _joined(columns: Sequence[Tensor]) -> Tensor:
    """Return columns concatenated to ``[rows, columns]``; a single array is unchanged."""
    if len(columns) == 1 and columns[0].dim() > 1:
        return columns[0]
    return torch.cat([column.double().reshape(len(column), -1) for column in columns], 1)


def _targets(columns: Sequence[_Column], names: Sequence[str], spec: ProblemSpec, where: str) -> Tensor:
    """Return classes ``[rows]`` if the loss needs them, with text sorted; otherwise numbers ``[rows, outputs]``."""
    texts = columns[0].dtype.kind in "OUS"
    whole = columns[0].dtype.kind in "biu"
    own = ":" in spec.loss
    if spec.loss != "cross_entropy" and not (own and (texts or whole)):
        return _joined(
            [_numbers(column, f"{where}: column {name}") for column, name in zip(columns, names, strict=True)]
        ).double()
    if len(columns) > 1:
        raise UserError(f"problem.columns.targets: classes must be in one column; got {', '.join(names)}")
    if texts:
        if _kind(columns[0]) == "missing values":
            raise UserError(f"{where}: column {names[0]}: some rows have no class; add classes, or remove the rows")
        return _codes(columns[0])
    values = _numbers(columns[0], f"{where}: column {names[0]}")
    if values.is_floating_point() and not bool((values == values.round()).all()):
        raise UserError(
            f'{where}: column {names[0]}: loss = "{spec.loss}" needs classes, but it contains numbers such as '
            f'{float(values[values != values.round()][0]):g}; for these use loss = "squared_error"'
        )
    return values.long()


def _codes(column: _Column) -> Tensor:
    """Return the index of each value among the sorted distinct values."""
    return torch.from_numpy(np.unique(column.astype(str), return_inverse=True)[1].astype(np.int64))


def _splits(column: _Column, name: str, where: str, spec: ProblemSpec) -> Tensor:
    words: list[str] = column.astype(str).tolist()
    if unknown := sorted(set(words) - set(SPLITS)):
        raise UserError(f"{where}: column {name} contains {unknown[0]!r}; allowed are train, validation and test")
    has = "validation" in words
    if has and spec.validation_fraction is None:
        raise UserError(
            f"{where}: column {name} has validation rows; set problem.validation_fraction (these rows determine the "
            "actual size), or change them to train"
        )
    if not has and spec.validation_fraction is not None:
        raise UserError(f"{where}: column {name} has no validation rows; remove problem.validation_fraction")
    return torch.tensor([SPLITS.index(word) for word in words])
