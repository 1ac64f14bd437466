"""The data behind a figure, as a table that can be taken away: CSV, numbers to six digits, which no seed repeats.

`sensitivity export` writes every run with full precision.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from sensitivity.analysis.estimates import Estimate

Value = str | int | float | None
ESTIMATE = ("value", "low", "high", "n")
"""The columns that `estimated` fills."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """A table: one row an observation of what the figure shows."""

    columns: tuple[str, ...]
    """With units where there are any; a column has one kind of value."""
    rows: Sequence[Sequence[Value]]

    def csv(self) -> str:
        """Return the table as CSV (RFC 4180); a value that is not there is empty, an infinite one is inf."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(self.columns)
        writer.writerows([_written(value) for value in row] for row in self.rows)
        return text.getvalue()


def estimated(estimate: Estimate) -> tuple[Value, ...]:
    """Return an estimate's value, the ends of its interval, and its n."""
    low, high = estimate.interval or (None, None)
    return estimate.value, low, high, estimate.n


def _written(value: Value) -> Value:
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.6g}")
    return value
