"""Parts of panels: their titles, and axes that show values themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go

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


def add_panel_title(figure: go.Figure, title: str, row: int, column: int, *, below: str = "") -> None:
    """Put a bold title above a panel, flush left, and a line `below` it."""
    figure.add_annotation(
        text=f"<b>{title}</b>" + (f"<br>{below}" if below else ""),
        x=0,
        y=1,
        xref="x domain",
        yref="y domain",
        xanchor="left",
        yanchor="bottom",
        align="left",
        yshift=3,
        showarrow=False,
        row=row,
        col=column,
    )
