"""Where data sets are kept on a node: one folder, shared by all workers and studies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from sensitivity.study.errors import UserError
from sensitivity.study.paths import expanded, path_faults

VARIABLE = "SENSITIVITY_DATA"
"""The environment variable that names the folder."""


def data_folder() -> Path:
    """Return the folder: what SENSITIVITY_DATA names, or ``~/.cache/sensitivity``.

    Raises:
        UserError: it lies in a home folder that is not known.
    """
    named = os.environ.get(VARIABLE, "")
    if named:
        return expanded(named, what=VARIABLE)
    with path_faults("~/.cache/sensitivity", f"Set {VARIABLE} to a folder for data sets", what="no home folder"):
        return Path.home() / ".cache" / "sensitivity"


@contextlib.contextmanager
def only_one(what: str) -> Iterator[None]:
    """Let one process of this node at a time prepare `what`; the others wait. A killed one blocks nobody.

    Raises:
        UserError: the data folder can't be written.
    """
    from filelock import FileLock  # here: a worker that finds its data ready does not need it

    with writing():
        locks = data_folder() / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(locks / f"{what}.lock")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def reserve(path: Path) -> None:
    """Allocate a file's whole size on the disk: one that is mapped into memory ends the process where none is left.

    Raises:
        OSError: there is not enough space.
    """
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    with path.open("r+b") as stream:
        os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Say what to do when the data folder can't be written.

    Raises:
        UserError: the data folder can't be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the data folder {data_folder()} can't be written ({error.strerror or error})\n"
            f"  Make room or give rights there, or set {VARIABLE} to another folder"
        ) from None
