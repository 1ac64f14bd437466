"""The boundary to the file system: errors raised by a user's path become messages."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from sensitivity.study.errors import UserError, shortened

STUDIES = "studies"
"""The folder of study directories where nobody names another."""
_MOST = 500
"""Characters of a path that a message shows."""


@contextlib.contextmanager
def path_faults(place: str | Path, fix: str, *, what: str = "can't be read") -> Iterator[None]:
    """Turn file system errors into a message with the place, what failed, why, and the fix.

    Beside OSError these are RuntimeError (a home folder that is not known, links in a circle), ValueError (a zero byte)
    and UnicodeError.

    Raises:
        UserError: any of these was raised.
    """
    try:
        yield
    except UserError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        where = str(place)
        if isinstance(error, OSError) and error.filename is not None:  # maybe one in a folder
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
