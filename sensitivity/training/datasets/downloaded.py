"""Data sets downloaded by torchvision: CIFAR-10, CIFAR-100, SVHN, MNIST, Fashion-MNIST.

Archives are stored in the data folder under ``downloads/NAME`` and verified with torchvision's MD5 sums; a machine
without a network uses archives that are already there. They are decoded once.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from sensitivity.study.errors import UserError
from sensitivity.study.problem import ProblemSpec
from sensitivity.training.datasets.data_folder import data_folder, writing
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.datasets.image_arrays import image_arrays
from sensitivity.training.datasets.torchvision_import import torchvision_datasets

logger = logging.getLogger(__name__)

_Pixels = npt.NDArray[np.uint8]
_Classes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Source:
    """How to read a data set with torchvision."""

    class_name: str
    splits: tuple[dict[str, Any], dict[str, Any]]
    """Arguments that select the training and the test split."""
    read: Callable[[Any], tuple[_Pixels, _Classes]]
    """Maps torchvision's object to images ``[images, channels, height, width]`` and classes."""
    archives: Callable[[Any], tuple[str, ...]]
    """Maps torchvision's class to the names of its downloaded files, relative to the download folder."""
    unpacked: Callable[[Any], str | None]
    """Maps torchvision's class to the folder of unpacked files, whose content it would use without verification."""


def _cifar(data: Any) -> tuple[_Pixels, _Classes]:
    return np.ascontiguousarray(data.data.transpose(0, 3, 1, 2)), np.asarray(data.targets, np.int64)


def _svhn(data: Any) -> tuple[_Pixels, _Classes]:
    return np.ascontiguousarray(data.data), np.asarray(data.labels, np.int64)


def _mnist(data: Any) -> tuple[_Pixels, _Classes]:
    return data.data.numpy()[:, None], data.targets.numpy().astype(np.int64)


_TRAIN_OR_TEST = ({"train": True}, {"train": False})


def _cifar_source(class_name: str) -> _Source:
    return _Source(class_name, _TRAIN_OR_TEST, _cifar, lambda cls: (cls.filename,), lambda cls: cls.base_folder)


def _mnist_source(class_name: str) -> _Source:
    return _Source(
        class_name,
        _TRAIN_OR_TEST,
        _mnist,
        lambda cls: tuple(f"{class_name}/raw/{name}" for name, _ in cls.resources),
        lambda cls: f"{class_name}/raw",
    )


_SOURCES = {
    "cifar10": _cifar_source("CIFAR10"),
    "cifar100": _cifar_source("CIFAR100"),
    "mnist": _mnist_source("MNIST"),
    "fashion_mnist": _mnist_source("FashionMNIST"),
    "svhn": _Source(
        "SVHN",
        ({"split": "train"}, {"split": "test"}),
        _svhn,
        lambda cls: tuple(cls.split_list[split][1] for split in ("train", "test")),
        lambda cls: None,
    ),
}
NAMES = tuple(_SOURCES)
_ATTEMPTS = 2
"""Number of attempts if a connection breaks."""
_SILENCE_S = 60.0
"""Timeout of a connection; torchvision and all waiting workers would otherwise wait forever."""


def downloaded(spec: ProblemSpec) -> Dataset:
    """Return a data set with its official split; it is downloaded and decoded once per node.

    Raises:
        UserError: it can't be downloaded, or the data folder can't be written.
    """
    source = _SOURCES[spec.dataset]

    def decode(scratch: Path) -> tuple[_Classes, int]:
        (train, train_classes), (test, test_classes) = _read(spec.dataset, source)
        with writing():
            np.save(scratch / "images.npy", np.concatenate((train, test)))
        return np.concatenate((train_classes, test_classes)), len(train)

    return image_arrays(spec.dataset, decode).dataset(spec)


def _read(name: str, source: _Source) -> list[tuple[_Pixels, _Classes]]:
    """Download missing or damaged files, and read both splits."""
    torchvision = torchvision_datasets()
    root = data_folder() / "downloads" / name
    for attempt in range(_ATTEMPTS):
        with writing():
            root.mkdir(parents=True, exist_ok=True)
            _forget_unpacked(torchvision, root, source)
        try:
            return _splits(torchvision, root, source)
        except Exception as error:  # urllib and torchvision's readers raise various types
            reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
            logger.debug("%s: attempt %d: %s", name, attempt + 1, reason)
    archives = source.archives(getattr(torchvision, source.class_name))
    raise UserError(
        f"the data set {name} can't be downloaded ({reason})\n"
        "  Connect this machine to the network, or put the original files there yourself:\n"
        + "\n".join(f"    {root / archive}" for archive in archives)
    )


def _forget_unpacked(torchvision: ModuleType, root: Path, source: _Source) -> None:
    """Remove files unpacked by an earlier, possibly interrupted attempt, to unpack verified archives again."""
    unpacked = source.unpacked(getattr(torchvision, source.class_name))
    for path in (root / unpacked).glob("*") if unpacked else ():
        if path.suffix != ".gz":
            path.unlink()


def _splits(torchvision: ModuleType, root: Path, source: _Source) -> list[tuple[_Pixels, _Classes]]:
    build = getattr(torchvision, source.class_name)
    # stdout is the command's
    with contextlib.redirect_stdout(sys.stderr), _patience(_SILENCE_S), _filtered_extraction():
        return [source.read(build(str(root), download=True, **split)) for split in source.splits]


@contextlib.contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Set the timeout of connections opened in the block."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _filtered_extraction() -> Iterator[None]:
    """Unpack tar archives with the filter that is the default from Python 3.14 on; without one, 3.12 and 3.13 warn."""
    if not hasattr(tarfile, "data_filter"):  # before Python 3.11.4
        yield
        return
    before = vars(tarfile.TarFile)["extraction_filter"]
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = before
