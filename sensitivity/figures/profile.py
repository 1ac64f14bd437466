"""Profile of one hyperparameter: the median over seeds, and the range of the seeds."""

from __future__ import annotations

import plotly.graph_objects as go

from sensitivity.analysis.maps import RobustnessMap
from sensitivity.figures.axes import style_axis
from sensitivity.figures.labels import cell_hover
from sensitivity.figures.scales import Scale
from sensitivity.figures.theme import Theme


def add_profile(
    figure: go.Figure,
    map_: RobustnessMap,
    scale: Scale,
    theme: Theme,
    row: int,
    column: int,
    shown: set[str],
    columns: int,
) -> None:
    """Add the profile of `map_` to a panel; adds new legend entries to the set `shown`."""

    def add(name: str, **trace: object) -> None:
        figure.add_trace(go.Scatter(name=name, showlegend=name not in shown, **trace), row=row, col=column)
        shown.add(name)

    measured = [cell for cell in map_.cells if cell.state == "measured"]
    place = scale.position
    if measured:
        middle = [place(cell.median) for cell in measured]
        add(
            "median; bar: smallest to largest seed",
            x=[cell.x for cell in measured],
            y=middle,
            mode="lines+markers" if map_.is_grid else "markers",
            line={"color": theme.category(0), "width": 2},
            marker={"size": 8},
            error_y={
                "array": [abs(place(cell.high) - at) for cell, at in zip(measured, middle, strict=True)],
                "arrayminus": [abs(at - place(cell.low)) for cell, at in zip(measured, middle, strict=True)],
                "thickness": 1.2,
                "width": 4 if columns < 4 else 2,
            },
            hovertext=[cell_hover(map_, cell) for cell in measured],
            hoverinfo="text",
            customdata=[cell.cell_id for cell in measured],
        )
    worst = scale.bad_end
    marks = (
        ("diverged", "every seed diverged", "x", theme.warning),
        ("failed", "failed", "hash-open", theme.failed),
        ("waiting", "no result yet", "circle-open", theme.hatch_line),
    )
    for state, name, symbol, colour in marks:
        cells = [cell for cell in map_.cells if cell.state == state]
        if cells:
            add(
                name,
                x=[cell.x for cell in cells],
                y=[worst] * len(cells),
                mode="markers",
                marker={"symbol": symbol, "size": 9, "color": colour},
                cliponaxis=False,
                hovertext=[cell_hover(map_, cell) for cell in cells],
                hoverinfo="text",
            )
    best = map_.best_cell
    if best is not None:
        limit = best.median + map_.epsilon if map_.metric.lower_is_better else best.median - map_.epsilon
        figure.add_hline(y=place(limit), line={"color": theme.muted, "dash": "dot", "width": 1.2}, row=row, col=column)
        star = {"symbol": "star", "size": 15, "color": "#ffffff", "line": {"width": 1.2, "color": "#000000"}}
        add("best", x=[best.x], y=[place(best.median)], mode="markers", marker=star, hoverinfo="skip")
    style_axis(figure.update_xaxes, map_.x_name, [cell.x for cell in map_.cells], row, column)
    margin = 0.06 * (scale.top - scale.bottom)
    figure.update_yaxes(
        range=[scale.bottom - margin, scale.top + margin],
        tickvals=scale.tickvals,
        ticktext=scale.ticktext,
        title_text=map_.metric.label if column == 1 else None,
        row=row,
        col=column,
    )
