"""Conversion of file system errors about a user's path into messages."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from sensitivity.study.errors import UserError, shortened

STUDIES = "studies"
"""Default folder of study directories."""
_MOST = 500
"""Maximum characters of a path in a message."""


@contextlib.contextmanager
def path_faults(place: str | Path, fix: str, *, what: str = "can't be read") -> Iterator[None]:
    """Turn file system errors of the block into a message with the path, what failed, why, and the fix.

    Besides OSError these are RuntimeError (an unknown home folder, circular links), ValueError (a null byte) and
    UnicodeError.

    Raises:
        UserError: any of these was raised.
    """
    try:
        yield
    except UserError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        where = str(place)
        if isinstance(error, OSError) and error.filename is not None:  # may be a file inside the folder
            where = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else str(error.filename)
        raise UserError(f"{shortened(where, _MOST)}: {what} ({reason(error)})\n  {fix}") from None


def reason(error: Exception) -> str:
    """Return a short reason why a path can't be used."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text (byte {error.start})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def expanded(named: str | Path, *, what: str) -> Path:
    """Return a path with ``~`` and ``~name`` replaced by home folders; `what` names it in messages.

    Raises:
        UserError: there is no such home folder.
    """
    with path_faults(f"{what} {str(named)!r}", "Give the full path", what="there is no such home folder"):
        return Path(named).expanduser()
