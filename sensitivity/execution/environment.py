"""Environment variables of Ray. Ray reads them at import, so this module runs before and does not import Ray."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sensitivity.study.errors import UserError
from sensitivity.study.whole_files import write_output

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # The study directory is the only record; Tune's snapshots are never read.
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    # Tune's handler of Ctrl-C would wait for the running packs.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
_PREFIX = "sensitivity-"
_OWNER = "owner"
"""A file in each temporary folder that the process which created the folder locks until its end."""
_MAX_SOCKET_PATH = 107 if sys.platform.startswith("linux") else 103
"""Longest path of a socket in bytes that the system accepts."""
_SOCKET_SUFFIX = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""Longest path of Ray's sockets below its temporary folder."""
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


@contextlib.contextmanager
def ray_environment(*, local: bool) -> Iterator[Path]:
    """Set Ray's environment variables before Ray is imported, and yield a temporary folder that is deleted on exit.

    Variables set by the user are kept. A `local` Ray stores its session (logs and sockets) and its access token in that
    folder, instead of the home directory.

    Raises:
        UserError: there is no temporary folder with a path short enough for the sockets of a `local` Ray.
    """
    logging.getLogger("ray.widgets").setLevel(logging.WARNING)  # suppresses install hints in notebooks
    with _temporary_folder(_short_folder() if local else Path(tempfile.gettempdir())) as scratch:
        wanted = dict(_QUIET)
        if local:
            wanted["RAY_TMPDIR"] = str(scratch)
        if local and not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
            token = scratch / "token"
            write_output(token, secrets.token_hex(32).encode(), mode=0o600)
            wanted |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        added = {name: value for name, value in wanted.items() if name not in os.environ}
        os.environ.update(added)
        try:
            yield scratch
        finally:
            for name in added:
                os.environ.pop(name, None)


def _short_folder() -> Path:
    """Return the temporary folder, or a shorter path if it is too long for Ray's sockets.

    Raises:
        UserError: no folder has a short enough path, or RAY_TMPDIR is too long.
    """
    given = os.environ.get("RAY_TMPDIR")
    if given is not None:
        if not _fits(given):
            raise UserError(
                f"RAY_TMPDIR={given}: too long, because the path of a socket has at most {_MAX_SOCKET_PATH} bytes\n"
                f"  Set it to a folder of at most {_MAX_SOCKET_PATH - len(_SOCKET_SUFFIX)} bytes, or not at all"
            )
        return Path(tempfile.gettempdir())
    own = tempfile.gettempdir()
    for folder in (own, *_SHORT_FOLDERS):
        if _fits(f"{folder}/{_PREFIX}12345678") and Path(folder).is_dir() and os.access(folder, os.W_OK | os.X_OK):
            return Path(folder)
    most = _MAX_SOCKET_PATH - len(_SOCKET_SUFFIX) - len(f"/{_PREFIX}12345678")
    raise UserError(
        f"{own}: too long for Ray, as the path of a socket has at most {_MAX_SOCKET_PATH} bytes\n"
        f"  Set TMPDIR to a folder of at most {most} bytes"
    )


def _fits(folder: str) -> bool:
    return len(os.fsencode(folder)) + len(_SOCKET_SUFFIX) <= _MAX_SOCKET_PATH


@contextlib.contextmanager
def _temporary_folder(base: Path) -> Iterator[Path]:
    """Create a folder below `base`; on exit delete it and those left by killed processes."""
    _sweep(base)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=base, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        # Locked before it is renamed, so that no other process finds it unlocked.
        descriptor = os.open(folder / f"{_OWNER}.new", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            (folder / f"{_OWNER}.new").rename(folder / _OWNER)
            yield folder
        finally:
            os.close(descriptor)


def _sweep(base: Path) -> None:
    """Delete the folders below `base` left by killed processes."""
    for folder in base.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # it belongs to another user, is in use, or was deleted by another process
            descriptor = os.open(folder / _OWNER, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for each in folder.iterdir():
                    if each.name == _OWNER:
                        continue
                    shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()
                (folder / _OWNER).unlink()  # last, so that a folder that could not be emptied is found again
                folder.rmdir()
            finally:
                os.close(descriptor)
