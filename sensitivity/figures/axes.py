"""Panel titles, and axes with ticks at hyperparameter values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go

from sensitivity.analysis.designs import Edge
from sensitivity.figures.labels import number, parameter_label
from sensitivity.figures.theme import Theme
from sensitivity.study.hyperparameters import hyperparameter


def style_axis(update: Callable[..., Any], parameter: str, values: Sequence[float], row: int, column: int) -> None:
    """Set the type, range and ticks of an axis, through its `update` method, to suit `values` of a hyperparameter."""
    low, high = min(values), max(values)
    log = low > 0 and hyperparameter(parameter).scale == "log" and (high == low or high >= 10 * low)
    ends = [math.log10(low), math.log10(high)] if log else [low, high]
    margin = 0.06 * (ends[1] - ends[0]) or 0.5
    bounds = [ends[0] - margin, ends[1] + margin]
    ticks: dict[str, Any] = {}
    if log:
        decades = range(math.ceil(bounds[0]), math.floor(bounds[1]) + 1)
        every = -(-len(decades) // 6) or 1
        at = [10.0**k for k in decades][::every] if high > low else [low]
        ticks = {"tickvals": at, "ticktext": [number(value) for value in at]}
    update(type="log" if log else "linear", range=bounds, row=row, col=column, **ticks)


def is_reversed(parameter: str) -> bool:
    """Whether the axis of a hyperparameter is reversed: its coordinate, such as 1 − momentum, decreases as it grows."""
    return hyperparameter(parameter).scale == "one_minus"


def add_panel_title(figure: go.Figure, title: str, row: int, column: int, *, below: str = "") -> None:
    """Add a bold, left-aligned title above a panel, with the line `below` under it."""
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


def add_extend_mark(
    figure: go.Figure, edge: Edge, x: float, y: float, theme: Theme, row: int, column: int, *, along_x: bool
) -> None:
    """Add an arrow on the edge of a panel where a better cell may lie beyond it."""
    high = edge.side == "high"
    symbol = ("right" if high else "left") if along_x else ("up" if high else "down")
    figure.add_trace(
        go.Scatter(
            x=[x],
            y=[y],
            mode="markers",
            marker={
                "symbol": f"triangle-{symbol}",
                "size": 13,
                "color": theme.warning,
                "line": {"color": "#000000", "width": 1},
            },
            cliponaxis=False,
            hovertext=f"the best cell lies on this edge: extend {parameter_label(edge.parameter)}",
            hoverinfo="text",
            showlegend=False,
        ),
        row=row,
        col=column,
    )
