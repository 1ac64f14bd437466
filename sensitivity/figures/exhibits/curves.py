"""Learning curves of cells: one panel per batch size, one colour per optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sensitivity.analysis.curves import CellCurves
from sensitivity.analysis.maps import Cell, RobustnessMap
from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.axes import add_panel_title
from sensitivity.figures.data import Data, Value
from sensitivity.figures.exhibit import METRIC, Exhibit, Option
from sensitivity.figures.labels import capitalized, count, metric_value, optimizer_label
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.figures.scales import Scale, metric_scale
from sensitivity.figures.theme import LIGHT, Theme

_PANELS_A_ROW = 3
_TOP, _BOTTOM, _PANEL, _BETWEEN = 92, 84, 280, 86
_MAX_POINTS = 120
"""Largest number of points in a line; a panel is about 340 pixels wide."""
_MAX_SEEDS = 12
"""Largest number of thin lines per cell; the median and the band use all seeds."""


def draw_curves(
    cells: Sequence[CellCurves],
    *,
    theme: Theme = LIGHT,
    subject: str = "the best cells",
    optimizers: Sequence[str] = (),
) -> go.Figure:
    """Draw the curves of `cells`, all of one metric: seeds as thin lines, their range as a band, their median bold.

    `optimizers` are all optimizers of the study, in its order, so that each has the same colour as elsewhere.

    Long curves and many seeds are thinned to what a panel can show, and the subtitle says so.

    Raises:
        NothingToShowError: `cells` is empty.
    """
    if not cells:
        raise NothingToShowError("There is no cell with learning curves to show.")
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
    figure.update_xaxes(title_text=f"{cells[0].unit}s")
    figure.update_yaxes(tickvals=scale.tickvals, ticktext=scale.ticktext)
    figure.update_yaxes(title_text=metric.label, col=1)
    n = sum(cell.n for cell in cells)
    planned = sum(cell.planned for cell in cells)
    diverged = sum(seed.diverged for cell in cells for seed in cell.seeds)
    figure.update_layout(
        template=theme.template(),
        title={
            "text": f"{capitalized(metric.label)} of {subject} by {cells[0].unit}",
            "subtitle": {
                "text": f"n = {n} of {count(planned, 'run')} in {count(len(cells), 'cell')}, {diverged} diverged"
                f" · bold: median · band: all seeds · thin: {_thin_lines_text(cells)}"
            },
        },
        height=plot + _TOP + _BOTTOM,
        margin={"t": _TOP, "b": _BOTTOM, "l": 70, "r": 20},
        hovermode="closest",
    )
    return figure


def _thin_lines_text(cells: Sequence[CellCurves]) -> str:
    """Return what the thin lines are, and how many evaluations are drawn if not all are."""
    most = max(len(cell.seeds) for cell in cells)
    seeds = "each seed" if most <= _MAX_SEEDS else f"{_MAX_SEEDS} of {most} seeds"
    longest = max((len(seed.times) for cell in cells for seed in cell.seeds), default=0)
    return seeds if longest <= _MAX_POINTS else f"{seeds} · at most {_MAX_POINTS} of {longest:,} evaluations drawn"


def _evenly_spaced(length: int, most: int) -> list[int]:
    """Return at most `most` evenly spaced positions among `length`, including the first and the last."""
    if length <= most:
        return list(range(length))
    return [round(k * (length - 1) / (most - 1)) for k in range(most)]


def _traces(cell: CellCurves, scale: Scale, theme: Theme, position: int) -> list[go.Scatter]:
    style = theme.style(position)
    colour, dash = style.colour, style.dash
    label = optimizer_label(cell.optimizer)
    place = scale.position
    kept = _evenly_spaced(len(cell.times), _MAX_POINTS)
    times, median, low, high = ([of[k] for k in kept] for of in (cell.times, cell.median, cell.low, cell.high))
    band = go.Scatter(
        x=[*times, *reversed(times)],
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
            x=[seed.times[k] for k in of_seed],
            y=[place(seed.measured[k]) for k in of_seed],
            mode="lines",
            line={"width": 0.8, "color": colour},
            opacity=0.6,
            hoverinfo="skip",
        )
        for seed in (cell.seeds[k] for k in _evenly_spaced(len(cell.seeds), _MAX_SEEDS))
        for of_seed in [_evenly_spaced(len(seed.times), _MAX_POINTS)]
    ]
    middle = go.Scatter(
        x=times,
        y=[place(value) for value in median],
        mode="lines",
        name=f"{label}, median",
        line={"width": 3, "color": colour, "dash": dash},
        hovertext=[
            f"<b>{label}, batch size {cell.batch_size}</b><br>{cell.unit} {time:g}<br>median"
            f" {metric_value(cell.metric, at)}<br>seeds from {metric_value(cell.metric, least)} to"
            f" {metric_value(cell.metric, most)}<br>n = {cell.n}"
            for time, at, least, most in zip(times, median, low, high, strict=True)
        ],
        hoverinfo="text",
    )
    ends = [seed for seed in cell.seeds if seed.diverged and seed.times]
    crosses = go.Scatter(
        x=[seed.times[-1] for seed in ends],
        y=[place(seed.measured[-1]) for seed in ends],
        mode="markers",
        name=f"{label}, diverged after here",
        marker={"symbol": "x", "size": 10, "color": colour, "line": {"width": 1, "color": theme.paper}},
        hovertext=[f"{label}: seed {seed.seed} diverged" for seed in ends],
        hoverinfo="text",
    )
    return [band, *seeds, middle, *([crosses] if ends else [])]


def curve_data(cells: Sequence[CellCurves]) -> Data:
    """Return the curves of cells: their medians and ranges, then those of each seed."""
    rows: list[tuple[Value, ...]] = []
    for cell in cells:
        at = (cell.optimizer, cell.batch_size, cell.cell_id)
        for name, values in (("median", cell.median), ("smallest", cell.low), ("largest", cell.high)):
            rows += [(*at, name, *point) for point in zip(cell.times, values, strict=True)]
    for cell in cells:
        at = (cell.optimizer, cell.batch_size, cell.cell_id)
        for seed in cell.seeds:
            rows += [(*at, f"seed {seed.seed}", *point) for point in zip(seed.times, seed.measured, strict=True)]
    return Data(columns=("optimizer", "batch_size", "cell_id", "curve", cells[0].unit, cells[0].metric.name), rows=rows)


CHOICES = {
    "best": "the best cells",
    "median": "the median cells",
    "diverged": "the gentlest cells that diverge",
}
"""Which cells' curves are shown. Best: the best cell of the map. Median: the middle of the measured cells. Diverged:
of the cells with a diverged seed, the one with the smallest learning rate; among several, the best."""


@dataclass(frozen=True, kw_only=True)
class ChosenCurves:
    """Curves of cells, with the key by which the cells were chosen."""

    cells: tuple[CellCurves, ...]
    subject: str
    optimizers: tuple[str, ...]
    """All optimizers of the study, in its order."""


def compute_chosen_curves(results: StudyResults, cells: str) -> ChosenCurves:
    """Return the curves of the cells that a key of ``CHOICES`` selects, one per map that has such a cell.

    Raises:
        NothingToShowError: no map has such a cell.
    """
    chosen = [cell for cell in (choose_cell(map_, cells) for map_ in results.maps) if cell is not None]
    curves = tuple(found for found in results.cell_curves(*(cell.cell_id for cell in chosen)) if found.times)
    if not curves:
        why = "No run has completed, so there is no best cell to show the curves of."
        raise NothingToShowError(why if cells == "best" else f"There are no curves of {CHOICES[cells]}.")
    return ChosenCurves(cells=curves, subject=CHOICES[cells], optimizers=tuple(results.spec.optimizers))


def choose_cell(map_: RobustnessMap, which: str) -> Cell | None:
    """Return the cell of a map that a key of ``CHOICES`` selects, or None if there is none."""
    if which == "best":
        return map_.best_cell
    sign = 1.0 if map_.metric.lower_is_better else -1.0
    if which == "median":
        ranked = sorted((c for c in map_.cells if c.state == "measured"), key=lambda cell: sign * cell.median)
        return ranked[len(ranked) // 2] if ranked else None
    lost = [cell for cell in map_.cells if cell.diverged]
    return min(lost, key=lambda cell: (cell.x, sign * cell.median), default=None)


CURVES = Exhibit(
    name="curves",
    section="curves",
    title="Learning curves",
    compute=compute_chosen_curves,
    draw=lambda found, theme: draw_curves(found.cells, theme=theme, subject=found.subject, optimizers=found.optimizers),
    data=lambda found: curve_data(found.cells),
    options=(METRIC, Option(name="cells", label="Cells", values=lambda _: CHOICES)),
    depends=("filters", "metric", "tolerance"),
    steps=(lambda results: results.maps,),
)
