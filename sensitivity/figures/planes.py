"""Where in the plane of hyperparameters a target is reached, after Shallue et al. (2019): the outcome by glyph.

Of momentum the axis is 1 - momentum, for lr / (1 - momentum) is what a step amounts to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from sensitivity.analysis.designs import Parameters
from sensitivity.analysis.success_plane import SuccessCell, SuccessPlane
from sensitivity.figures.axes import add_panel_title
from sensitivity.figures.labels import count, number, optimizer_label, parameter_label, safe
from sensitivity.figures.nothing import NothingToDrawError
from sensitivity.figures.panels import log_axis, make_panels
from sensitivity.figures.theme import LIGHT, Theme
from sensitivity.study.hyperparameters import hyperparameter


def draw_planes(
    planes: Sequence[SuccessPlane],
    target: str,
    *,
    best: Mapping[int, Parameters] | None = None,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Draw the planes of one optimizer, one panel a batch size; `best` stars a configuration at each batch size.

    Raises:
        NothingToDrawError: no result in any plane, or planes of one hyperparameter.
    """
    if not any(cell.n for plane in planes for cell in plane.cells) or planes[0].y_name is None:
        raise NothingToDrawError("draw_planes needs planes of two hyperparameters, with a result")
    first = planes[0]
    x_name, y_name = first.x_name, str(first.y_name)
    height = min(max(26 * len(first.y_values), 200), 340)
    panels = make_panels(len(planes), columns=4, height=height)
    shown: set[str] = set()
    xs = [hyperparameter(x_name).coordinate(cell.x) for plane in planes for cell in plane.cells]
    ys = [hyperparameter(y_name).coordinate(cell.y) for plane in planes for cell in plane.cells]
    for (row, column), plane in zip(panels.places(), planes, strict=True):
        for name, marker, cells in _glyphs(plane, theme):
            panels.figure.add_trace(
                go.Scatter(
                    x=[hyperparameter(x_name).coordinate(cell.x) for cell in cells],
                    y=[hyperparameter(y_name).coordinate(cell.y) for cell in cells],
                    mode="markers",
                    name=name,
                    showlegend=name not in shown,
                    marker=marker,
                    hovertext=[_hover(plane, cell) for cell in cells],
                    hoverinfo="text",
                ),
                row=row,
                col=column,
            )
            shown.add(name)
        settings = dict((best or {}).get(plane.batch_size, ()))
        if x_name in settings and y_name in settings:
            panels.figure.add_trace(
                go.Scatter(
                    x=[hyperparameter(x_name).coordinate(settings[x_name])],
                    y=[hyperparameter(y_name).coordinate(settings[y_name])],
                    mode="markers",
                    name="fastest to the target",
                    showlegend="best" not in shown,
                    marker={
                        "symbol": "star",
                        "size": 16,
                        "color": "#f0e442",
                        "line": {"width": 1.2, "color": "#000000"},
                    },
                    hoverinfo="skip",
                ),
                row=row,
                col=column,
            )
            shown.add("best")
        reached = sum(cell.reached for cell in plane.cells)
        n = sum(cell.n for cell in plane.cells)
        add_panel_title(
            panels.figure, f"batch size {plane.batch_size:,}", row, column, below=f"{reached:,} of {n:,} reached"
        )
    panels.figure.update_xaxes(**_axis(x_name, xs), title_text=safe(hyperparameter(x_name).coordinate_label))
    panels.figure.update_yaxes(**_axis(y_name, ys))
    panels.figure.update_yaxes(title_text=safe(hyperparameter(y_name).coordinate_label), col=1)
    planned, n = (sum(getattr(cell, name) for plane in planes for cell in plane.cells) for name in ("planned", "n"))
    pooled = f"pooled over {', '.join(parameter_label(name) for name in first.pooled)}" if first.pooled else ""
    return panels.finish(
        theme,
        f"{optimizer_label(first.optimizer)}: where {safe(target)} is reached",
        [f"n = {count(n, 'run')} with a result of {planned:,} planned", "a glyph is a configuration", pooled],
        panel_width=250,
    )


def _axis(name: str, values: Sequence[float]) -> dict[str, object]:
    if min(values) > 0:
        return log_axis(values)
    shown = sorted(set(values))
    return {"tickvals": shown, "ticktext": [number(value) for value in shown]}


def _glyphs(plane: SuccessPlane, theme: Theme) -> list[tuple[str, dict[str, object], list[SuccessCell]]]:
    """Return legend, marker and cells of each kind that is there."""
    blue, grey = theme.category(0), theme.hatch_line

    def kind(cell: SuccessCell) -> str:
        if not cell.n:
            return "none"
        if cell.reached == cell.n:
            return "all"
        if cell.reached:
            return "some"
        return "diverged" if cell.diverged == cell.n else "missed"

    glyphs: dict[str, tuple[str, dict[str, object]]] = {
        "all": ("reached by every seed", {"symbol": "circle", "size": 10, "color": blue}),
        "some": (
            "reached by some seeds",
            {"symbol": "circle-open-dot", "size": 10, "color": blue, "line": {"width": 2}},
        ),
        "missed": ("not reached", {"symbol": "triangle-down", "size": 8, "color": theme.category(4)}),
        "diverged": (
            "every seed diverged",
            {"symbol": "x-thin", "size": 8, "line": {"width": 2, "color": theme.ink}},
        ),
        "none": ("no result", {"symbol": "circle-open", "size": 5, "color": grey}),
    }
    by_kind: dict[str, list[SuccessCell]] = {}
    for cell in plane.cells:
        by_kind.setdefault(kind(cell), []).append(cell)
    return [(*glyphs[name], by_kind[name]) for name in glyphs if name in by_kind]


def _hover(plane: SuccessPlane, cell: SuccessCell) -> str:
    rate = "no result" if math.isnan(cell.rate) else f"{cell.reached} of {cell.n} reached it"
    interval = f" [{cell.interval[0]:.0%}, {cell.interval[1]:.0%}]" if cell.interval else ""
    return (
        f"<b>{optimizer_label(plane.optimizer)}, batch size {plane.batch_size:,}</b><br>"
        f"{parameter_label(plane.x_name)} {number(cell.x, 3)}, {parameter_label(str(plane.y_name))}"
        f" {number(cell.y, 3)}<br>{rate}{interval}, {cell.diverged} diverged, {cell.failed} failed,"
        f" {cell.waiting} waiting"
    )
