"""Traces shared by several figures: points with intervals, and bands."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from sensitivity.analysis.estimates import Estimate
from sensitivity.figures.theme import Style


def whiskers(estimates: Sequence[Estimate], colour: str) -> dict[str, object]:
    """Return error bars for `estimates`; a side that is unbounded or unknown has none."""
    up, down = [], []
    for estimate in estimates:
        low, high = estimate.interval or (estimate.value, estimate.value)
        up.append(high - estimate.value if math.isfinite(high) and estimate.known else 0.0)
        down.append(estimate.value - low if math.isfinite(low) and estimate.known else 0.0)
    return {"array": up, "arrayminus": down, "color": colour, "thickness": 1.4, "width": 4}


def band(x: Sequence[float], low: Sequence[float], high: Sequence[float], style: Style) -> go.Scatter | None:
    """Return a filled band where both ends are known; None if fewer than two points have both."""
    kept = [k for k, (a, b, c) in enumerate(zip(x, low, high, strict=True)) if all(math.isfinite(v) for v in (a, b, c))]
    if len(kept) < 2:
        return None
    return go.Scatter(
        x=[*(x[k] for k in kept), *(x[k] for k in reversed(kept))],
        y=[*(low[k] for k in kept), *(high[k] for k in reversed(kept))],
        mode="lines",
        fill="toself",
        fillcolor=style.colour,
        line={"width": 0, "color": style.colour},
        opacity=0.18,
        hoverinfo="skip",
        showlegend=False,
    )


def numbers(estimate: Estimate) -> tuple[float, float, float]:
    """Return value, low and high of an estimate; NaN for missing ones."""
    low, high = estimate.interval or (math.nan, math.nan)
    return estimate.value, low, high
