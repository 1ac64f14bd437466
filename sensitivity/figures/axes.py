"""Axes that show values themselves, logarithmic where the values span it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from sensitivity.figures.labels import number


def style_axis(update: Callable[..., Any], values: Sequence[float], row: int, column: int) -> None:
    """Give an axis through `update` the type, range and ticks that suit `values`."""
    log = min(values) > 0 and max(values) >= 10 * min(values)
    placed = [math.log10(value) if log else value for value in values]
    margin = 0.06 * (max(placed) - min(placed)) or 0.5
    bounds = [min(placed) - margin, max(placed) + margin]
    ticks: dict[str, Any] = {}
    if log:
        decades = range(math.ceil(bounds[0]), math.floor(bounds[1]) + 1)
        every = -(-len(decades) // 6)
        at = [10.0**k for k in decades][::every]
        ticks = {"tickvals": at, "ticktext": [number(value, 1) for value in at]}
    update(type="log" if log else "linear", range=bounds, row=row, col=column, **ticks)
