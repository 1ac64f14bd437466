"""The price of tuning: the expected best of k trials, against k or the device-seconds they take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import plotly.graph_objects as go

from sensitivity.analysis.best_of_k import BestOfK
from sensitivity.figures.axes import add_panel_title
from sensitivity.figures.labels import count, metric_value, number, optimizer_label
from sensitivity.figures.nothing import NothingToDrawError
from sensitivity.figures.panels import log_axis, make_panels
from sensitivity.figures.scales import metric_scale
from sensitivity.figures.theme import LIGHT, Theme
from sensitivity.figures.traces import band
from sensitivity.study.metrics import METRICS

By = Literal["trials", "seconds"]


def draw_best_of_k(curves: Sequence[BestOfK], *, by: By = "trials", theme: Theme = LIGHT) -> go.Figure:
    """Draw the tuning curves, of one metric, one panel a batch size; refused ones are left out.

    Raises:
        NothingToDrawError: no curve that isn't refused.
    """
    shown = [curve for curve in curves if curve.refused is None]
    if not shown:
        raise NothingToDrawError("draw_best_of_k needs a curve that is not refused")
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
            f"{n} configurations a curve, {count(max(curve.seeds for curve in shown), 'seed')}",
            *(f"band: {covers}" for covers in dict.fromkeys(curve.covers for curve in shown)),
        ],
        panel_width=330,
    )
