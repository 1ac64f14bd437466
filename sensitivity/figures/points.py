"""Sampled configurations of two hyperparameters as points, without interpolation between them.

Momentum is shown as 1 - momentum on a logarithmic axis, because from 0.9 to 0.99 the effective step grows tenfold. The
larger momentum is at the top, as in a grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from sensitivity.analysis.maps import Cell, RobustnessMap
from sensitivity.figures.axes import add_extend_mark, is_reversed, style_axis
from sensitivity.figures.labels import cell_hover
from sensitivity.figures.scales import Scale
from sensitivity.figures.theme import Theme
from sensitivity.study.hyperparameters import hyperparameter


def add_points(
    figure: go.Figure,
    map_: RobustnessMap,
    scale: Scale,
    theme: Theme,
    row: int,
    column: int,
    shown: set[str],
    columns: int,
) -> None:
    """Add the points of `map_` to a panel; adds new legend entries to the set `shown`."""
    declared = hyperparameter(map_.y_name or "")

    def add(cells: Sequence[Cell], name: str, **marker: object) -> None:
        if not cells:
            return
        figure.add_trace(
            go.Scatter(
                x=[cell.x for cell in cells],
                y=[declared.coordinate(cell.y) for cell in cells],
                mode="markers",
                name=name,
                showlegend=name not in shown and "coloraxis" not in marker,
                marker=marker,
                hovertext=[cell_hover(map_, cell) for cell in cells],
                hoverinfo="text",
                customdata=[cell.cell_id for cell in cells],
            ),
            row=row,
            col=column,
        )
        shown.add(name)

    by_state = {
        state: [cell for cell in map_.cells if cell.state == state]
        for state in ("measured", "diverged", "failed", "waiting")
    }
    ink, grey = theme.ink, theme.hatch_line
    size = 11 if columns > 2 else 14
    add(by_state["waiting"], "no result yet", symbol="circle-open", size=6, color=grey, line={"width": 1})
    add(by_state["failed"], "failed", symbol="hash-open", size=9, color=theme.failed, line={"width": 1.5})
    add(
        by_state["diverged"],
        "every seed diverged",
        symbol="x-thin",
        size=8,
        color=grey,
        line={"width": 2, "color": grey},
    )
    for inside, name in ((False, "outside the tolerance"), (True, "within the tolerance of the best")):
        cells = [cell for cell in by_state["measured"] if cell.in_region is inside]
        add(
            cells,
            name,
            size=size,
            color=[scale.position(cell.median) for cell in cells],
            coloraxis="coloraxis",
            line={"width": 2 if inside else 0.5, "color": ink},
        )
    some = [cell for cell in by_state["measured"] if cell.diverged]
    add(some, "some seeds diverged", symbol="triangle-up", size=7, color=theme.warning)
    if map_.best_cell is not None:
        add([map_.best_cell], "best", symbol="star", size=10, color="#ffffff", line={"width": 1.2, "color": "#000000"})
        for edge in map_.edges:
            if edge.parameter == map_.x_name:
                at = declared.coordinate(map_.best_cell.y)
                add_extend_mark(figure, edge, edge.value, at, theme, row, column, along_x=True)
            elif edge.parameter == map_.y_name:
                at = declared.coordinate(edge.value)
                add_extend_mark(figure, edge, map_.best_cell.x, at, theme, row, column, along_x=False)
    ends = {name: [edge.value for edge in map_.edges if edge.parameter == name] for name in (map_.x_name, map_.y_name)}
    xs, ys = [cell.x for cell in map_.cells], [declared.coordinate(cell.y) for cell in map_.cells]
    style_axis(figure.update_xaxes, map_.x_name, xs + ends[map_.x_name], row, column)
    beyond = [declared.coordinate(value) for value in ends[map_.y_name]]
    flipped = is_reversed(map_.y_name or "")
    style_axis(figure.update_yaxes, "" if flipped else map_.y_name or "", ys + beyond, row, column)
    if flipped:
        figure.for_each_yaxis(lambda axis: axis.update(range=axis.range[::-1]), row=row, col=column)
