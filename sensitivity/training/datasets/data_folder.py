"""The folder in which a node stores data sets, shared by all workers and studies."""

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
    """Return the folder named by SENSITIVITY_DATA, by default ``~/.cache/sensitivity``.

    Raises:
        UserError: its home folder is unknown.
    """
    named = os.environ.get(VARIABLE, "")
    if named:
        return expanded(named, what=VARIABLE)
    with path_faults("~/.cache/sensitivity", f"Set {VARIABLE} to a folder for data sets", what="no home folder"):
        return Path.home() / ".cache" / "sensitivity"


@contextlib.contextmanager
def only_one(what: str) -> Iterator[None]:
    """Lock the preparation of `what` on this node; other processes wait. A killed process releases the lock.

    Raises:
        UserError: the data folder can't be written.
    """
    from filelock import FileLock  # imported here because workers with prepared data don't need it

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
    """Allocate disk space for a file, because a full disk would kill a process that writes to a mapped file.

    Raises:
        OSError: there is not enough space.
    """
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    with path.open("r+b") as stream:
        os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Turn errors of writing to the data folder into messages with the fix.

    Raises:
        UserError: the data folder can't be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the data folder {data_folder()} can't be written ({error.strerror or error})\n"
            f"  Make room there or allow writing, or set {VARIABLE} to another folder"
        ) from None
