"""Errors that a user can fix: each message says what was wrong, where, what is allowed, and the fix."""

from __future__ import annotations

import re
from collections.abc import Sequence

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_MOST_MISTAKES = 50
_MOST_OF_MISTAKE = 600
"""Characters; long enough for every list of allowed names."""
_MOST_OF_LINE = 1_500


class UserError(Exception):
    """A mistake outside this code. The commands print it without a traceback and exit with 2.

    Its message holds no control characters or lone surrogates, and its lines have bounded length, whatever it quotes.
    """

    def __init__(self, message: str) -> None:
        super().__init__("\n".join(shortened(line, _MOST_OF_LINE) for line in printable(message).split("\n")))


class StudyFileError(UserError):
    """All the mistakes of a study file, one line each."""

    def __init__(self, source: str, mistakes: Sequence[str]) -> None:
        self.source = source
        self.mistakes = tuple(_one_line(mistake) for mistake in mistakes[:_MOST_MISTAKES])
        count = f"{len(mistakes)} mistake{'s' if len(mistakes) != 1 else ''}"
        lines = [f"{source}: {count}", *(f"  - {line}" for line in self.mistakes)]
        if len(mistakes) > _MOST_MISTAKES:
            lines.append(f"  ... and {len(mistakes) - _MOST_MISTAKES} more")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type[StudyFileError], tuple[str, tuple[str, ...]]]:
        return type(self), (self.source, self.mistakes)


class StorageError(UserError):
    """A study directory that can't be read or written as asked. What it holds stays as it was."""

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing
        """Whether the same may go well in a moment: a network's or a mount's fault, not a full disk's."""


def printable(text: str) -> str:
    """Return `text` with what no terminal or file may be given escaped, as Python writes it.

    These are control characters other than line ends and tabs, and lone surrogates, which stand for the bytes of a
    file name that is not UTF-8.
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shortened(text: str, most: int) -> str:
    """Return `text`, with its middle left out where it is longer than `most`."""
    return text if len(text) <= most else f"{text[: most - most // 3]} ... {text[-(most // 3) :]}"


def _one_line(mistake: str) -> str:
    return shortened(re.sub(r"\s*\n\s*", " ", printable(mistake)), _MOST_OF_MISTAKE)
