"""Parallel coordinates: runs as lines across their hyperparameters and a metric, as many as a browser can draw.

Drawn as plain lines, one trace per shade: Plotly's own parallel coordinates compile code in the browser, which a strict
content-security policy forbids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.axes import is_reversed
from sensitivity.figures.data import Data
from sensitivity.figures.exhibit import Exhibit
from sensitivity.figures.labels import number, optimizer_label, safe
from sensitivity.figures.nothing import NO_RESULT, NothingToShowError
from sensitivity.figures.scales import Scale, metric_scale
from sensitivity.figures.theme import LIGHT, Theme
from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.hyperparameters import hyperparameter
from sensitivity.study.metrics import Metric
from sensitivity.study.results import Status

_SHADES = 12
_MAX_TICKS = 9
_TICK_GAP = 0.045
"""Smallest distance between two ticks, as a share of the height."""


@dataclass(frozen=True)
class _Coordinate:
    """A vertical axis: where each run crosses it, from 0 to 1, and its ticks."""

    label: str
    places: Sequence[float]
    ticks: Sequence[tuple[float, str]]


def draw_parallel(
    runs: pd.DataFrame, metric: Metric, parameters: Sequence[str], *, of: int, selection: str, theme: Theme = LIGHT
) -> go.Figure:
    """Draw `runs`, each with a finite value of `metric`, across batch size, `parameters` and the metric.

    `of` is the number of runs from which these were selected, and `selection` describes the selection.

    Raises:
        NothingToShowError: `runs` is empty.
    """
    if not len(runs):
        raise NothingToShowError(NO_RESULT)
    scale = metric_scale(metric, runs[metric.name])
    coordinates = [
        _of_names("optimizer", [str(name) for name in runs["optimizer"]]),
        _coordinate("batch size", [float(size) for size in runs["batch_size"]]),
        *(_of_parameter(name, [float(v) for v in runs[PARAM_PREFIX + name]]) for name in parameters),
        _of_metric(metric, scale, [float(value) for value in runs[metric.name]]),
    ]
    figure = go.Figure(_lines(coordinates, scale, theme))
    for x, coordinate in enumerate(coordinates):
        figure.add_shape(type="line", x0=x, x1=x, y0=0, y1=1, line={"color": theme.muted, "width": 1})
        for y, text in coordinate.ticks:
            figure.add_annotation(
                x=x, y=y, text=text, showarrow=False, xanchor="right", xshift=-4,
                font={"size": 11, "color": theme.ink}, bgcolor=theme.paper, opacity=0.85,
            )  # fmt: skip
    figure.update_layout(
        template=theme.template(),
        title={
            "text": f"Completed runs across their hyperparameters, by {metric.label}",
            "subtitle": {
                "text": f"n = {len(runs):,} of {of:,} completed runs{selection} · lines are runs{_lacking(coordinates)}"
            },
        },
        xaxis={
            "tickvals": list(range(len(coordinates))),
            "ticktext": [coordinate.label for coordinate in coordinates],
            "showgrid": False,
            "range": [-0.25, len(coordinates) - 0.9],
            "side": "top",
        },
        yaxis={"visible": False, "range": [-0.03, 1.03]},
        height=480,
        margin={"t": 116, "b": 24, "l": 20, "r": 20},
        showlegend=False,
    )
    return figure


def _lacking(coordinates: Sequence[_Coordinate]) -> str:
    some = any(not math.isfinite(place) for coordinate in coordinates for place in coordinate.places)
    return ", straight across the axes of hyperparameters that its optimizer lacks" if some else ""


def _lines(coordinates: Sequence[_Coordinate], scale: Scale, theme: Theme) -> list[go.Scatter]:
    """Return the lines, worst first, so that the best are on top; a gap separates two lines of a trace."""
    quality = coordinates[-1].places
    colours = _shades(scale.colours, theme)
    by_shade: dict[int, list[int]] = {}
    for run, place in enumerate(quality):
        by_shade.setdefault(min(int(place * _SHADES), _SHADES - 1), []).append(run)
    worst_first = sorted(by_shade, reverse=scale.colours.endswith("_r"))
    traces = []
    for shade in worst_first:
        xs: list[float | None] = []
        ys: list[float | None] = []
        for run in by_shade[shade]:
            # An optimizer may lack a hyperparameter: its line continues straight to the next axis that it has.
            there = [x for x, coordinate in enumerate(coordinates) if math.isfinite(coordinate.places[run])]
            xs += there
            ys += [coordinates[x].places[run] for x in there]
            xs.append(None)
            ys.append(None)
        traces.append(
            go.Scatter(
                x=xs, y=ys, mode="lines", line={"color": colours[shade], "width": 1}, opacity=0.55, hoverinfo="skip"
            )
        )
    return traces


def _of_metric(metric: Metric, scale: Scale, values: Sequence[float]) -> _Coordinate:
    span = scale.top - scale.bottom
    places = [(scale.position(value) - scale.bottom) / span for value in values]
    ticks = [((at - scale.bottom) / span, text) for at, text in zip(scale.tickvals, scale.ticktext, strict=True)]
    return _Coordinate(metric.label, places, ticks)


def _shades(colours: str, theme: Theme) -> list[str]:
    """Return the line colours: the part of a scale with contrast to the background; the bad end is nearly dark."""
    low, high = (0.0, 1.0) if theme.name != "dark" else (0.0, 0.72) if colours.endswith("_r") else (0.28, 1.0)
    shades: list[str] = sample_colorscale(colours, [low + k / (_SHADES - 1) * (high - low) for k in range(_SHADES)])
    return shades


def _of_names(label: str, names: Sequence[str]) -> _Coordinate:
    """Return an axis of names, with the study's first name at the top."""
    known = list(dict.fromkeys(sorted(names)))
    place = {name: 1 - (k + 0.5) / len(known) for k, name in enumerate(known)}
    ticks = [(place[name], optimizer_label(name)) for name in known]
    return _Coordinate(label, [place[name] for name in names], ticks)


