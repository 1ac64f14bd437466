"""A grid of two hyperparameters as a heatmap, with cells at integer positions and value labels on the axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import plotly.graph_objects as go

from sensitivity.analysis.maps import Cell, CellState, RobustnessMap
from sensitivity.figures.axes import add_extend_mark
from sensitivity.figures.labels import cell_hover, number, tick_labels
from sensitivity.figures.outline import outline
from sensitivity.figures.scales import Scale
from sensitivity.figures.theme import Theme

_PANEL_WIDTH = 1020
"""Approximate total width in pixels of the panels of a row, on a desktop page."""

_MAX_VALUES = 120
"""Largest number of cells in a panel whose values are written in the cells; beyond it they appear on hover only."""

_LEGEND: dict[CellState, str] = {
    "diverged": "every seed diverged",
    "failed": "failed",
    "waiting": "no result yet",
}


def grid_height(map_: RobustnessMap) -> int:
    """Return the height in pixels of the panel of `map_`."""
    rows = len(map_.y_values)
    return min(max(38 * rows, min(58 * rows, 240)), 600) if rows else 300


def add_grid(
    figure: go.Figure,
    map_: RobustnessMap,
    scale: Scale,
    theme: Theme,
    row: int,
    column: int,
    shown: set[str],
    columns: int,
) -> None:
    """Add the heatmap of `map_` to a panel; adds new legend entries to the set `shown`."""
    xs = {value: k for k, value in enumerate(map_.x_values)}
    ys = {value: k for k, value in enumerate(map_.y_values)}
    placed = [(xs[cell.x], ys[cell.y], cell) for cell in map_.cells]

    def add(trace: go.Scatter | go.Bar | go.Heatmap) -> None:
        if trace.name is not None:
            trace.showlegend = trace.name not in shown
            shown.add(trace.name)
        figure.add_trace(trace, row=row, col=column)

    width = _PANEL_WIDTH / columns / len(xs)
    height = grid_height(map_) / len(ys)
    add(_heatmap(map_, placed, scale))
    if width >= 30 and height >= 15 and len(placed) <= _MAX_VALUES:
        add(_values(map_, placed, scale, spread=width >= 62 and height >= 32))
    for state, legend in _LEGEND.items():
        cells = [item for item in placed if item[2].state == state]
        if cells:
            add(_hatched(map_, cells, legend, _pattern(state, theme), theme))
    region = [(x, y) for x, y, cell in placed if cell.in_region]
    for colour, line in (("#ffffff", 4.5), ("#000000", 2)):
        for loop_x, loop_y in outline(region):
            add(
                go.Scatter(
                    x=loop_x,
                    y=loop_y,
                    mode="lines",
                    line={"color": colour, "width": line},
                    hoverinfo="skip",
                    showlegend=False,
                )
            )
    best = map_.best_cell
    marks: list[tuple[str, str, int, str, Callable[[Cell], bool], tuple[float, float]]] = [
        (
            "some seeds diverged",
            "triangle-ne",
            9,
            "#d55e00",
            lambda c: bool(c.diverged and c.completed),
            (0.36, 0.34),
        ),
        ("indistinguishable from the best", "circle", 6, "#ffffff", lambda c: c.like_best, (-0.36, 0.33)),
        ("best", "star", 12, "#ffffff", lambda c: c is best, (-0.34, 0.32)),
    ]
    for name, symbol, size, fill, chosen, (dx, dy) in marks:
        cells = [item for item in placed if chosen(item[2])]
        if cells:
            add(
                go.Scatter(
                    x=[x + dx for x, _, _ in cells],
                    y=[y + dy for _, y, _ in cells],
                    mode="markers",
                    name=name,
                    marker={
                        "symbol": symbol,
                        "size": size,
                        "color": fill,
                        "line": {"color": "#000000", "width": 1},
                    },
                    hoverinfo="skip",
                )
            )
    _axes(figure, map_, theme, row, column)


def _heatmap(map_: RobustnessMap, placed: Sequence[tuple[int, int, Cell]], scale: Scale) -> go.Heatmap:
    columns, rows = range(len(map_.x_values)), range(len(map_.y_values))
    z = [[math.nan for _ in columns] for _ in rows]
    hover, ids = ([["" for _ in columns] for _ in rows] for _ in range(2))
    for x, y, cell in placed:
        ids[y][x] = cell.cell_id
        if cell.state == "measured":
            z[y][x] = scale.position(cell.median)
            hover[y][x] = cell_hover(map_, cell)
    return go.Heatmap(
        x=list(columns),
        y=list(rows),
        z=z,
        hovertext=hover,
        hoverinfo="text",
        customdata=ids,
        hoverongaps=False,
        xgap=1,
        ygap=1,
        coloraxis="coloraxis",
    )


def _values(map_: RobustnessMap, placed: Sequence[tuple[int, int, Cell]], scale: Scale, *, spread: bool) -> go.Scatter:
    """Return the cells' values as text in black or white, whichever has more contrast."""
    cells = [item for item in placed if item[2].state == "measured"]
    return go.Scatter(
        x=[x for x, _, _ in cells],
        y=[y for _, y, _ in cells],
        mode="text",
        text=[_cell_text(map_, cell, spread=spread) for _, _, cell in cells],
        textfont={"size": 10.5, "color": [scale.ink_on(cell.median) for _, _, cell in cells]},
        hoverinfo="skip",
        showlegend=False,
    )


