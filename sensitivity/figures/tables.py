"""``Table``: rows of words and numbers as they are read, whatever face shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table to be read; ``data.Data`` is one to be computed with."""

    caption: str
    header: tuple[str, ...]
    rows: Sequence[Sequence[object]]
    """Text and numbers, not escaped."""
    text_columns: int
    """The first so many columns are words; the others are numbers, and stand to the right."""

    def __bool__(self) -> bool:
        """Whether there is a row."""
        return bool(self.rows)
