"""Tuning curves: the expected best of k trials, against k or the device-seconds that k trials take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import plotly.graph_objects as go

from sensitivity.analysis.best_of_k import BestOfK
from sensitivity.figures.axes import add_panel_title
from sensitivity.figures.data import Data
from sensitivity.figures.exhibit import Exhibit, Option
from sensitivity.figures.labels import count, metric_value, number, optimizer_label
from sensitivity.figures.nothing import nothing, refusals
from sensitivity.figures.panels import log_axis, make_panels
from sensitivity.figures.scales import metric_scale
from sensitivity.figures.theme import LIGHT, Theme
from sensitivity.figures.traces import band
from sensitivity.study.metrics import METRICS

By = Literal["trials", "seconds"]


def draw_best_of_k(curves: Sequence[BestOfK], *, by: By = "trials", theme: Theme = LIGHT) -> go.Figure:
    """Draw the tuning curves of one metric, one panel per batch size; refused ones are left out.

    Raises:
        NothingToShowError: every curve was refused.
    """
    shown = [curve for curve in curves if curve.refused is None]
    if not shown:
        raise nothing([curve.refused for curve in curves], "No run has a result, so there is no tuning curve.")
    metric = METRICS[shown[0].metric]
    order = list(dict.fromkeys(curve.optimizer for curve in curves))
    sizes = sorted({curve.batch_size for curve in shown})
    panels = make_panels(len(sizes), columns=3, height=290)
    values = [value for curve in shown for series in (curve.expected, curve.low, curve.high) for value in series]
    scale = metric_scale(metric, values)
    shown_names: set[str] = set()
    across: list[float] = []
    for curve in shown:
        row, column = list(panels.places())[sizes.index(curve.batch_size)]
        style, name = theme.style(order.index(curve.optimizer)), optimizer_label(curve.optimizer)
        x = [float(k) for k in curve.k] if by == "trials" else list(curve.seconds)
        across += x
        low, high = ([scale.position(value) for value in series] for series in (curve.low, curve.high))
        filled = band(x, low, high, style)
        if filled is not None:
            panels.figure.add_trace(filled, row=row, col=column)
        panels.figure.add_trace(
            go.Scatter(
                x=x,
                y=[scale.position(value) for value in curve.expected],
                mode="lines" if len(x) > 1 else "markers",
                name=name,
                showlegend=name not in shown_names,
                line={"color": style.colour, "width": 2.5, "dash": style.dash},
                hovertext=[
                    f"<b>{name}, batch size {curve.batch_size:,}</b><br>best of {count(k, 'trial')}"
                    f" ({number(seconds, 3)} device-seconds): {metric_value(metric, value)}"
                    f"<br>95% band {metric_value(metric, a)} to {metric_value(metric, b)}"
                    f"<br>n = {count(curve.configurations, 'configuration')}, {count(curve.seeds, 'seed')}"
                    for k, seconds, value, a, b in zip(
                        curve.k, curve.seconds, curve.expected, curve.low, curve.high, strict=True
                    )
                ],
                hoverinfo="text",
            ),
            row=row,
            col=column,
        )
        shown_names.add(name)
    for (row, column), size in zip(panels.places(), sizes, strict=True):
        add_panel_title(panels.figure, f"batch size {size:,}", row, column)
    title = "trials" if by == "trials" else "device-seconds spent on trials"
    panels.figure.update_xaxes(**log_axis(across, base_two=by == "trials"), title_text=title)
    panels.figure.update_yaxes(tickvals=scale.tickvals, ticktext=scale.ticktext)
    panels.figure.update_yaxes(title_text=f"expected best {metric.label}", col=1)
    configurations = sorted({curve.configurations for curve in shown})
    n = f"n = {configurations[0]:,}" + (f" to {configurations[-1]:,}" if len(configurations) > 1 else "")
    return panels.finish(
        theme,
        f"Expected best {metric.label} against {'trials' if by == 'trials' else 'device-seconds'} of tuning",
        [
            f"{n} configurations per curve, {count(max(curve.seeds for curve in shown), 'seed')}",
            *(f"band: {covers}" for covers in dict.fromkeys(curve.covers for curve in shown)),
        ],
        panel_width=330,
    )


def best_of_k_data(curves: Sequence[BestOfK]) -> Data:
    """Return the points of tuning curves."""
    return Data(
        columns=("optimizer", "batch_size", "metric", "k", "device_seconds", "expected_best", "low", "high", "n"),
        rows=[
            (c.optimizer, c.batch_size, c.metric, *point, c.configurations)
            for c in curves
            for point in zip(c.k, c.seconds, c.expected, c.low, c.high, strict=True)
        ],
    )


@dataclass(frozen=True, kw_only=True)
class TuningCurves:
    """Tuning curves, and the unit of their horizontal axis."""

    curves: tuple[BestOfK, ...]
    by: By


BEST_OF_K = Exhibit(
    in_paper=True,
    name="best-of-k",
    section="tuning",
    title="Expected best of k trials",
    compute=lambda results, budget: TuningCurves(
        curves=results.best_of_k, by="seconds" if budget == "seconds" else "trials"
    ),
    draw=lambda found, theme: draw_best_of_k(found.curves, by=found.by, theme=theme),
    data=lambda found: best_of_k_data(found.curves),
    notes=lambda found: (
        *refusals(curve.refused for curve in found.curves),
        *(caution.text for curve in found.curves for caution in curve.warnings),
    ),
    options=(
        Option(name="budget", label="Budget in", values=lambda _: {"trials": "trials", "seconds": "device-seconds"}),
    ),
    depends=("filters", "metric"),
)
