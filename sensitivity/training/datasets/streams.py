"""Streams of examples: a data set by index, a list of pairs, a generator, or a ``DataLoader``.

Each process iterates over a stream once, in its own order, and writes the examples to the data folder under their
digest; all workers of a node then map the same copy into memory. Hence every example has an index, a run's seed draws
indices as for arrays, and runs are paired exactly regardless of how the examples were generated.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sensitivity.study.errors import UserError
from sensitivity.study.users_code import users_code
from sensitivity.study.words import kind_of
from sensitivity.training.datasets.data_folder import data_folder, only_one, writing

logger = logging.getLogger(__name__)

Arrays = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
"""Inputs and targets."""
_NAMES = ("inputs", "targets")
_LEAST_LEFT = 1 << 30
"""Minimum free disk space in bytes."""
_CHECK_EVERY = 1 << 26
"""Number of bytes written between checks of the free space."""
_REPORT_EVERY_S = 30.0
"""Seconds between reports of how much is written, where that takes long."""
_NO_STREAMS = (tuple, dict, str, bytes, np.ndarray, Tensor)


def is_stream(part: Any) -> bool:
    """Whether an object is a stream of examples: a data set by index, an iterable, or a list of tuples of two."""
    if isinstance(part, list):
        return all(isinstance(each, tuple) and len(each) == len(_NAMES) for each in part)
    by_index = hasattr(part, "__getitem__") and hasattr(part, "__len__")
    return not isinstance(part, (*_NO_STREAMS, type)) and (by_index or hasattr(part, "__iter__"))


def stored(examples: Any, where: str) -> Arrays:
    """Write all examples to the data folder, and return memory-mapped inputs and targets ``[examples, ...]``.

    Raises:
        UserError: the user's code raises an exception, an example is not a pair or differs in form from the first one,
            or the disk is full.
    """
    return _written(_batches(examples, where), where)


def chosen(inputs: Tensor, targets: Tensor, rows: Tensor, where: str) -> Arrays:
    """Like `stored`, for the examples at `rows` of memory-mapped arrays.

    Raises:
        UserError: the disk is full.
    """
    at_once = max(1, _CHECK_EVERY // max(1, inputs[:1].nbytes + targets[:1].nbytes))
    parts = torch.split(rows, at_once)
    return _written(((inputs[some].numpy(), targets[some].numpy()) for some in parts), where)


def _written(batches: Iterable[Arrays], where: str) -> Arrays:
    place = data_folder() / "arrays"
    key = f"stream-{hashlib.sha256(where.encode()).hexdigest()[:16]}"
    with only_one(key):
        scratch = place / f".{key}"
        with writing():
            shutil.rmtree(scratch, ignore_errors=True)  # left by a killed process
            scratch.mkdir(parents=True)
        try:
            files = [_Column(scratch / name) for name in _NAMES]
            try:
                _write(batches, files, where)
            finally:
                forms = [file.close() for file in files]
            digest = hashlib.sha256("".join(forms).encode()).hexdigest()[:32]
            folder = place / f"stream-{digest}"
            if not folder.exists():
                with writing():
                    scratch.replace(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    inputs, targets = (file.mapped(folder / name) for file, name in zip(files, _NAMES, strict=True))
    return inputs, targets


class _Column:
    """A file of concatenated arrays of equal form."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")
        self._digest = hashlib.sha256()
        self._form: tuple[np.dtype[Any], tuple[int, ...]] | None = None
        self.count = self.bytes = 0

    def add(self, values: np.ndarray[Any, Any], where: str) -> None:
        """Append ``[examples, ...]``; UserError if their form differs from that of the first."""
        form = values.dtype, values.shape[1:]
        self._form = self._form or form
        if form != self._form:
            raise UserError(
                f"{where}: example {self.count:,} is {form[0]} {list(form[1])}, and the first one {self._form[0]} "
                f"{list(self._form[1])}; they must be equal"
            )
        with writing():
            content = np.ascontiguousarray(values).data
            self._file.write(content)
        self._digest.update(content)
        self.count += len(values)
        self.bytes += values.nbytes

    def close(self) -> str:
        """Write the buffered examples, and return a digest of all."""
        with writing():
            self._file.close()
        return f"{self._form} {self.count} {self._digest.hexdigest()}"

    def mapped(self, path: Path) -> np.ndarray[Any, Any]:
        """Return the memory-mapped content of a file of this form."""
        assert self._form is not None
        dtype, shape = self._form
        # Copy on write, because torch does not support read-only arrays; nothing is ever written.
        return np.memmap(path, dtype, "c", shape=(self.count, *shape))


def _write(batches: Iterable[Arrays], files: Sequence[_Column], where: str) -> None:
    looked, reported = 0, time.monotonic()
    for values in batches:
        for file, each in zip(files, values, strict=True):
            file.add(each, where)
        written = sum(file.bytes for file in files)
        if written - looked >= _CHECK_EVERY:
            looked = written
            _require_room(written, where)
        if time.monotonic() - reported >= _REPORT_EVERY_S:
            reported = time.monotonic()
            logger.warning("%s: %s examples (%.2g GiB) written so far", where, f"{files[0].count:,}", written / 2**30)
    if not any(file.bytes for file in files):
        raise UserError(f"{where}: it contains no examples; was a generator exhausted before?")


def _batches(examples: Any, where: str) -> Iterator[Arrays]:
    """Yield inputs and targets ``[some, ...]`` of a batch of a ``DataLoader``, otherwise of one example."""
    several, done = isinstance(examples, DataLoader) and examples.batch_size is not None, 0
    for pair in _each(examples, where):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            got = f"{len(pair)} things" if isinstance(pair, (tuple, list)) else kind_of(pair)
            raise UserError(f"{where}: example {done:,} is {got}; each must be a pair (input, target)")
        values = [_array(part, f"{where}: {name} of example {done:,}") for part, name in zip(pair, _NAMES, strict=True)]
        values = values if several else [each[None] for each in values]
        if values[0].ndim == 0 or values[0].shape[:1] != values[1].shape[:1]:
            raise UserError(
                f"{where}: a batch has inputs {list(values[0].shape)} and targets {list(values[1].shape)}; their "
                "numbers must be equal"
            )
        done += len(values[0])
        yield values[0], values[1]


def _each(examples: Any, where: str) -> Iterator[Any]:
    """Yield the items of a user's stream, converting exceptions to messages."""
    by_index = hasattr(examples, "__getitem__") and hasattr(examples, "__len__")
    with users_code(where):
        source: Iterable[Any] = (examples[k] for k in range(len(examples))) if by_index else examples
        iterator = iter(source)
    nothing = object()
    while True:
        with users_code(where):
            pair = next(iterator, nothing)
        if pair is nothing:
            return
        yield pair


def _array(part: Any, where: str) -> np.ndarray[Any, Any]:
    try:
        found: np.ndarray[Any, Any] = torch.as_tensor(part).detach().cpu().numpy()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{where} is {kind_of(part)} that can't be converted to a tensor ({str(error).splitlines()[0]}); "
            "give a tensor, an array or a number"
        ) from None
    return found


def _require_room(written: int, where: str) -> None:
    free = shutil.disk_usage(data_folder()).free
    if free < _LEAST_LEFT:
        raise UserError(
            f"{where}: the data folder {data_folder()} has {free / 2**30:.1f} GiB left after {written / 2**30:.1f} GiB "
            "of examples\n  Is the stream infinite? Make room there, or set SENSITIVITY_DATA to another folder"
        )
