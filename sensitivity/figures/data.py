"""The data behind a figure, as a table that can be taken away: CSV, numbers to six digits, which no seed repeats.

`sensitivity export` writes every run with full precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sensitivity.analysis.estimates import Estimate

if TYPE_CHECKING:
    import pandas as pd

Value = str | int | float | None
ESTIMATE = ("value", "low", "high", "n")
"""The columns that `estimated` fills."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """A table: one row an observation of what the figure shows."""

    columns: tuple[str, ...]
    """With units where there are any; a column has one kind of value."""
    rows: Sequence[Sequence[Value]]

    @classmethod
    def of(cls, frame: pd.DataFrame, columns: Sequence[str]) -> Data:
        """Return these columns of a data frame."""
        return cls(columns=tuple(columns), rows=frame[list(columns)].to_numpy(dtype=object).tolist())

    def fields(self) -> list[list[str]]:
        """Return the fields of CSV (RFC 4180), quoted where they have to be; names of columns first.

        A value that is not there is empty, an infinite one is inf.
        """
        return [[_field(name) for name in self.columns], *([_field(value) for value in row] for row in self.rows)]


def estimated(estimate: Estimate) -> tuple[Value, ...]:
    """Return an estimate's value, the ends of its interval, and its n."""
    low, high = estimate.interval or (None, None)
    return estimate.value, low, high, estimate.n


def _field(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return "" if math.isnan(value) else str(float(f"{value:.6g}"))
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\r\n') else text
