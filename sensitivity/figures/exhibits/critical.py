"""Critical batch sizes, beyond which more examples per step stop saving steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import plotly.graph_objects as go

from sensitivity.analysis.estimates import Caution
from sensitivity.analysis.names import optimizer_name
from sensitivity.analysis.scaling import ScalingCurve
from sensitivity.figures.data import Data, estimated
from sensitivity.figures.exhibit import Exhibit
from sensitivity.figures.exhibits.scaling import Groups, curves_with_result, groups_of, named_curves, seed_counts
from sensitivity.figures.labels import count, optimizer_label, safe
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.figures.panels import log_axis, make_panels
from sensitivity.figures.theme import LIGHT, Theme


def draw_critical(groups: Groups, *, theme: Theme = LIGHT) -> go.Figure:
    """Draw critical batch sizes with their intervals, one line per target and optimizer, from curves in steps.

    Raises:
        NothingToShowError: no curve has a known critical batch size, or the curves are in another unit.
    """
    curves = curves_with_result(groups)
    if any(curve.critical is None for curve in curves):
        raise NothingToShowError("Critical batch sizes need scaling curves in steps.")
    if not any(curve.critical.size.known for curve in curves if curve.critical):
        raise NothingToShowError("A critical batch size needs two batch sizes at which a target was reached.")
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
    interval = f"line: 95% interval of {' or '.join(text for text in covers if text)}, an arrow where it continues"
    return panels.finish(
        theme,
        "Critical batch size of each optimizer",
        [
            f"n = {seed_counts(curves)}",
            "S(B) = Smin (1 + Bc/B), fitted to the steps of the fastest configurations",
            *([interval] if any(covers) else []),
            "shaded: batch sizes reached",
        ],
        panel_width=620,
        left=230,
    )


def critical_data(groups: Mapping[str, Sequence[ScalingCurve]]) -> Data:
    """Return critical batch sizes."""
    return Data(
        columns=("target", "optimizer", "critical_batch_size", "low", "high", "seeds", "s_min", "residual", "says"),
        rows=[
            (title, curve.optimizer, *estimated(fit.size), fit.s_min, fit.residual, fit.says)
            for title, curve in named_curves(groups)
            if (fit := curve.critical) is not None
        ],
    )


def scaling_notes(groups: Groups) -> tuple[str, ...]:
    """Return notes on curves and their critical batch sizes."""
    return tuple(
        text
        for _, curve in named_curves(groups)
        for text in (
            *(caution.text for caution in curve.warnings),
            *(f"{optimizer_name(curve.optimizer)}: {caution.text}" for caution in _of_fit(curve)),
        )
    )


def _of_fit(curve: ScalingCurve) -> Iterable[Caution]:
    if curve.critical is None:
        return ()
    size = curve.critical.size
    return (*((size.refused,) if size.refused else ()), *size.warnings)


CRITICAL = Exhibit(
    in_paper=True,
    name="critical-batch-size",
    section="scaling",
    title="Critical batch sizes",
    compute=groups_of,
    draw=lambda groups, theme: draw_critical(groups, theme=theme),
    data=critical_data,
    notes=scaling_notes,
    depends=("filters", "target"),
)
