"""Robustness maps of an optimizer: one panel per batch size, with one colour scale.

The form of a panel depends on the design: a grid of two hyperparameters is a heatmap (``grid``), sampled
configurations are points (``points``), and one hyperparameter is a profile (``profile``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sensitivity.analysis.maps import Cell, RobustnessMap
from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.axes import add_panel_title
from sensitivity.figures.data import Data
from sensitivity.figures.exhibit import METRIC, OPTIMIZER, Exhibit
from sensitivity.figures.grid import add_grid, grid_height
from sensitivity.figures.labels import (
    count,
    map_counts,
    metric_value,
    number,
    optimizer_label,
    parameter_label,
    safe,
    tolerance,
)
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.figures.panels import LINE, wrapped
from sensitivity.figures.points import add_points
from sensitivity.figures.profile import add_profile
from sensitivity.figures.scales import Scale, map_scale
from sensitivity.figures.theme import LIGHT, Theme
from sensitivity.study.hyperparameters import hyperparameter

_PANELS_A_ROW = 4
_THREE_PANEL_COLUMNS = range(7, 11)
"""Numbers of grid columns at which a row has three panels, so that cells are wide enough for their values."""
_CHARACTERS = 135
"""Characters of a subtitle that fit on a line of a desktop page."""
_TOP, _BOTTOM, _BETWEEN = 108, 96, 104
"""Pixels above the first row of panels, below the last, and between two rows."""
_EXTEND_HEIGHT = 16
"""Height in pixels of the line that says where to extend the grid."""


def draw_maps(maps: Sequence[RobustnessMap], *, theme: Theme = LIGHT, scale: Scale | None = None) -> go.Figure:
    """Draw the maps of one optimizer and one metric, one panel per batch size.

    Pass `scale` to share it with figures that are compared with this one; by default it is computed from these maps.

    Raises:
        NothingToShowError: there is no map.
    """
    if not maps:
        raise NothingToShowError("No run has a measured value here, so there is nothing to draw.")
    scale = scale or map_scale(maps)
    first = maps[0]
    columns = min(len(maps), _PANELS_A_ROW - (len(first.x_values) in _THREE_PANEL_COLUMNS))
    rows = -(-len(maps) // columns)
    panel = max(grid_height(map_) for map_ in maps)
    extend = _EXTEND_HEIGHT if any(map_.edges for map_ in maps) else 0
    plot = rows * panel + (rows - 1) * (_BETWEEN + extend)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        shared_yaxes=True,
        horizontal_spacing=0.028 if columns > 1 else 0,
        vertical_spacing=(_BETWEEN + extend) / plot if rows > 1 else 0,
    )
    shown: set[str] = set()
    for position, map_ in enumerate(maps):
        row, column = position // columns + 1, position % columns + 1
        add = add_profile if map_.y_name is None else add_grid if map_.is_grid else add_points
        add(figure, map_, scale, theme, row, column, shown, columns)
        _panel_title(figure, map_, theme, row, column)
        below = position + columns >= len(maps)
        figure.update_xaxes(title_text=parameter_label(first.x_name) if below else None, row=row, col=column)
    if first.y_name is not None:
        label = parameter_label(first.y_name) if first.is_grid else safe(hyperparameter(first.y_name).coordinate_label)
        figure.update_yaxes(title_text=label, col=1)
        figure.update_coloraxes(
            cmin=scale.bottom,
            cmax=scale.top,
            colorscale=scale.colours,
            colorbar={
                "title": {"text": f"{first.metric.label}<br> "},
                "tickvals": scale.tickvals,
                "ticktext": scale.ticktext,
                "lenmode": "pixels",
                "len": min(plot, 340),
                "y": 1,
                "yanchor": "top",
            },
        )
    else:
        figure.update_layout(coloraxis_showscale=False)
    subtitle = wrapped(_subtitle(maps), _CHARACTERS)
    top = _TOP + extend + LINE * (len(subtitle) - 1)
    figure.update_layout(
        template=theme.template(),
        title={"text": _title(first), "subtitle": {"text": "<br>".join(subtitle)}},
        height=plot + top + _BOTTOM,
        margin={"t": top, "b": _BOTTOM, "l": 70, "r": 20},
        barmode="overlay",
        bargap=0,
    )
    return figure


def _title(map_: RobustnessMap) -> str:
    over = parameter_label(map_.x_name) + (f" and {parameter_label(map_.y_name)}" if map_.y_name else "")
    return f"{optimizer_label(map_.optimizer)}: {map_.metric.label} over {over}"


def _subtitle(maps: Sequence[RobustnessMap]) -> list[str]:
    first = maps[0]
    seeds = max((cell.planned for map_ in maps for cell in map_.cells), default=0)
    value = f"median of {count(seeds, 'seed')}" if seeds > 1 else "one seed"
    parts = [f"{value} per cell, diverged ones counted as untrained", map_counts(maps)]
    if any(map_.best is not None for map_ in maps):
        sign = "dotted line" if first.y_name is None else "outline" if first.is_grid else "thick rim"
        parts.append(f"{sign}: within {tolerance(first)} of the panel's best")
    if first.slice_at:
        parts.append("slices through the best cells")
    return parts


def _panel_title(figure: go.Figure, map_: RobustnessMap, theme: Theme, row: int, column: int) -> None:
    best = map_.best_cell
    below = "nothing completed" if best is None else f"best {metric_value(map_.metric, best.median)}"
    below += "".join(f" · {parameter_label(name)} {number(value)}" for name, value in map_.slice_at)
    short = safe if len(map_.edges) > 1 else parameter_label  # lr for learning rate, since two full names don't fit
    extend = " and ".join(
        f"{'lower' if edge.side == 'low' else 'higher'} {short(edge.parameter)}" for edge in map_.edges
    )
    if extend:
        below += f"<br><span style='color:{theme.warning}'><b>extend: {extend}</b></span>"
    add_panel_title(figure, f"batch size {map_.batch_size:,}", row, column, below=below)


@dataclass(frozen=True, kw_only=True)
class OptimizerMaps:
    """The maps of an optimizer, with the colour scale that all optimizers share."""

    maps: tuple[RobustnessMap, ...]
    scale: Scale


def compute_optimizer_maps(results: StudyResults, optimizer: str) -> OptimizerMaps:
    """Return the maps of an optimizer for the current metric.

    Raises:
        NothingToShowError: no run of the optimizer has a value.
    """
    own = tuple(map_ for map_ in results.maps if map_.optimizer == optimizer)
    if not own:
        raise NothingToShowError("No run has a measured value here, so there is nothing to draw.")
    return OptimizerMaps(maps=own, scale=map_scale(results.maps))


_COUNTS = ("completed", "diverged", "failed", "waiting", "planned")


def map_data(maps: Sequence[RobustnessMap]) -> Data:
    """Return every cell of the maps of one optimizer."""
    first = maps[0]
    second = (first.y_name,) if first.y_name else ()
    rest = tuple(name for name, _ in first.slice_at)
    return Data(
        columns=(
            "batch_size", first.x_name, *second, *rest, f"median_{first.metric.name}", "smallest", "largest", *_COUNTS,
            "marks",
        ),
        rows=[
            (
                map_.batch_size,
                cell.x,
                *((cell.y,) if second else ()),
                *(value for _, value in map_.slice_at),
                *(cell.median, cell.low, cell.high),
                *(getattr(cell, name) for name in _COUNTS),
                _marks(map_, cell),
            )
            for map_ in maps
            for cell in map_.cells
        ],
    )  # fmt: skip


def _marks(map_: RobustnessMap, cell: Cell) -> str:
    marks = [
        ("best", map_.best_cell is cell),
        ("within tolerance", cell.in_region),
        ("indistinguishable from the best", cell.like_best),
    ]
    return ", ".join(text for text, applies in marks if applies)


ROBUSTNESS = Exhibit(
    in_paper=True,
    name="robustness",
    section="maps",
    title="Robustness maps, one panel per batch size",
    compute=compute_optimizer_maps,
    draw=lambda found, theme: draw_maps(found.maps, theme=theme, scale=found.scale),
    data=lambda found: map_data(found.maps),
    options=(METRIC, OPTIMIZER),
    depends=("filters", "metric", "tolerance"),
    choosable=True,
)
