"""Write files atomically: to a temporary file, flushed to disk and then renamed.

Every persistent file is written through `replacing` or `write_whole`, which raise ``OSError``, or through
`write_output`, which raises a `UserError` with the fix. Symbolic links are kept and their target is replaced. A device
or pipe, such as ``/dev/stdout``, has no content to preserve and is written directly.
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
"""Error codes of exhausted space: the disk, the user's quota, or the limit on a file's size."""


@dataclass(frozen=True)
class Written:
    """A file that was written and verified."""

    path: Path
    size: int
    """In bytes."""


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o666) -> Iterator[Path]:
    """Yield an empty temporary file in the folder of `path`; on exit flush it to the disk and rename it to `path`.

    Missing folders are created. A replaced file passes on its permissions, and its owner if that is allowed; a new file
    gets `mode` less the umask. If the block or the renaming fails, the temporary file and new folders are removed, and
    `path` is unchanged.

    Raises:
        OSError: `path` is a folder or a write-protected file, or its folder can't be written.
    """
    target, found = _resolved(path)
    if found is not None and not stat.S_ISREG(found.st_mode):
        yield path
        return
    with _temporary_file(target, mode) as temporary:
        yield temporary
        _flush(temporary)
        if found is not None:
            with contextlib.suppress(OSError):  # only root may change a file's owner
                os.chown(temporary, found.st_uid, found.st_gid)
            temporary.chmod(stat.S_IMODE(found.st_mode))
        temporary.replace(target)
        with contextlib.suppress(OSError):  # some file systems can't flush folders
            _flush(target.parent)


def write_whole(path: Path, data: bytes | Any, *, mode: int = 0o666) -> Written:
    """Write bytes, or a buffer of them, as the whole content of a file; see `replacing`.

    Raises:
        OSError: the file can't be written, or does not have its full size afterwards.
    """
    with replacing(path, mode=mode) as temporary, temporary.open("wb") as stream:
        stream.write(data)
    found = path.stat()
    if stat.S_ISREG(found.st_mode) and found.st_size != len(data):
        raise OSError(errno.EIO, f"{found.st_size} of {len(data)} bytes written", str(path))
    return Written(path, len(data))


def write_output(path: Path, data: bytes, *, mode: int = 0o666) -> Written:
    """Write an output file of a command.

    Raises:
        UserError: the file can't be written; an existing file is unchanged.
    """
    with output_faults(path):
        return write_whole(path, data, mode=mode)


def refuse_unwritable(path: Path) -> None:
    """Raise, before any work, the errors of `write_output` that can be detected without writing.

    Raises:
        UserError: `path` is a folder or a write-protected file, or its folder can't be written.
    """
    with output_faults(path):
        target, found = _resolved(path)
        if found is None or stat.S_ISREG(found.st_mode):
            with _temporary_file(target, 0o600):
                pass


@contextlib.contextmanager
def output_faults(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the block into a message that names `path`, the reason, and the fix.

    Raises:
        UserError: the block raised an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        # Path.is_file raises if a name is too long.
        kept = "the existing file is unchanged; " if os.path.isfile(path) else ""  # noqa: PTH113
        reason = error.strerror or str(error) or type(error).__name__
        fix = f"{kept}{_fix(error.errno, path)}"
        raise UserError(f"{path}: can't be written ({reason})\n  {fix[0].upper()}{fix[1:]}") from None


def _fix(code: int | None, path: Path) -> str:
    if code in FULL:
        return "make room there, or write to another disk"
    if code == errno.EROFS:
        return "the file system is read-only; write to another place"
    if code in (errno.EACCES, errno.EPERM):
        return f"get write permission for it and for its folder {path.absolute().parent}, or write to another place"
    if code == errno.EISDIR:
        return f"this is a folder; give a file in it, such as {path / 'output'}"
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
    if found is not None and stat.S_ISREG(found.st_mode):  # a rename would ignore write protection
        os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
    return Path(os.path.realpath(path)), found


@contextlib.contextmanager
def _temporary_file(target: Path, mode: int) -> Iterator[Path]:
    """Yield an empty temporary file next to `target`; on exit remove it and new folders, unless it was renamed."""
    missing = [folder for folder in target.parents if not os.path.lexists(folder)]
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        for folder in missing:  # deepest first; a folder that contains the renamed file stays
            with contextlib.suppress(OSError):
                folder.rmdir()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
