"""Differences between the robustness maps of two studies, one panel per batch size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sensitivity.analysis.map_differences import MapDifference, compute_map_differences
from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.axes import add_panel_title
from sensitivity.figures.data import Data
from sensitivity.figures.exhibit import Exhibit
from sensitivity.figures.labels import (
    count,
    metric_value,
    number,
    optimizer_label,
    parameter_label,
    safe,
    tick_labels,
)
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.figures.theme import Theme

_PANELS_A_ROW = 3
_TOP, _BOTTOM, _BETWEEN = 120, 84, 104
_SHARE_IN_SCALE = 0.9
"""Share of cells inside the range of the colour scale; a cell that lost a seed in one study would flatten the rest."""


@dataclass(frozen=True, kw_only=True)
class Differences:
    """The maps of an optimizer in two studies, compared."""

    first: str
    second: str
    """Names of the two studies."""
    maps: tuple[MapDifference, ...]


def compute_differences(first: StudyResults, second: StudyResults, optimizer: str) -> Differences:
    """Return the differences of the second study's maps from the first's, for the current metric.

    Raises:
        NothingToShowError: the studies share no cell.
    """
    names = first.spec.name, second.spec.name
    maps = compute_map_differences(first.maps, second.maps, optimizer)
    if not maps:
        raise NothingToShowError(
            f"{names[1]} and {names[0]} share no configuration of {optimizer_label(optimizer)} with a value of"
            f" {first.metric.label}, so there is no difference to show."
        )
    return Differences(first=names[0], second=names[1], maps=maps)


def draw_differences(found: Differences, theme: Theme) -> go.Figure:
    """Draw one panel per batch size, blue where the second study is better, labelled with signed differences."""
    maps = found.maps
    columns = min(len(maps), _PANELS_A_ROW)
    rows = -(-len(maps) // columns)
    height = max(_height(map_) for map_ in maps)
    plot = rows * height + (rows - 1) * _BETWEEN
    figure = make_subplots(
        rows=rows, cols=columns, shared_yaxes=True, horizontal_spacing=0.03 if columns > 1 else 0,
        vertical_spacing=_BETWEEN / plot if rows > 1 else 0,
    )  # fmt: skip
    metric = maps[0].metric
    sign = -1.0 if metric.lower_is_better else 1.0
    sizes = [abs(cell.change) for map_ in maps for cell in map_.cells if math.isfinite(cell.change)]
    largest = float(np.quantile(sizes, _SHARE_IN_SCALE)) if sizes else 0.0
    largest = largest or max(sizes, default=0.0) or 1e-3
    for panel, map_ in enumerate(maps):
        row, column = panel // columns + 1, panel % columns + 1
        _add(figure, map_, sign, row, column)
        better = sum(sign * cell.change > 0 for cell in map_.cells)
        add_panel_title(
            figure, f"batch size {map_.batch_size:,}", row, column, below=f"better in {better} of {len(map_.cells)}"
        )
        below = panel + columns >= len(maps)
        figure.update_xaxes(title_text=parameter_label(map_.x_name) if below else None, row=row, col=column)
    if maps[0].y_name is not None:
        figure.update_yaxes(title_text=parameter_label(maps[0].y_name), col=1)
    unit = "percentage points" if metric.percent else f"% of {safe(found.first)}'s"
    cells, unshared = sum(len(map_.cells) for map_ in maps), sum(map_.unshared for map_ in maps)
    apart = f" · {count(unshared, 'cell')} in only one left out" if unshared else ""
    figure.update_layout(
        template=theme.template(),
        title={
            "text": f"{optimizer_label(maps[0].optimizer)}: {metric.label} of {safe(found.second)} minus that of"
            f" {safe(found.first)}",
            "subtitle": {
                "text": f"n = {count(cells, 'cell')} in both, medians over their seeds · in {unit} · blue:"
                f" {safe(found.second)} is better{apart}"
            },
        },
        coloraxis={
            "cmin": -largest,
            "cmax": largest,
            "colorscale": list(zip((0.0, 0.5, 1.0), theme.lean, strict=True)),
            "showscale": False,
        },
        height=plot + _TOP + _BOTTOM,
        margin={"t": _TOP, "b": _BOTTOM, "l": 70, "r": 20},
    )
    return figure


def _height(map_: MapDifference) -> int:
    rows = len({cell.y for cell in map_.cells}) if map_.y_name else 1
    return min(max(38 * rows, 120), 600)


def _add(figure: go.Figure, map_: MapDifference, sign: float, row: int, column: int) -> None:
    xs = sorted({cell.x for cell in map_.cells})
    ys = sorted({cell.y for cell in map_.cells}) if map_.y_name else [math.nan]
    z: list[list[float | None]] = [[None] * len(xs) for _ in ys]
    hover = [[""] * len(xs) for _ in ys]
    text = [[""] * len(xs) for _ in ys]
    for cell in map_.cells:
        i, j = xs.index(cell.x), ys.index(cell.y) if map_.y_name else 0
        z[j][i] = sign * cell.change
        written = f"{100 * cell.change:+.1f}"
        text[j][i] = "0.0" if written in ("+0.0", "-0.0") else written
        values = f"{metric_value(map_.metric, cell.first)} to {metric_value(map_.metric, cell.second)}"
        second = f", {parameter_label(map_.y_name)} {number(cell.y)}" if map_.y_name else ""
        hover[j][i] = f"{parameter_label(map_.x_name)} {number(cell.x)}{second}<br>{values}"
    figure.add_heatmap(
        x=list(range(len(xs))), y=list(range(len(ys))), z=z, hovertext=hover, hoverinfo="text", hoverongaps=False,
        xgap=1, ygap=1, coloraxis="coloraxis", text=text, texttemplate="%{text}", textfont={"size": 10.5},
        row=row, col=column,
    )  # fmt: skip
    plain = {"showgrid": False, "row": row, "col": column}
    figure.update_xaxes(tickvals=list(range(len(xs))), ticktext=tick_labels(xs), **plain)
    figure.update_xaxes(tickangle=-45 if len(xs) > 5 else 0, row=row, col=column)
    labels = tick_labels(ys) if map_.y_name else [""]
    figure.update_yaxes(tickvals=list(range(len(ys))), ticktext=labels, **plain)


def difference_data(found: Differences) -> Data:
    """Return every cell that both studies have."""
    first = found.maps[0]
    return Data(
        columns=("batch_size", first.x_name, *((first.y_name,) if first.y_name else ()), "first", "second", "change"),
        rows=[
            (map_.batch_size, cell.x, *((cell.y,) if map_.y_name else ()), cell.first, cell.second, cell.change)
            for map_ in found.maps
            for cell in map_.cells
        ],
    )


def differences_exhibit(first: StudyResults, optimizer: str) -> Exhibit[Differences]:
    """Return the exhibit of a study's differences from `first`, for a page that compares studies."""

    def compute(results: StudyResults) -> Differences:
        return compute_differences(first, results, optimizer)

    return Exhibit(
        name="map-differences", section="", title="Difference of the robustness maps", compute=compute,
        draw=draw_differences, data=difference_data, depends=("filters", "metric", "tolerance"), in_report=False,
    )  # fmt: skip
