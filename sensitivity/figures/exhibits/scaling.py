"""Scaling with batch size: time to a target compared with ideal scaling, efficiency, and critical batch sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import plotly.graph_objects as go

from sensitivity.analysis.scaling import ScalingCurve
from sensitivity.analysis.scaling_points import ScalingPoint
from sensitivity.analysis.study_results import StudyResults
from sensitivity.analysis.times import TimeUnit
from sensitivity.figures.axes import add_panel_title
from sensitivity.figures.data import Data, estimated
from sensitivity.figures.exhibit import Exhibit, Option
from sensitivity.figures.labels import (
    count,
    interval_text,
    number,
    optimizer_label,
    parameter_label,
    safe,
    target_label,
)
from sensitivity.figures.nothing import NO_RESULT, NO_TARGET, NothingToShowError
from sensitivity.figures.panels import batch_axis, log_axis, make_panels
from sensitivity.figures.theme import LIGHT, Style, Theme
from sensitivity.figures.traces import whiskers
from sensitivity.study.metrics import METRICS

Groups = Mapping[str, Sequence[ScalingCurve]]
"""A target in words -> its scaling curves, one per optimizer, all in one unit."""

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
    """Draw S(B), the time to each target with the best configuration, and ideal scaling; one panel per target.

    The groups are targets of one study or, if `several`, one target for each of several studies, whose runs add up.

    Raises:
        NothingToShowError: no curve has a result.
    """
    curves = curves_with_result(groups)
    unit = curves[0].unit
    panels = make_panels(len(groups), columns=2, height=330)
    sizes = [point.batch_size for curve in curves for point in curve.points]
    times = [value for curve in curves for point in curve.points for value in _span(point)]
    # Ideal times far below all measured ones would squeeze the axis; their lines leave the panel instead.
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
            "fastest configuration of each batch size, timed on seeds not used to choose it if there are several",
            "dashed: ideal scaling from the smallest batch size reached",
            "open: reached by some seeds only (expected running time, which may exceed the budget), (pointing up) by"
            " none within the budget, (pointing down) by the first evaluation already",
            "bars: 95% interval over seeds (Student's t), including the gap between evaluations",
        ],
        panel_width=440,
    )


def draw_efficiency(groups: Groups, *, theme: Theme = LIGHT) -> go.Figure:
    """Draw the efficiency of each optimizer: ideal time over measured time, from the smallest batch size reached.

    Raises:
        NothingToShowError: no target was reached.
    """
    curves = curves_with_result(groups)
    if not any(point.efficiency.known for curve in curves for point in curve.points):
        raise NothingToShowError("Efficiency needs a batch size at which a target was reached.")
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
            "time of ideal scaling from the smallest batch size, over the time it took",
            "bars: 95% interval over seeds (Student's t); none with one seed or where seeds agree exactly",
        ],
        panel_width=440,
    )


def curves_with_result(groups: Groups) -> list[ScalingCurve]:
    """Return all curves.

    Raises:
        NothingToShowError: none has a result.
    """
    curves = [curve for group in groups.values() for curve in group]
    if all(point.state == "no-result" for curve in curves for point in curve.points):
        raise NothingToShowError(NO_RESULT)
    return curves


def _n(curves: Sequence[ScalingCurve], *, several: bool = False) -> str:
    first: dict[str, ScalingCurve] = {}
    for curve in curves:
        first.setdefault(curve.optimizer, curve)
    counted = curves if several else first.values()
    planned = sum(point.planned for curve in counted for point in curve.points)
    return f"n = {count(planned, 'run')} planned, fastest cells timed on {seed_counts(curves)}"


def seed_counts(curves: Sequence[ScalingCurve]) -> str:
    """Return the number of seeds behind the curves, in words."""
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


def scaling_data(groups: Mapping[str, Sequence[ScalingCurve]]) -> Data:
    """Return times to targets by the best configuration."""
    return Data(
        columns=(
            "target", "optimizer", "unit", "batch_size", "state", "time", "time_low", "time_high", "seeds",
            "evaluated_before", "evaluated_at", "expected_time", "expected_low", "expected_high",
            "restricted_mean", "ideal_time", "efficiency", "efficiency_low", "efficiency_high",
            "winner", "hyperparameters", "judged", "on_edge", "regret", "fell_back",
            "reached", "censored", "diverged", "failed", "waiting",
        ),
        rows=[
            (
                title, curve.optimizer, curve.unit, point.batch_size, point.state, *estimated(point.time),
                *point.bounds, point.expected, *point.expected_bounds, point.restricted_mean.value, ideal,
                *estimated(point.efficiency)[:3],
                point.cell_id, ", ".join(f"{name}={value:.6g}" for name, value in point.parameters), point.method,
                ", ".join(f"{edge.parameter} {edge.side}" for edge in point.edges),
                point.regret, point.fell_back,
                point.reached, point.censored, point.diverged, point.failed, point.waiting,
            )
            for title, curve in named_curves(groups)
            for point, ideal in zip(curve.points, curve.ideal(), strict=True)
        ],
    )  # fmt: skip


def named_curves(groups: Mapping[str, Sequence[ScalingCurve]]) -> Iterable[tuple[str, ScalingCurve]]:
    """Return each curve with its target in words."""
    return ((title, curve) for title, group in groups.items() for curve in group)


def groups_of(results: StudyResults, unit: TimeUnit = "steps") -> Groups:
    """Return the scaling curves of a study, by target in words.

    Raises:
        NothingToShowError: the study has no target.
    """
    if not results.targets:
        raise NothingToShowError(NO_TARGET)
    return {target_label(METRICS[name], at): results.scaling_to((name, at), unit) for name, at in results.targets}


def _of_unit(results: StudyResults, unit: str) -> Groups:
    return groups_of(results, next(name for name in UNIT_WORDS if name == unit))


_SHORT_UNITS = {unit: words.replace("floating-point operations", "FLOPs") for unit, words in UNIT_WORDS.items()}


def _units(results: StudyResults) -> dict[TimeUnit, str]:
    """Return the units in which times are known; imported runs may lack some."""
    return {unit: words for unit, words in _SHORT_UNITS.items() if unit in results.units}


UNIT = Option(name="unit", label="Time to target in", values=_units)

SCALING = Exhibit(
    in_paper=True,
    name="scaling",
    section="scaling",
    title="Time to the target by batch size",
    compute=_of_unit,
    draw=lambda groups, theme: draw_scaling(groups, theme=theme),
    data=scaling_data,
    options=(UNIT,),
    depends=("filters", "target"),
)
EFFICIENCY = Exhibit(
    name="efficiency",
    section="scaling",
    title="Efficiency of scaling",
    compute=groups_of,
    draw=lambda groups, theme: draw_efficiency(groups, theme=theme),
    data=scaling_data,
    depends=("filters", "target"),
)
