"""Errors that a user can mend: each message says what, where, what is allowed, and the mend."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Sequence

from sensitivity.study.redaction import redacted


class UserError(Exception):
    """A mistake outside this code. The commands print it without a traceback and exit with 2.

    Credentials in URIs that the message names are masked.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(redacted(message))


class StudyFileError(UserError):
    """All the mistakes of a study file, one line each."""

    def __init__(self, source: str, mistakes: Sequence[str]) -> None:
        self.source = source
        self.mistakes = tuple(map(redacted, mistakes))
        count = f"{len(mistakes)} mistake{'s' if len(mistakes) != 1 else ''}"
        super().__init__("\n".join([f"{source}: {count}", *(f"  - {line}" for line in self.mistakes)]))


class StorageError(UserError):
    """A study directory that can't be read or written as asked. What it holds stays as it was."""

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing
        """Whether the same may go well in a moment: a network's or a mount's fault, not a full disk's."""


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
