"""``Table``: rows of words and numbers for display, in any output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

_NOTHING = ("–", "")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table for display; ``data.Data`` is a table for computation."""

    caption: str
    header: tuple[str, ...]
    rows: Sequence[Sequence[object]]
    """Text and numbers, not escaped."""
    text_columns: int
    """Number of leading columns that contain text; the others contain numbers and are right-aligned."""

    def without_empty(self, *names: str) -> Table:
        """Return the table without those of the columns `names` that are empty in every row."""
        empty = {
            at for at, name in enumerate(self.header) if name in names and all(row[at] in _NOTHING for row in self.rows)
        }
        if not empty:
            return self
        left = [at for at in range(len(self.header)) if at not in empty]
        return replace(
            self,
            header=tuple(self.header[at] for at in left),
            rows=[[row[at] for at in left] for row in self.rows],
            text_columns=sum(at < self.text_columns for at in left),
        )

    def __bool__(self) -> bool:
        """Whether there are any rows."""
        return bool(self.rows)
