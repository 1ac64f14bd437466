"""Where a target is reached in the plane of two hyperparameters, after Shallue et al. (2019); glyphs show outcomes.

The axis of momentum is 1 - momentum, because lr / (1 - momentum) is the effective step size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from sensitivity.analysis.designs import Parameters
from sensitivity.analysis.study_results import StudyResults
from sensitivity.analysis.success_plane import SuccessCell, SuccessPlane
from sensitivity.figures.axes import add_panel_title, is_reversed
from sensitivity.figures.data import Data
from sensitivity.figures.exhibit import OPTIMIZER, Exhibit
from sensitivity.figures.labels import count, number, optimizer_label, parameter_label, safe, target_label
from sensitivity.figures.nothing import NO_RESULT, NO_TARGET, NothingToShowError
from sensitivity.figures.panels import log_axis, make_panels
from sensitivity.figures.theme import LIGHT, Theme
from sensitivity.study.hyperparameters import hyperparameter
from sensitivity.study.metrics import METRICS


def draw_planes(
    planes: Sequence[SuccessPlane],
    target: str,
    *,
    best: Mapping[int, Parameters] | None = None,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Draw the planes of one optimizer, one panel per batch size; a star marks the configuration in `best` at each.

    Raises:
        NothingToShowError: no plane has a result, or only one hyperparameter varies.
    """
    if not any(cell.n for plane in planes for cell in plane.cells):
        raise NothingToShowError(NO_RESULT)
    if planes[0].y_name is None:
        raise NothingToShowError("Only one hyperparameter varies; a plane needs two.")
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
        [f"n = {count(n, 'run')} with a result of {planned:,} planned", "each glyph is a configuration", pooled],
        panel_width=250,
    )


def _axis(name: str, values: Sequence[float]) -> dict[str, object]:
    if min(values) > 0:
        axis = log_axis(values)
        ends: Any = axis["range"]
        return {**axis, "range": ends[::-1] if is_reversed(name) else ends}
    shown = sorted(set(values))
    return {"tickvals": shown, "ticktext": [number(value) for value in shown]}


def _glyphs(plane: SuccessPlane, theme: Theme) -> list[tuple[str, dict[str, object], list[SuccessCell]]]:
    """Return the legend, marker and cells of each kind that occurs."""
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


def plane_data(planes: Sequence[SuccessPlane]) -> Data:
    """Return the runs by outcome over the plane of hyperparameters."""
    counts = ("configurations", "reached", "censored", "diverged", "failed", "waiting")
    return Data(
        columns=("optimizer", "batch_size", planes[0].x_name, planes[0].y_name or "", *counts, "rate"),
        rows=[
            (p.optimizer, p.batch_size, cell.x, cell.y, *(getattr(cell, name) for name in counts), cell.rate)
            for p in planes
            for cell in p.cells
        ],
    )


@dataclass(frozen=True, kw_only=True)
class OptimizerPlanes:
    """Where an optimizer reaches the target."""

    planes: tuple[SuccessPlane, ...]
    target: str
    """The target in words."""
    best: Mapping[int, Parameters]
    """Batch size -> configuration that reaches the target fastest."""


def compute_optimizer_planes(results: StudyResults, optimizer: str) -> OptimizerPlanes:
    """Return the planes of an optimizer for the current target.

    Raises:
        NothingToShowError: there is no target, or no plane.
    """
    if results.target is None:
        raise NothingToShowError(NO_TARGET)
    own = tuple(plane for plane in results.planes if plane.optimizer == optimizer)
    if not own:
        raise NothingToShowError(NO_RESULT)
    curves = [curve for curve in results.scaling() if curve.optimizer == optimizer]
    best = {point.batch_size: point.parameters for curve in curves for point in curve.points}
    name, level = results.target
    return OptimizerPlanes(planes=own, target=target_label(METRICS[name], level), best=best)


REACHED = Exhibit(
    name="reached",
    section="success",
    title="Where the target is reached in the plane of hyperparameters",
    compute=compute_optimizer_planes,
    draw=lambda found, theme: draw_planes(found.planes, found.target, best=found.best, theme=theme),
    data=lambda found: plane_data(found.planes),
    options=(OPTIMIZER,),
    depends=("filters", "target"),
)