def _cell_text(map_: RobustnessMap, cell: Cell, *, spread: bool) -> str:
    percent = 100 if map_.metric.percent else 1
    value = f"{100 * cell.median:.1f}" if map_.metric.percent else number(cell.median)
    if spread and cell.completed + cell.diverged > 1:
        return f"{value}<br>±{number(percent * (cell.high - cell.low) / 2, 1)}"
    return value


def _pattern(state: CellState, theme: Theme) -> dict[str, object]:
    colour = theme.failed if state == "failed" else theme.hatch_line
    shape = {"diverged": "/", "failed": "x", "waiting": "."}[state]
    fill = theme.hatch_fill if state == "diverged" else theme.paper
    return {"shape": shape, "fgcolor": colour, "bgcolor": fill, "size": 7, "solidity": 0.3}


def _hatched(
    map_: RobustnessMap,
    cells: Sequence[tuple[int, int, Cell]],
    name: str,
    pattern: dict[str, object],
    theme: Theme,
) -> go.Bar:
    """Return cells without a value as one bar each, since a heatmap can't be hatched."""
    return go.Bar(
        x=[x for x, _, _ in cells],
        base=[y - 0.5 for _, y, _ in cells],
        y=[1.0] * len(cells),
        width=1.0,
        name=name,
        marker={
            "color": pattern["bgcolor"],
            "pattern": pattern,
            "line": {"color": theme.paper, "width": 1},
        },
        hovertext=[cell_hover(map_, cell) for _, _, cell in cells],
        hoverinfo="text",
        customdata=[cell.cell_id for _, _, cell in cells],
    )


def _axes(figure: go.Figure, map_: RobustnessMap, theme: Theme, row: int, column: int) -> None:
    plain = {"showgrid": False, "zeroline": False, "showline": False, "row": row, "col": column}
    for update, values in ((figure.update_xaxes, map_.x_values), (figure.update_yaxes, map_.y_values)):
        every = -(-len(values) // 16)
        update(
            tickvals=list(range(0, len(values), every)),
            ticktext=tick_labels(values)[::every],
            range=[-0.5, len(values) - 0.5],
            ticklabelstandoff=8,
            **plain,
        )
    figure.update_xaxes(tickangle=-45 if len(map_.x_values) > 5 else 0, row=row, col=column)
    best = map_.best_cell
    if best is None:
        return
    x, y = float(map_.x_values.index(best.x)), float(map_.y_values.index(best.y))
    for edge in map_.edges:
        beyond = 0.5 if edge.side == "high" else -0.5
        if edge.parameter == map_.x_name:
            add_extend_mark(figure, edge, x + beyond, y, theme, row, column, along_x=True)
        elif edge.parameter == map_.y_name:
            add_extend_mark(figure, edge, x, y + beyond, theme, row, column, along_x=False)