def _of_parameter(name: str, values: Sequence[float]) -> _Coordinate:
    """Return the axis of a hyperparameter, in the same coordinate and direction as in maps."""
    declared = hyperparameter(name)
    found = _coordinate(safe(declared.coordinate_label), [declared.coordinate(value) for value in values])
    if not is_reversed(name):
        return found
    return _Coordinate(found.label, [1 - at for at in found.places], [(1 - at, text) for at, text in found.ticks])


def _coordinate(label: str, values: Sequence[float]) -> _Coordinate:
    known = sorted({value for value in values if math.isfinite(value)})
    low, high = known[0], known[-1]
    log = low > 0 and high >= 10 * low

    def place(value: float) -> float:
        if not math.isfinite(value):
            return math.nan
        if high == low:
            return 0.5
        return math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)

    ticked = known
    if len(known) > _MAX_TICKS:
        steps = [k / (_MAX_TICKS - 1) for k in range(_MAX_TICKS)]
        ticked = [low * (high / low) ** s if log else low + s * (high - low) for s in steps]
    ticks: list[tuple[float, str]] = []
    for value in reversed(ticked):  # the largest is always labelled, and no two overlap
        if not ticks or ticks[-1][0] - place(value) >= _TICK_GAP:
            ticks.append((place(value), number(value)))
    return _Coordinate(label, [place(value) for value in values], ticks)


MAX_LINES = 2_000
"""Largest number of runs drawn; more make a browser slow."""


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Runs drawn as lines, the number from which they were selected, and how."""

    runs: pd.DataFrame
    metric: Metric
    parameters: tuple[str, ...]
    of: int
    selection: str


def compute_lines(results: StudyResults) -> Lines:
    """Return the completed runs with a value of the metric; of very many, the best and an even sample of the others.

    Raises:
        NothingToShowError: no run has completed.
    """
    metric, runs = results.metric, results.searched
    measured = (runs["status"] == Status.COMPLETED.value) & np.isfinite(runs[metric.name].to_numpy(dtype=float))
    done = runs[measured].sort_values(metric.name, ascending=metric.lower_is_better, kind="stable")
    if not len(done):
        raise NothingToShowError("No run has completed yet.")
    if len(done) <= MAX_LINES:
        return Lines(runs=done, metric=metric, parameters=results.varying, of=len(done), selection="")
    best = MAX_LINES // 2
    rest = done.iloc[best:]
    spread = np.linspace(0, len(rest) - 1, MAX_LINES - best).round().astype(int)
    return Lines(
        runs=pd.concat([done.iloc[:best], rest.iloc[spread]]),
        metric=metric,
        parameters=results.varying,
        of=len(done),
        selection=f": the best {best:,}, and every {len(rest) / (MAX_LINES - best):.1f}th of the others by rank",
    )


def line_data(lines: Lines) -> Data:
    """Return the runs that are drawn."""
    parameters = [PARAM_PREFIX + name for name in lines.parameters]
    columns = ["optimizer", "batch_size", "seed", *parameters, lines.metric.name, "steps", "train_seconds", "trial_id"]
    return Data.of(lines.runs, columns)


PARALLEL = Exhibit(
    name="parallel",
    section="runs",
    title="Completed runs across their hyperparameters and the metric",
    compute=compute_lines,
    draw=lambda lines, theme: draw_parallel(
        lines.runs, lines.metric, lines.parameters, of=lines.of, selection=lines.selection, theme=theme
    ),
    data=line_data,
    depends=("filters", "metric"),
)
