"""Success rates over batch size and target: labelled contours, a 3-D surface, and the difference of two optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import plotly.graph_objects as go

from sensitivity.analysis.success import SuccessDifference, SuccessSurface
from sensitivity.figures.axes import add_panel_title
from sensitivity.figures.labels import count, optimizer_label, target_label
from sensitivity.figures.nothing import NothingToShowError, nothing
from sensitivity.figures.panels import Panels, batch_axis, make_panels
from sensitivity.figures.scales import Scale, metric_scale
from sensitivity.figures.theme import LIGHT, Theme
from sensitivity.figures.traces import band
from sensitivity.study.metrics import METRICS


def draw_success(surfaces: Sequence[SuccessSurface], *, theme: Theme = LIGHT) -> go.Figure:
    """Draw rates as contours, one panel per optimizer; as lines over targets if there is one batch size.

    Raises:
        NothingToShowError: no surface has rates and a target.
    """
    shown = drawable(surfaces)
    scale = _targets(shown[0])
    if len(shown[0].batch_sizes) < 2 or len(shown[0].targets) < 2:
        return _lines(shown, scale, theme)
    panels = make_panels(len(shown), columns=2, height=360)
    end = float(str(_rates_axis(shown)["cmax"]))
    for (row, column), surface in zip(panels.places(), shown, strict=True):
        x, y = _positions(surface, scale)
        for trace in _contours(x, y, surface.rate.T, end):
            panels.figure.add_trace(trace, row=row, col=column)
        hover = [[_rate_hover(surface, b, t) for t in range(len(y))] for b in range(len(x))]
        panels.figure.add_trace(_dots(x, y, hover, "rgba(255,255,255,0.4)"), row=row, col=column)
        add_panel_title(panels.figure, optimizer_label(surface.optimizer), row, column)
    _log_axes(panels, shown[0].batch_sizes, scale)
    panels.figure.update_layout(coloraxis=_rates_axis(shown))
    return panels.finish(theme, *_words(shown, "Success rate over batch size and target"), panel_width=440)


def draw_success_3d(surfaces: Sequence[SuccessSurface], *, theme: Theme = LIGHT) -> go.Figure:
    """Draw the rates of all optimizers as surfaces over the same axes; this needs two batch sizes and two targets.

    Raises:
        NothingToShowError: no surface has rates, or there are too few batch sizes or targets for a surface.
    """
    shown = drawable(surfaces)
    scale = _targets(shown[0])
    if len(shown[0].batch_sizes) < 2 or len(shown[0].targets) < 2:
        raise NothingToShowError("A surface needs two batch sizes and two targets; see the contours instead.")
    panels = make_panels(1, columns=1, height=520)
    traces = []
    order = [surface.optimizer for surface in surfaces]
    for surface in shown:
        x, y = _positions(surface, scale)
        colour, name = theme.style(order.index(surface.optimizer)).colour, optimizer_label(surface.optimizer)
        hover = [[_rate_hover(surface, b, t) for b in range(len(x))] for t in range(len(y))]
        traces.append(
            go.Surface(
                x=x,
                y=y,
                z=surface.rate.T,
                colorscale=[[0, colour], [1, colour]],
                showscale=False,
                showlegend=True,
                name=name,
                opacity=0.82,
                contours={"z": {"show": True, "start": 0, "end": 1, "size": 0.1, "color": theme.ink, "width": 1}},
                hovertext=hover,
                hoverinfo="text",
            )
        )
    figure = Panels(go.Figure(traces), 1, 1, panels.plot)
    sizes = shown[0].batch_sizes
    top = min(1.0, 1.1 * max(float(np.nanmax(surface.rate)) for surface in shown) or 1.0)
    axis = {"gridcolor": theme.grid, "backgroundcolor": theme.paper, "color": theme.muted}
    figure.figure.update_layout(
        scene={
            "xaxis": {
                **axis,
                "title": {"text": "batch size"},
                "tickvals": np.log2(sizes).tolist(),
                "ticktext": [f"{size:,}" for size in sizes],
            },
            "yaxis": {
                **axis,
                "title": {"text": METRICS[shown[0].metric].label},
                "tickvals": scale.tickvals,
                "ticktext": scale.ticktext,
            },
            "zaxis": {**axis, "title": {"text": "success rate"}, "range": [0, top], "tickformat": ".0%"},
            "aspectmode": "manual",
            "aspectratio": {"x": 1.2, "y": 1.2, "z": 0.8},
            "camera": {"eye": {"x": -1.45, "y": -1.5, "z": 0.85}, "center": {"x": 0, "y": 0, "z": -0.22}},
        }
    )
    return figure.finish(theme, *_words(shown, "Success rate over batch size and target, as surfaces"), panel_width=560)


_ENDS = (0.2, 0.4, 0.6, 1.0)
"""Ends of the colour scale of differences; the first that covers all values is used."""


def draw_success_difference(
    difference: SuccessDifference, surfaces: Sequence[SuccessSurface], *, theme: Theme = LIGHT
) -> go.Figure:
    """Draw the difference of two of `surfaces`; a dot marks where its interval excludes zero.

    Raises:
        NothingToShowError: the two share no batch size, or there is no target.
    """
    if not difference.batch_sizes or not difference.targets:
        raise NothingToShowError("A difference needs a batch size that both optimizers share, and a target.")
    metric = METRICS[difference.metric]
    scale = metric_scale(metric, difference.targets)
    x = list(range(len(difference.batch_sizes)))
    y = [scale.position(target) for target in difference.targets]
    one, other = optimizer_label(difference.candidate), optimizer_label(difference.reference)

    def hover(b: int, t: int) -> str:
        low, high = difference.low[b, t], difference.high[b, t]
        interval = "" if math.isnan(low) else f"<br>95% interval {100 * low:+.0f} to {100 * high:+.0f} points"
        return (
            f"batch size {difference.batch_sizes[b]:,}, {target_label(metric, difference.targets[t])}<br>"
            f"{one} minus {other}: <b>{100 * difference.difference[b, t]:+.0f} points</b>{interval}"
        )

    hovers = [[hover(b, t) for b in x] for t in range(len(y))]
    panels = make_panels(1, columns=1, height=400)
    panels.figure.add_trace(
        go.Heatmap(
            x=x,
            y=y,
            z=difference.difference.T,
            xgap=2,
            coloraxis="coloraxis",
            hovertext=hovers,
            hoverinfo="text",
            hoverongaps=False,
        )
    )
    clear = (difference.low > 0) | (difference.high < 0)
    places = [(b, t) for b in x for t in range(len(y)) if clear[b, t]]
    panels.figure.add_trace(
        go.Scatter(
            x=[b for b, _ in places],
            y=[y[t] for _, t in places],
            mode="markers",
            name="95% interval excludes zero (pointwise)",
            showlegend=bool(places),
            marker={"size": 4, "color": theme.ink},
            hoverinfo="skip",
        )
    )
    panels.figure.update_xaxes(
        tickvals=x, ticktext=[f"{size:,}" for size in difference.batch_sizes], title_text="batch size", showgrid=False
    )
    panels.figure.update_yaxes(
        tickvals=scale.tickvals, ticktext=scale.ticktext, title_text=f"target {metric.label}", showgrid=False
    )
    largest = float(np.abs(difference.difference).max(initial=0.0, where=np.isfinite(difference.difference)))
    end = next(end for end in _ENDS if largest <= end + 1e-9)
    panels.figure.update_layout(
        coloraxis={
            "cmin": -end,
            "cmax": end,
            "colorscale": list(zip((0.0, 0.5, 1.0), theme.lean, strict=True)),
            "colorbar": {
                "title": {"text": "difference<br> "},
                "tickvals": [-end, -end / 2, 0, end / 2, end],
                "ticktext": [f"{end:.0%}: {other}", f"{end / 2:.0%}", "0", f"{end / 2:.0%}", f"{end:.0%}: {one}"],
            },
        }
    )
    both = [surface for surface in surfaces if surface.optimizer in (difference.candidate, difference.reference)]
    title, (n, *_) = _words(both, f"Success rate: {one} minus {other}")
    return panels.finish(
        theme,
        title,
        [n, *([f"intervals cover {difference.covers}"] if difference.covers else ["no interval: the designs differ"])],
        panel_width=620,
    )


def drawable(surfaces: Sequence[SuccessSurface]) -> list[SuccessSurface]:
    """Return the surfaces that have rates.

    Raises:
        NothingToShowError: none has rates.
    """
    shown = [surface for surface in surfaces if surface.refused is None and surface.targets and sum(surface.runs)]
    if not shown:
        measured = any(sum(surface.runs) for surface in surfaces)
        why = "No run has an evaluation at step 0, from which levels begin" if measured else "No run has a result"
        raise nothing([s.refused for s in surfaces], f"{why}, so there are no success rates.")
    return shown


def _targets(surface: SuccessSurface) -> Scale:
    return metric_scale(METRICS[surface.metric], surface.targets)


def _positions(surface: SuccessSurface, scale: Scale) -> tuple[list[float], list[float]]:
    return [math.log2(size) for size in surface.batch_sizes], [scale.position(target) for target in surface.targets]


def _rate_hover(surface: SuccessSurface, b: int, t: int) -> str:
    low, high = surface.low[b, t], surface.high[b, t]
    interval = "" if math.isnan(low) else f" [{low:.0%}, {high:.0%}]"
    return (
        f"<b>{optimizer_label(surface.optimizer)}, batch size {surface.batch_sizes[b]:,}</b><br>"
        f"{target_label(METRICS[surface.metric], surface.targets[t])}<br>"
        f"success rate <b>{surface.rate[b, t]:.0%}</b>{interval}<br>"
        f"n = {count(surface.configurations[b], 'configuration')}, {count(surface.runs[b], 'run')}"
        f" of {surface.planned[b]:,} planned"
    )


def _contours(x: Sequence[float], y: Sequence[float], z: np.ndarray, most: float) -> list[go.Contour]:
    """Return the rates `z` [targets, batches] as colour, with contour lines at tenths: white on dark, black on light.

    The colours end at the rate `most`.
    """
    middle = math.floor(5 * most + 1e-6) / 10
    ground = go.Contour(
        x=x, y=y, z=z, coloraxis="coloraxis", contours={"coloring": "heatmap"}, line={"width": 0}, hoverinfo="skip"
    )
    lines = [
        go.Contour(
            x=x,
            y=y,
            z=z,
            contours={
                "start": start,
                "end": end,
                "size": 0.1,
                "coloring": "none",
                "showlabels": True,
                "labelformat": ".0%",
                "labelfont": {"size": 12, "color": ink},
            },
            line={"width": 1, "color": ink},
            hoverinfo="skip",
            showscale=False,
            showlegend=False,
        )
        for start, end, ink in ((0.1, max(middle - 0.1, 0.1), "#ffffff"), (max(middle, 0.2), 0.9, "#000000"))
    ]
    return [ground, *lines]


def _dots(x: Sequence[float], y: Sequence[float], hover: Sequence[Sequence[str]], colour: str) -> go.Scatter:
    """Return a small dot at each measured point; contours interpolate between them."""
    return go.Scatter(
        x=[a for a in x for _ in y],
        y=[b for _ in x for b in y],
        mode="markers",
        marker={"size": 3, "color": colour},
        hovertext=[text for row in hover for text in row],
        hoverinfo="text",
        showlegend=False,
    )


def _rates_axis(surfaces: Sequence[SuccessSurface]) -> dict[str, object]:
    """Return the colour axis, from 0 to the first tenth that no rate exceeds."""
    largest = max(float(np.nanmax(surface.rate, initial=0.0)) for surface in surfaces)
    return {
        "cmin": 0,
        "cmax": max(math.ceil(round(10 * largest, 6)), 1) / 10,
        "colorscale": "Cividis",
        "colorbar": {"title": {"text": "success rate<br> "}, "tickformat": ".0%"},
    }


def _log_axes(panels: Panels, sizes: Sequence[int], scale: Scale) -> None:
    panels.figure.update_xaxes(
        tickvals=[math.log2(size) for size in sizes],
        ticktext=[f"{size:,}" for size in sizes],
        title_text="batch size",
        showgrid=False,
    )
    panels.figure.update_yaxes(tickvals=scale.tickvals, ticktext=scale.ticktext, showgrid=False)
    panels.figure.update_yaxes(title_text=f"target {scale.metric.label}", col=1)


def _words(surfaces: Sequence[SuccessSurface], title: str) -> tuple[str, list[str]]:
    runs, planned = (sum(sum(getattr(s, name)) for s in surfaces) for name in ("runs", "planned"))
    parts = [f"n = {count(runs, 'run')} with a result of {planned:,} planned"]
    parts += [f"intervals cover {covers}" for covers in dict.fromkeys(s.covers for s in surfaces)]
    return title, parts


def _lines(surfaces: Sequence[SuccessSurface], scale: Scale, theme: Theme) -> go.Figure:
    """Draw rates as lines: over targets or, with one target, over batch sizes."""
    over_targets = len(surfaces[0].targets) > 1
    panels = make_panels(1, columns=1, height=340)
    for position, surface in enumerate(surfaces):
        style, name = theme.style(position), optimizer_label(surface.optimizer)
        pick: Callable[[np.ndarray], list[float]] = (
            (lambda values: values[0].tolist()) if over_targets else (lambda values: values[:, 0].tolist())
        )
        x = [scale.position(t) for t in surface.targets] if over_targets else [float(b) for b in surface.batch_sizes]
        filled = band(x, pick(surface.low), pick(surface.high), style)
        if filled is not None:
            panels.figure.add_trace(filled)
        places = [(0, t) for t in range(len(x))] if over_targets else [(b, 0) for b in range(len(x))]
        panels.figure.add_trace(
            go.Scatter(
                x=x,
                y=pick(surface.rate),
                mode="lines+markers",
                name=name,
                line={"color": style.colour, "width": 2.5, "dash": style.dash},
                marker={"symbol": style.symbol, "size": 6, "color": style.colour},
                hovertext=[_rate_hover(surface, b, t) for b, t in places],
                hoverinfo="text",
            )
        )
    metric, first = METRICS[surfaces[0].metric], surfaces[0]
    if over_targets:
        panels.figure.update_xaxes(
            tickvals=scale.tickvals, ticktext=scale.ticktext, title_text=f"target {metric.label}"
        )
        where = f"at batch size {first.batch_sizes[0]:,}"
    else:
        panels.figure.update_xaxes(**batch_axis(first.batch_sizes))
        where = f"of {target_label(metric, first.targets[0])}"
    panels.figure.update_yaxes(range=[-0.02, 1.02], tickformat=".0%", title_text="success rate")
    return panels.finish(theme, *_words(surfaces, f"Success rate {where}"), panel_width=560)
