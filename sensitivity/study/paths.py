"""The boundary to the file system: whatever a path of the user's raises becomes a message."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from sensitivity.study.errors import UserError


@contextlib.contextmanager
def path_faults(place: str | Path, fix: str) -> Iterator[None]:
    """Turn what a path and its file system may raise into a message: the place, the reason and the fix.

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
        strange = isinstance(error, OSError) and error.filename not in (None, str(place), place)
        where = f"{error.filename}" if strange and isinstance(error, OSError) else str(place)
        raise UserError(f"{where}: {reason(error)}\n  {fix}") from None


def reason(error: Exception) -> str:
    """Return in a few words why a path can't be used."""
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
    with path_faults(f"{what} {str(named)!r}", "Give the full path"):
        return Path(named).expanduser()
