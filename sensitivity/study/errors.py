"""Errors that a user can fix. Each message names the place, the problem, what is allowed, and the fix."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from sensitivity.study.redaction import redacted

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_MOST_OF_MISTAKE = 600
"""Maximum characters of one mistake; enough for every list of allowed names."""
_MOST_LINES, _LAST_LINES, _MOST_OF_LINE = 60, 5, 1_500
"""Limits of a message: lines, trailing lines that are always kept because they contain the fix, characters per line."""
_MOST_OF_WORD = 300
_LONG_WORD = re.compile(rf"\S{{{_MOST_OF_WORD + 1},}}")
"""A word so long that it is shortened, such as a path, to keep the rest of the line readable."""


class UserError(Exception):
    """An error that the user can fix. Commands print it without a traceback and exit with code 2.

    Messages quote user input of any size and kind. Therefore control characters and lone surrogates are escaped, the
    length is limited to about a screen, and credentials in URIs are masked.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(_clipped(printable(redacted(message))))

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython shows in a notebook: the message without a traceback."""
        return [f"error: {self}"]


class StudyFileError(UserError):
    """The mistakes in a study file, one per line; only the first ones if there are very many."""

    def __init__(self, source: str, mistakes: Sequence[str], *, more: int = 0) -> None:
        self.source = source
        self.mistakes = (*map(_one_line, mistakes), *([f"and {more:,} more"] if more else []))
        self._more = more
        count = len(mistakes) + more
        title = f"{source}: {count:,} mistake{'s' if count != 1 else ''}"
        super().__init__("\n".join([title, *(f"  - {line}" for line in self.mistakes)]))

    def of(self, source: str) -> StudyFileError:
        """Return the same error with `source` as the file name."""
        return _study_file_error(source, self.mistakes[: -1 if self._more else None], self._more)

    def __reduce__(self) -> tuple[Callable[..., StudyFileError], tuple[str, tuple[str, ...], int]]:
        return _study_file_error, (self.source, self.mistakes[: -1 if self._more else None], self._more)


class StorageError(UserError):
    """A study directory that can't be read or written; its content is unchanged."""

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing
        """Whether a retry may succeed: true for network or mount failures, false for a full disk."""


def _clipped(message: str) -> str:
    message = _LONG_WORD.sub(lambda found: shortened(found[0], _MOST_OF_WORD), message)
    lines = [shortened(line, _MOST_OF_LINE) for line in message.split("\n", _MOST_LINES * 100)]
    if len(lines) > _MOST_LINES:
        left_out = len(lines) - _MOST_LINES
        lines[_MOST_LINES - _LAST_LINES : -_LAST_LINES] = [f"  ... {left_out:,} more lines ..."]
    return "\n".join(lines)


def _study_file_error(source: str, mistakes: tuple[str, ...], more: int) -> StudyFileError:
    return StudyFileError(source, mistakes, more=more)


def printable(text: str) -> str:
    """Return `text` with unprintable characters escaped as in Python literals.

    These are control characters other than newlines and tabs, and lone surrogates, which represent the bytes of file
    names that are not UTF-8.
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shortened(text: str, most: int) -> str:
    """Return `text`, with its middle replaced by an ellipsis if it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[: most - most // 3]} ... {text[-(most // 3) :]}"


def _one_line(mistake: str) -> str:
    return shortened(re.sub(r"\s*\n\s*", " ", printable(redacted(mistake))), _MOST_OF_MISTAKE)
