"""Single runs as points: any two of their numbers, coloured by a third; and the metric along each hyperparameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.data import Data
from sensitivity.figures.exhibit import Exhibit, Option
from sensitivity.figures.labels import number, optimizer_label, parameter_label, safe
from sensitivity.figures.nothing import NO_RESULT, NothingToShowError
from sensitivity.figures.run_numbers import Axis, axis_of, run_numbers
from sensitivity.figures.theme import Theme
from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.metrics import Metric
from sensitivity.study.results import Status

MAX_POINTS = 3_000
"""Largest number of points in a panel; more make a browser slow."""
_CATEGORIES = {"optimizer": "optimizer", "status": "status"}
_PANELS_A_ROW = 3
_TOP, _BOTTOM, _PANEL, _BETWEEN = 92, 84, 300, 96


@dataclass(frozen=True, kw_only=True)
class Points:
    """Runs and the axes on which they are placed."""

    runs: pd.DataFrame
    x: Axis
    y: Axis
    shade: Axis | None
    """None if they are coloured by a name."""
    columns: tuple[str, str, str]
    of: int
    """Planned runs in the current view."""
    left_out: int
    """Number of runs with both numbers that are not drawn because there are too many."""
    order: tuple[str, ...]
    """Names in the order of their colours, if the runs are coloured by a name."""
    metric: Metric


def _numbers(results: StudyResults) -> Mapping[str, str]:
    return run_numbers(results)


def _y_numbers(results: StudyResults) -> Mapping[str, str]:
    found = run_numbers(results)
    first = results.metric.name
    return {first: found[first]} | found


def _shades(results: StudyResults) -> Mapping[str, str]:
    return _CATEGORIES | run_numbers(results)


def compute_points(results: StudyResults, x: str, y: str, by: str) -> Points:
    """Return the runs that have both numbers; of very many, an even sample.

    Raises:
        NothingToShowError: no run has both.
    """
    runs = results.runs
    both = np.isfinite(runs[x].to_numpy(dtype=float)) & np.isfinite(runs[y].to_numpy(dtype=float))
    there = runs[both]
    if not len(there):
        names = run_numbers(results)
        raise NothingToShowError(f"No run has both numbers: {names[x]} and {names[y]}.")
    drawn = evenly(there, MAX_POINTS)
    named_by = by in _CATEGORIES
    order = results.spec.optimizers if by == "optimizer" else [status.value for status in Status]
    return Points(
        runs=drawn,
        x=axis_of(results, drawn, x),
        y=axis_of(results, drawn, y),
        shade=None if named_by else axis_of(results, drawn, by),
        columns=(x, y, by),
        of=len(runs),
        left_out=len(there) - len(drawn),
        order=tuple(order),
        metric=results.metric,
    )


def evenly(runs: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return at most `most` of the runs, evenly spaced in their order."""
    if len(runs) <= most:
        return runs
    return runs.iloc[np.linspace(0, len(runs) - 1, most).round().astype(int)]


def draw_points(points: Points, theme: Theme) -> go.Figure:
    """Draw runs as points."""
    figure = go.Figure()
    words = _words(points.runs)
    ids = points.runs["trial_id"].to_numpy(dtype=object)
    common = {"size": 8, "opacity": 0.75, "line": {"width": 0.5, "color": theme.paper}}
    by = points.columns[2]
    if points.shade is None:
        names = points.runs[by].astype(str).to_numpy()
        for position, name in enumerate(points.order):
            own = names == name
            if own.any():
                style = theme.style(position)
                figure.add_scatter(
                    x=points.x.places[own], y=points.y.places[own], mode="markers", customdata=ids[own],
                    hovertext=words[own], hoverinfo="text", showlegend=True,
                    name=optimizer_label(name) if by == "optimizer" else name,
                    marker={**common, "color": style.colour, "symbol": style.symbol},
                )  # fmt: skip
    else:
        shade = points.shade
        figure.add_scatter(
            x=points.x.places, y=points.y.places, mode="markers", customdata=ids, hovertext=words, hoverinfo="text",
            showlegend=False,
            marker={
                **common, "color": np.where(np.isfinite(shade.places), shade.places, np.nan), "colorscale": "Viridis",
                "showscale": True,
                "colorbar": {
                    "title": {"text": f"{shade.label}<br> ", "side": "top", "font": {"size": 12, "color": theme.ink}},
                    "tickvals": shade.tickvals, "ticktext": shade.ticktext, "thickness": 14, "outlinewidth": 0,
                    "tickfont": {"size": 11, "color": theme.muted},
                },
            },
        )  # fmt: skip
    colour = _CATEGORIES.get(by) or (points.shade.label if points.shade else by)
    more = f", {points.left_out:,} more left out" if points.left_out else ""
    _style_axis(figure.update_xaxes, points.x)
    _style_axis(figure.update_yaxes, points.y)
    figure.update_layout(
        template=theme.template(),
        title={
            "text": f"{points.y.label} against {points.x.label}",
            "subtitle": {
                "text": f"n = {len(points.runs):,} of {points.of:,} planned runs with both{more}"
                f" · each point is a run · colour: {colour}"
            },
        },
        height=_TOP + 400 + _BOTTOM,
        margin={"t": _TOP, "b": _BOTTOM, "l": 70, "r": 20},
        hovermode="closest",
    )
    return figure


def _style_axis(update: object, axis: Axis, **where: int) -> None:
    update(  # type: ignore[operator]
        title_text=axis.label,
        tickvals=axis.tickvals,
        ticktext=axis.ticktext,
        autorange="reversed" if axis.reversed else True,
        **where,
    )


