"""Learning curves of cells: one panel a batch size, one colour an optimizer."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sensitivity.analysis.curves import CellCurves
from sensitivity.figures.axes import add_panel_title
from sensitivity.figures.labels import count, metric_value, optimizer_label
from sensitivity.figures.nothing import NothingToDrawError
from sensitivity.figures.scales import Scale, metric_scale
from sensitivity.figures.theme import DASHES, LIGHT, Theme

_PANELS_A_ROW = 3
_TOP, _BOTTOM, _PANEL, _BETWEEN = 92, 84, 280, 86
_MOST_POINTS = 120
"""Of a line: a panel is about 340 pixels wide."""
_MOST_SEEDS = 12
"""Thin lines a cell; the median and the band are of all its seeds."""


def draw_curves(
    cells: Sequence[CellCurves],
    *,
    theme: Theme = LIGHT,
    subject: str = "the best cells",
    optimizers: Sequence[str] = (),
) -> go.Figure:
    """Draw the curves of `cells`, all of one metric: seeds thin, their range a band, their median bold.

    `optimizers` are all of the study's, in its order, so that each has the colour that it has elsewhere.

    Of long curves and many seeds as many are drawn as a panel can show, and the subtitle says so.

    Raises:
        NothingToDrawError: no cell.
    """
    if not cells:
        raise NothingToDrawError("draw_curves needs at least one cell")
    metric = cells[0].metric
    scale = metric_scale(metric, (value for cell in cells for s in cell.seeds for value in s.measured))
    batch_sizes = sorted({cell.batch_size for cell in cells})
    order = list(dict.fromkeys((*optimizers, *(cell.optimizer for cell in cells))))
    columns = min(len(batch_sizes), _PANELS_A_ROW)
    rows = -(-len(batch_sizes) // columns)
    plot = rows * _PANEL + (rows - 1) * _BETWEEN
    figure = make_subplots(
        rows=rows,
        cols=columns,
        shared_yaxes=True,
        horizontal_spacing=0.03 if columns > 1 else 0,
        vertical_spacing=_BETWEEN / plot if rows > 1 else 0,
    )
    named: set[str] = set()
    for cell in cells:
        panel = batch_sizes.index(cell.batch_size)
        row, column = panel // columns + 1, panel % columns + 1
        for trace in _traces(cell, scale, theme, order.index(cell.optimizer)):
            trace.showlegend = trace.name is not None and trace.name not in named
            named.add(str(trace.name))
            figure.add_trace(trace, row=row, col=column)
    for panel, size in enumerate(batch_sizes):
        add_panel_title(figure, f"batch size {size:,}", panel // columns + 1, panel % columns + 1)
    figure.update_xaxes(title_text="epochs")
    figure.update_yaxes(tickvals=scale.tickvals, ticktext=scale.ticktext)
    figure.update_yaxes(title_text=metric.label, col=1)
    n = sum(cell.n for cell in cells)
    planned = sum(cell.planned for cell in cells)
    diverged = sum(seed.diverged for cell in cells for seed in cell.seeds)
    figure.update_layout(
        template=theme.template(),
        title={
            "text": f"{metric.label.capitalize()} of {subject} by epoch",
            "subtitle": {
                "text": f"n = {n} of {count(planned, 'run')} in {count(len(cells), 'cell')}, {diverged} diverged"
                f" · bold: median · band: smallest to largest seed · thin: {_thin(cells)}"
            },
        },
        height=plot + _TOP + _BOTTOM,
        margin={"t": _TOP, "b": _BOTTOM, "l": 70, "r": 20},
        hovermode="closest",
    )
    return figure


def _thin(cells: Sequence[CellCurves]) -> str:
    """Return what the thin lines are, and which evaluations are drawn where not all are."""
    most = max(len(cell.seeds) for cell in cells)
    seeds = "each seed" if most <= _MOST_SEEDS else f"{_MOST_SEEDS} of {most} seeds"
    longest = max((len(seed.epochs) for cell in cells for seed in cell.seeds), default=0)
    return seeds if longest <= _MOST_POINTS else f"{seeds} · at most {_MOST_POINTS} of {longest:,} evaluations drawn"


def _kept(length: int, most: int) -> list[int]:
    """Return evenly spaced positions among `length`, the first and the last included, at most `most`."""
    if length <= most:
        return list(range(length))
    return [round(k * (length - 1) / (most - 1)) for k in range(most)]


def _traces(cell: CellCurves, scale: Scale, theme: Theme, position: int) -> list[go.Scatter]:
    colour, dash = theme.category(position), DASHES[position % len(DASHES)]
    label = optimizer_label(cell.optimizer)
    place = scale.position
    kept = _kept(len(cell.epochs), _MOST_POINTS)
    epochs, median, low, high = ([of[k] for k in kept] for of in (cell.epochs, cell.median, cell.low, cell.high))
    band = go.Scatter(
        x=[*epochs, *reversed(epochs)],
        y=[*map(place, low), *map(place, reversed(high))],
        mode="lines",
        fill="toself",
        line={"width": 0, "color": colour},
        opacity=0.2,
        fillcolor=colour,
        hoverinfo="skip",
    )
    seeds = [
        go.Scatter(
            x=[seed.epochs[k] for k in of_seed],
            y=[place(seed.measured[k]) for k in of_seed],
            mode="lines",
            line={"width": 0.8, "color": colour},
            opacity=0.6,
            hoverinfo="skip",
        )
        for seed in (cell.seeds[k] for k in _kept(len(cell.seeds), _MOST_SEEDS))
        for of_seed in [_kept(len(seed.epochs), _MOST_POINTS)]
    ]
    middle = go.Scatter(
        x=epochs,
        y=[place(value) for value in median],
        mode="lines",
        name=f"{label}, median",
        line={"width": 3, "color": colour, "dash": dash},
        hovertext=[
            f"<b>{label}, batch size {cell.batch_size}</b><br>epoch {epoch:g}<br>median"
            f" {metric_value(cell.metric, at)}<br>seeds from {metric_value(cell.metric, least)} to"
            f" {metric_value(cell.metric, most)}<br>n = {cell.n}"
            for epoch, at, least, most in zip(epochs, median, low, high, strict=True)
        ],
        hoverinfo="text",
    )
    ends = [seed for seed in cell.seeds if seed.diverged and seed.epochs]
    crosses = go.Scatter(
        x=[seed.epochs[-1] for seed in ends],
        y=[place(seed.measured[-1]) for seed in ends],
        mode="markers",
        name=f"{label}, diverged after here",
        marker={"symbol": "x", "size": 10, "color": colour, "line": {"width": 1, "color": theme.paper}},
        hovertext=[f"{label}: seed {seed.seed} diverged" for seed in ends],
        hoverinfo="text",
    )
    return [band, *seeds, middle, *([crosses] if ends else [])]
