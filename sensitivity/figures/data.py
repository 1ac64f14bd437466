"""The data behind a figure as a table for download: CSV with six significant digits, finer than any seed reproduces.

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
"""Columns filled by `estimated`."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """A table with one row per observation that a figure shows."""

    columns: tuple[str, ...]
    """Names, with units if any. All values of a column have the same type."""
    rows: Sequence[Sequence[Value]]

    @classmethod
    def of(cls, frame: pd.DataFrame, columns: Sequence[str]) -> Data:
        """Return the table of these columns of a data frame."""
        return cls(columns=tuple(columns), rows=frame[list(columns)].to_numpy(dtype=object).tolist())

    def fields(self) -> list[list[str]]:
        """Return the fields of a CSV file (RFC 4180), quoted where needed; the first row holds the column names.

        A missing value is empty, an infinite one is ``inf``.
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
