"""Errors that a user can mend: each message says what, where, what is allowed, and the mend."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Sequence

_MOST_LINES, _LAST_LINES, _MOST_WIDTH, _LAST_WIDTH = 60, 5, 1_000, 200
"""Of a message; the last lines are kept, because they say how to fix it."""


class UserError(Exception):
    """A mistake outside this code. The commands print it without a traceback and exit with 2.

    A message echoes what the user gave, which may be of any size: no more of it is kept than fits a screen.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(_clipped(message))


class StudyFileError(UserError):
    """The mistakes of a study file, one line each; of very many, the first."""

    def __init__(self, source: str, mistakes: Sequence[str], *, more: int = 0) -> None:
        self.source = source
        self.mistakes = (*mistakes, *([f"and {more:,} more"] if more else []))
        count = len(mistakes) + more
        title = f"{source}: {count:,} mistake{'s' if count != 1 else ''}"
        super().__init__("\n".join([title, *(f"  - {line}" for line in self.mistakes)]))


class StorageError(UserError):
    """A study directory that can't be read or written as asked. What it holds stays as it was."""

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing
        """Whether the same may go well in a moment: a network's or a mount's fault, not a full disk's."""


def _clipped(message: str) -> str:
    lines = [
        line if len(line) <= _MOST_WIDTH else f"{line[: _MOST_WIDTH - _LAST_WIDTH]} ... {line[-_LAST_WIDTH:]}"
        for line in message.split("\n", _MOST_LINES * 100)
    ]
    if len(lines) > _MOST_LINES:
        left_out = len(lines) - _MOST_LINES
        lines[_MOST_LINES - _LAST_LINES : -_LAST_LINES] = [f"  ... {left_out:,} more lines ..."]
    return "\n".join(lines)


@contextlib.contextmanager
def users_code(what: str) -> Iterator[None]:
    """Turn whatever the user's code raises into a message that says what raised, and where."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(f"{what}: {type(error).__name__}: {error}\n  at {frame.filename}:{frame.lineno}") from None
