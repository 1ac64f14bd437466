"""Write files atomically: to a temporary file, flushed to disk and then renamed.

Every file that is written for a user or kept for later goes through `replacing` or `write_whole`, which raise
``OSError`` as the system does, or through `write_output`, which raises a `UserError` that says how to fix it. A
symbolic link keeps pointing where it did, and the file that it names is replaced. A device or a pipe, such as
``/dev/stdout``, has no content to keep and is written to directly.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensitivity.study.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a place without space left: the disk, the user's quota, the limit on a file's size."""


@dataclass(frozen=True)
class Written:
    """A written file, as read back."""

    path: Path
    size: int
    """In bytes."""


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o666) -> Iterator[Path]:
    """Yield an empty temporary file in the folder of `path`; on exit flush it to the disk and rename it to `path`.

    Missing folders are created. A file that is replaced hands on its permissions, and its owner where that is allowed;
    a new one gets `mode` less the umask. If the block or the renaming fails, the temporary file and the new folders
    are removed, and what was at `path` is unchanged.

    Raises:
        OSError: `path` is a folder or a write-protected file, or its folder can't be written.
    """
    target, found = _resolved(path)
    if found is not None and not stat.S_ISREG(found.st_mode):
        yield path
        return
    with _beside(target, mode) as beside:
        yield beside
        _flush(beside)
        if found is not None:
            with contextlib.suppress(OSError):  # the owner of a file may be given away by root alone
                os.chown(beside, found.st_uid, found.st_gid)
            beside.chmod(stat.S_IMODE(found.st_mode))
        beside.replace(target)
        with contextlib.suppress(OSError):  # not every file system flushes folders
            _flush(target.parent)


def write_whole(path: Path, data: bytes | Any, *, mode: int = 0o666) -> Written:
    """Write bytes, or a buffer of them, as the whole content of a file; see `replacing`.

    Raises:
        OSError: it can't be written, or is not there afterwards with its full size.
    """
    with replacing(path, mode=mode) as beside, beside.open("wb") as stream:
        stream.write(data)
    found = path.stat()
    if stat.S_ISREG(found.st_mode) and found.st_size != len(data):
        raise OSError(errno.EIO, f"{found.st_size} of {len(data)} bytes arrived", str(path))
    return Written(path, len(data))


def write_output(path: Path, data: bytes, *, mode: int = 0o666) -> Written:
    """Write an output file of a command, and return it as read back.

    Raises:
        UserError: it can't be written; what was there is unchanged.
    """
    with output_faults(path):
        return write_whole(path, data, mode=mode)


def refuse_unwritable(path: Path) -> None:
    """Raise early the errors of `write_output` that can be found without writing.

    Raises:
        UserError: `path` is a folder or a write-protected file, or its folder can't be written.
    """
    with output_faults(path):
        target, found = _resolved(path)
        if found is None or stat.S_ISREG(found.st_mode):
            with _beside(target, 0o600):
                pass


@contextlib.contextmanager
def output_faults(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` into a message that names `path`, the reason, and how to fix it.

    Raises:
        UserError: whatever could not be written.
    """
    try:
        yield
    except OSError as error:
        # Path.is_file raises where a name is too long.
        kept = "the file that was there is unchanged; " if os.path.isfile(path) else ""  # noqa: PTH113
        reason = error.strerror or str(error) or type(error).__name__
        fix = f"{kept}{_fix(error.errno, path)}"
        raise UserError(f"{path}: can't be written ({reason})\n  {fix[0].upper()}{fix[1:]}") from None


def _fix(code: int | None, path: Path) -> str:
    if code in FULL:
        return "make room there, or write to another disk"
    if code == errno.EROFS:
        return "the file system is read-only; write to another place"
    if code in (errno.EACCES, errno.EPERM):
        return f"get the right to write to it and to its folder {path.absolute().parent}, or write to another place"
    if code == errno.EISDIR:
        return f"a folder has this name; give a file in it, such as {path / 'output'}"
    if code in (errno.ENOTDIR, errno.EEXIST):
        return "a part of this path is a file, not a folder; write to another place"
    if code == errno.ENAMETOOLONG:
        return "give a shorter name"
    return "write to another place"


def _resolved(path: Path) -> tuple[Path, os.stat_result | None]:
    """Return the target of `path` and its status, if it exists."""
    try:
        found = path.stat()
    except FileNotFoundError:
        found = None
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if found is not None and stat.S_ISREG(found.st_mode):  # a rename would not ask whether it may be written
        os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
    return Path(os.path.realpath(path)), found


@contextlib.contextmanager
def _beside(target: Path, mode: int) -> Iterator[Path]:
    """Yield an empty file beside `target`; unless it is renamed, remove it and the folders made for it."""
    missing = [folder for folder in target.parents if not os.path.lexists(folder)]
    beside = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))
        yield beside
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        for folder in missing:  # the deepest first; one that holds the renamed file stays
            with contextlib.suppress(OSError):
                folder.rmdir()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