def _words(runs: pd.DataFrame) -> np.ndarray:
    """Return the hover text of each point: the run, its settings, and how it ended."""
    parameters = [name for name in runs if str(name).startswith(PARAM_PREFIX) and len(runs[name].dropna().unique()) > 1]
    texts = []
    for run in runs.to_dict("records"):
        settings = ", ".join(
            f"{parameter_label(str(name).removeprefix(PARAM_PREFIX))} {number(run[name])}"
            for name in parameters
            if run[name] == run[name]
        )
        head = f"{optimizer_label(run['optimizer'])}, batch size {run['batch_size']:,}, seed {run['seed']}"
        tags = f"<br>tags: {safe(run['tags'])}" if run.get("tags") else ""
        texts.append(f"<b>{head}</b><br>{settings}<br>{run['status']}{tags}")
    return np.array(texts, dtype=object)


def point_data(points: Points) -> Data:
    """Return the runs that are drawn."""
    leading = ["optimizer", "batch_size", "seed", "status"]
    columns = list(dict.fromkeys([*points.columns, *leading, "trial_id"]))
    return Data.of(points.runs, columns)


SCATTER = Exhibit(
    name="scatter",
    section="runs",
    title="Runs by any two of their numbers, coloured by a third",
    compute=compute_points,
    draw=draw_points,
    data=point_data,
    options=(
        Option(name="x", label="X axis", values=_numbers, free=True),
        Option(name="y", label="Y axis", values=_y_numbers, free=True),
        Option(name="by", label="Colour", values=_shades, free=True),
    ),
    depends=("filters", "metric", "rows"),
    of_runs=True,
    in_report=False,
)


@dataclass(frozen=True, kw_only=True)
class Slices:
    """The metric of runs along each varied hyperparameter."""

    runs: pd.DataFrame
    metric: Metric
    y: Axis
    across: tuple[tuple[str, Axis], ...]
    """Column and axis of each hyperparameter."""
    optimizers: tuple[str, ...]
    of: int


def compute_slices(results: StudyResults) -> Slices:
    """Return the runs with a value of the metric, and their positions along each hyperparameter.

    Raises:
        NothingToShowError: no run has a value, or no hyperparameter varies.
    """
    metric, runs = results.metric, results.searched
    there = runs[np.isfinite(runs[metric.name].to_numpy(dtype=float))]
    if not len(there):
        raise NothingToShowError(NO_RESULT)
    if not results.varying:
        raise NothingToShowError("No hyperparameter varies in this study.")
    drawn = evenly(there, MAX_POINTS)
    return Slices(
        runs=drawn,
        metric=metric,
        y=axis_of(results, drawn, metric.name),
        across=tuple((PARAM_PREFIX + n, axis_of(results, drawn, PARAM_PREFIX + n)) for n in results.varying),
        optimizers=tuple(results.spec.optimizers),
        of=len(runs),
    )


def draw_slices(slices: Slices, theme: Theme) -> go.Figure:
    """Draw one panel per hyperparameter."""
    columns = min(len(slices.across), _PANELS_A_ROW)
    rows = -(-len(slices.across) // columns)
    plot = rows * _PANEL + (rows - 1) * _BETWEEN
    figure = make_subplots(
        rows=rows, cols=columns, shared_yaxes=True, horizontal_spacing=0.03 if columns > 1 else 0,
        vertical_spacing=_BETWEEN / plot if rows > 1 else 0,
    )  # fmt: skip
    words = _words(slices.runs)
    ids = slices.runs["trial_id"].to_numpy(dtype=object)
    optimizers = slices.runs["optimizer"].astype(str).to_numpy()
    for panel, (_, axis) in enumerate(slices.across):
        row, column = panel // columns + 1, panel % columns + 1
        for position, name in enumerate(slices.optimizers):
            own = (optimizers == name) & np.isfinite(axis.places)
            style = theme.style(position)
            figure.add_scatter(
                x=axis.places[own], y=slices.y.places[own], mode="markers", name=optimizer_label(name),
                showlegend=panel == 0, legendgroup=name, customdata=ids[own], hovertext=words[own], hoverinfo="text",
                marker={
                    "size": 6, "opacity": 0.55, "color": style.colour, "symbol": style.symbol,
                    "line": {"width": 0.5, "color": theme.paper},
                },
                row=row, col=column,
            )  # fmt: skip
        _style_axis(figure.update_xaxes, axis, row=row, col=column)
    figure.update_yaxes(tickvals=slices.y.tickvals, ticktext=slices.y.ticktext)
    figure.update_yaxes(title_text=slices.y.label, col=1)
    figure.update_layout(
        template=theme.template(),
        title={
            "text": f"{slices.y.label} along each hyperparameter",
            "subtitle": {"text": f"n = {len(slices.runs):,} of {slices.of:,} planned runs · each point is a run"},
        },
        height=plot + _TOP + _BOTTOM,
        margin={"t": _TOP, "b": _BOTTOM, "l": 70, "r": 20},
        hovermode="closest",
    )
    return figure


def slice_data(slices: Slices) -> Data:
    """Return the runs that are drawn."""
    columns = ["optimizer", "batch_size", "seed", *(name for name, _ in slices.across), slices.metric.name, "trial_id"]
    return Data.of(slices.runs, columns)


SLICES = Exhibit(
    name="slices",
    section="runs",
    title="The metric of each run along each hyperparameter",
    compute=compute_slices,
    draw=draw_slices,
    data=slice_data,
    depends=("filters", "metric", "rows"),
    of_runs=True,
    in_report=False,
)
