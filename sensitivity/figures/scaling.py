"""Scaling with batch size: time to a target against ideal scaling, efficiency, and critical batch sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from sensitivity.analysis.scaling import ScalingCurve
from sensitivity.analysis.scaling_points import ScalingPoint
from sensitivity.analysis.times import TimeUnit
from sensitivity.figures.axes import add_panel_title
from sensitivity.figures.labels import count, interval_text, number, optimizer_label, parameter_label, safe
from sensitivity.figures.nothing import NothingToDrawError
from sensitivity.figures.panels import batch_axis, log_axis, make_panels
from sensitivity.figures.theme import LIGHT, Style, Theme
from sensitivity.figures.traces import whiskers

Groups = Mapping[str, Sequence[ScalingCurve]]
"""A target in words -> its scaling curves, one an optimizer, all in one unit."""

UNIT_WORDS: dict[TimeUnit, str] = {
    "steps": "steps",
    "epochs": "epochs",
    "seconds": "device-seconds",
    "flops": "floating-point operations",
}
_STATES = {
    "reached": "reached by every seed",
    "left-censored": "met by the first evaluation: at most what is shown",
    "untrained": "met by the untrained network",
    "unreliable": "reached by some seeds: expected running time",
    "censored": "not reached: more than the budget shown",
    "diverged": "every run diverged",
}


def draw_scaling(groups: Groups, *, theme: Theme = LIGHT, several: bool = False) -> go.Figure:
    """Draw S(B), the time to each target by the best configuration, beside ideal scaling; one panel a target.

    Groups are targets of one study, or with `several` one target each of several studies, whose runs add up.

    Raises:
        NothingToDrawError: no curve with a result.
    """
    curves = _all(groups)
    unit = curves[0].unit
    panels = make_panels(len(groups), columns=2, height=330)
    sizes = [point.batch_size for curve in curves for point in curve.points]
    times = [value for curve in curves for point in curve.points for value in _span(point)]
    # Ideal times far below all that were measured would push these together; their lines leave the panel instead.
    floor = min((value for value in times if value > 0), default=0.0) / 4
    ideal = [max(value, floor) for curve in curves for value in curve.ideal()]
    axis = log_axis([*times, *ideal], base_two=unit == "steps")
    top = 10 ** axis["range"][1]  # type: ignore[index]
    shown: set[str] = set()
    for (row, column), (title, group) in zip(panels.places(), groups.items(), strict=True):
        for position, curve in enumerate(group):
            for trace in _scaling_traces(curve, theme.style(position), theme, 0.93 * top):
                if trace.name:
                    trace.showlegend = trace.name not in shown
                    shown.add(trace.name)
                panels.figure.add_trace(trace, row=row, col=column)
        add_panel_title(panels.figure, safe(title), row, column)
    panels.figure.update_xaxes(**batch_axis(sizes))
    panels.figure.update_yaxes(**axis)
    panels.figure.update_yaxes(title_text=f"{UNIT_WORDS[unit]} to the target", col=1)
    return panels.finish(
        theme,
        f"Time to target in {UNIT_WORDS[unit]}, against ideal scaling",
        [
            _n(curves, several=several),
            "best configuration of each batch size, timed on seeds that did not choose it where there are several",
            "dashed: ideal scaling from the smallest batch size reached",
            "open: reached by some seeds only (expected running time, which may exceed the budget), (pointing up) by"
            " none within the budget, (pointing down) by the first evaluation already",
            "bars: 95% interval over seeds (Student's t), and what lies between evaluations",
        ],
        panel_width=440,
    )


def draw_efficiency(groups: Groups, *, theme: Theme = LIGHT) -> go.Figure:
    """Draw the efficiency of each optimizer: ideal time over measured time, from its smallest batch size reached.

    Raises:
        NothingToDrawError: no target was reached.
    """
    curves = _all(groups)
    if not any(point.efficiency.known for curve in curves for point in curve.points):
        raise NothingToDrawError("an efficiency needs a batch size at which a target was reached")
    panels = make_panels(len(groups), columns=2, height=300)
    shown: set[str] = set()
    for (row, column), (title, group) in zip(panels.places(), groups.items(), strict=True):
        for position, curve in enumerate(group):
            points = [point for point in curve.points if point.efficiency.known]
            style, name = theme.style(position), optimizer_label(curve.optimizer)
            panels.figure.add_trace(
                go.Scatter(
                    x=[point.batch_size for point in points],
                    y=[point.efficiency.value for point in points],
                    mode="lines+markers",
                    name=name,
                    showlegend=name not in shown,
                    line={"color": style.colour, "width": 2, "dash": style.dash},
                    marker={"symbol": style.symbol, "size": 9, "color": style.colour},
                    error_y=whiskers([point.efficiency for point in points], style.colour),
                    hovertext=[
                        f"<b>{name}, batch size {point.batch_size:,}</b><br>efficiency"
                        f" {interval_text(point.efficiency)}<br>n = {count(point.efficiency.n, 'seed')}"
                        for point in points
                    ],
                    hoverinfo="text",
                ),
                row=row,
                col=column,
            )
            shown.add(name)
        panels.figure.add_hline(y=1, line={"color": theme.muted, "dash": "dash", "width": 1}, row=row, col=column)
        add_panel_title(panels.figure, safe(title), row, column)
    points = [point for curve in curves for point in curve.points]
    panels.figure.update_xaxes(**batch_axis([point.batch_size for point in points]))
    ends = [end for point in points for end in (point.efficiency.value, *(point.efficiency.interval or ()))]
    panels.figure.update_yaxes(**log_axis([*ends, 1.0], base_two=True))
    panels.figure.update_yaxes(title_text="efficiency (1 is ideal)", col=1)
    return panels.finish(
        theme,
        f"Scaling efficiency in {UNIT_WORDS[curves[0].unit]}",
        [
            _n(curves),
            "time that ideal scaling from the smallest batch size would take, over the time it took",
            "bars: 95% interval over seeds (Student's t); none with one seed or where seeds agree exactly",
        ],
        panel_width=440,
    )


def draw_critical(groups: Groups, *, theme: Theme = LIGHT) -> go.Figure:
    """Draw the critical batch sizes with their intervals, one line a target and optimizer, curves in steps.

    Raises:
        NothingToDrawError: no curve of which a critical batch size is known, or curves in another unit.
    """
    curves = _all(groups)
    if any(curve.critical is None for curve in curves):
        raise NothingToDrawError("critical batch sizes need scaling curves in steps")
    if not any(curve.critical.size.known for curve in curves if curve.critical):
        raise NothingToDrawError("a critical batch size needs two batch sizes at which a target was reached")
    sizes = sorted({size for curve in curves for size in curve.batch_sizes} or {1})
    low_end, high_end = sizes[0] / 4, sizes[-1] * 16
    order = list(dict.fromkeys(curve.optimizer for curve in curves))
    panels = make_panels(1, columns=1, height=36 * len(curves) + 40)
    labels = []
    for title, group in groups.items():
        for curve in group:
            critical = curve.critical
            assert critical is not None
            label = f"{optimizer_label(curve.optimizer)}, {safe(title)}"
            labels.append(label)
            style = theme.style(order.index(curve.optimizer))
            value, (low, high) = critical.size.value, critical.size.interval or (math.nan, math.nan)
            ends = [min(max(end, low_end), high_end) for end in (low, high) if not math.isnan(end)]
            outside = [end for end, limit in zip(ends, (low, high), strict=False) if end != limit]
            panels.figure.add_trace(
                go.Scatter(
                    x=ends,
                    y=[label] * len(ends),
                    mode="lines",
                    line={"color": style.colour, "width": 3},
                    hoverinfo="skip",
                    showlegend=False,
                )
            )
            arrows = ["triangle-left" if end == low_end else "triangle-right" for end in outside]
            panels.figure.add_trace(
                go.Scatter(
                    x=outside,
                    y=[label] * len(outside),
                    mode="markers",
                    marker={"symbol": arrows, "size": 11, "color": style.colour},
                    hoverinfo="skip",
                    showlegend=False,
                )
            )
            there = low_end <= value <= high_end
            panels.figure.add_trace(
                go.Scatter(
                    x=[value if there else math.sqrt(low_end * high_end)],
                    y=[label],
                    mode="markers+text" if there else "text",
                    text=[safe(critical.says)],
                    textposition="top center" if there else "middle center",
                    textfont={"size": 11, "color": theme.ink},
                    marker={"symbol": style.symbol, "size": 10, "color": style.colour},
                    hovertext=[f"<b>{label}</b><br>{safe(critical.says)}<br>n = {count(critical.size.n, 'seed')}"],
                    hoverinfo="text",
                    cliponaxis=False,
                    showlegend=False,
                )
            )
    panels.figure.add_vrect(x0=sizes[0], x1=sizes[-1], fillcolor=theme.grid, opacity=0.45, line_width=0, layer="below")
    axis = log_axis([low_end, high_end], base_two=True)
    panels.figure.update_xaxes(**axis, title_text="critical batch size Bc in examples")
    panels.figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=labels[::-1], range=[-0.6, len(labels) - 0.4]
    )
    covers = dict.fromkeys(curve.critical.size.covers for curve in curves if curve.critical)
    interval = f"line: 95% interval of {' or '.join(said for said in covers if said)}, an arrow where it goes on"
    return panels.finish(
        theme,
        "Critical batch size of each optimizer",
        [
            f"n = {_seeds(curves)}",
            "S(B) = Smin (1 + Bc/B), fitted to the steps of the best configurations",
            *([interval] if any(covers) else []),
            "shaded: batch sizes reached",
        ],
        panel_width=620,
        left=230,
    )


def _all(groups: Groups) -> list[ScalingCurve]:
    curves = [curve for group in groups.values() for curve in group]
    if all(point.state == "no-result" for curve in curves for point in curve.points):
        raise NothingToDrawError("a figure of scaling needs a curve with a result")
    return curves


def _n(curves: Sequence[ScalingCurve], *, several: bool = False) -> str:
    first: dict[str, ScalingCurve] = {}
    for curve in curves:
        first.setdefault(curve.optimizer, curve)
    counted = curves if several else first.values()
    planned = sum(point.planned for curve in counted for point in curve.points)
    return f"n = {count(planned, 'run')} planned, best cells timed on {_seeds(curves)}"


def _seeds(curves: Sequence[ScalingCurve]) -> str:
    seeds = sorted({point.time.n for curve in curves for point in curve.points if point.state == "reached"} or {0})
    return count(seeds[0], "seed") if len(seeds) == 1 else f"{seeds[0]:,} to {count(seeds[-1], 'seed')}"


def _span(point: ScalingPoint) -> list[float]:
    low, high = point.time.interval or (point.time.value, point.time.value)
    return [point.time.value, low, high]


def _scaling_traces(curve: ScalingCurve, style: Style, theme: Theme, top: float) -> list[go.Scatter]:
    name = optimizer_label(curve.optimizer)
    solid = [point for point in curve.points if point.state in ("reached", "unreliable") and point.time.known]
    ideal = go.Scatter(
        x=[point.batch_size for point in curve.points],
        y=curve.ideal(),
        mode="lines",
        name=f"{name}, ideal",
        line={"color": style.colour, "width": 1.2, "dash": "dash"},
        opacity=0.8,
        hoverinfo="skip",
    )
    line = go.Scatter(
        x=[point.batch_size for point in solid],
        y=[point.time.value for point in solid],
        mode="lines+markers",
        name=name,
        line={"color": style.colour, "width": 2.5},
        marker={
            "symbol": [style.symbol + ("" if point.state == "reached" else "-open") for point in solid],
            "size": 10,
            "color": style.colour,
            "line": {"width": 1.5, "color": style.colour},
        },
        error_y=whiskers([point.time for point in solid], style.colour),
        hovertext=[_hover(curve, point) for point in solid],
        hoverinfo="text",
    )
    traces = [ideal, line]
    for state, symbol, word in (
        ("censored", "triangle-up-open", "not reached"),
        ("left-censored", "triangle-down-open", "by the first evaluation"),
        ("diverged", "x", "all diverged"),
    ):
        points = [point for point in curve.points if point.state == state]
        if points:
            traces.append(
                go.Scatter(
                    x=[point.batch_size for point in points],
                    y=[top if state == "diverged" else point.time.value for point in points],
                    mode="markers",
                    name=f"{name}, {word}",
                    marker={"symbol": symbol, "size": 13, "color": style.colour, "line": {"width": 2}},
                    hovertext=[_hover(curve, point) for point in points],
                    hoverinfo="text",
                )
            )
    return traces


def _hover(curve: ScalingCurve, point: ScalingPoint) -> str:
    lines = [
        f"<b>{optimizer_label(curve.optimizer)}, batch size {point.batch_size:,}</b>",
        _STATES.get(point.state, "no result yet"),
        f"{UNIT_WORDS[curve.unit]}: {'> ' if point.state == 'censored' else ''}"
        + (number(point.time.value) if point.state == "censored" else interval_text(point.time)),
        f"n = {count(point.time.n, 'seed')}, {point.method}",
    ]
    if point.state == "reached":
        lines.append(f"between evaluations at {number(point.bounds[0], 3)} and {number(point.bounds[1], 3)}")
    if point.parameters:
        settings = ", ".join(f"{parameter_label(name)} {number(value, 3)}" for name, value in point.parameters)
        lines.append(settings + (f" (on the edge of its {point.edges[0].of})" if point.edges else ""))
    lines.append(
        f"of {point.planned:,} runs {point.reached:,} reached it, {point.censored:,} did not,"
        f" {point.diverged:,} diverged, {point.fell_back:,} fell back"
    )
    return "<br>".join(lines)
