"""The price of tuning: trials, device-seconds and FLOPs that are expected until a drawn setting works."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from sensitivity.analysis.estimates import Estimate
from sensitivity.analysis.price import TuningPrice
from sensitivity.figures.axes import add_panel_title
from sensitivity.figures.labels import count, number, optimizer_label, safe
from sensitivity.figures.nothing import NothingToDrawError
from sensitivity.figures.panels import log_axis, make_panels
from sensitivity.figures.theme import LIGHT, Style, Theme

_PANELS = (("trials", "expected trials"), ("seconds", "device-seconds"), ("flops", "FLOPs"))
_APART = 0.26
"""Between the optimizers of a batch size, in rows."""


def draw_prices(prices: Sequence[TuningPrice], target: str, *, theme: Theme = LIGHT) -> go.Figure:
    """Draw the prices until a setting reaches `target` (in words), a row a batch size, a panel a unit.

    Raises:
        NothingToDrawError: no price that isn't refused, nor a bound of one.
    """
    shown = [price for price in prices if price.refused is None and _ends(price.trials)]
    if not shown:
        raise NothingToDrawError("draw_prices needs a price, or a bound of one")
    order = list(dict.fromkeys(price.optimizer for price in prices))
    known = {price.batch_size for price in shown}
    rows = [*sorted(size for size in known if size is not None), *([None] if None in known else [])]
    units = [(name, title) for name, title in _PANELS if any(_ends(getattr(price, name)) for price in shown)]
    panels = make_panels(len(units), columns=3, height=max(170, 46 * len(rows) + 40))
    named: set[str] = set()
    for (row, column), (unit, title) in zip(panels.places(), units, strict=True):
        finite = [end for price in shown for end in _ends(getattr(price, unit))]
        axis = log_axis(finite)
        edge = 10 ** float(axis["range"][1])  # type: ignore[index]
        for price in shown:
            style = theme.style(order.index(price.optimizer))
            y = rows.index(price.batch_size) + _APART * (order.index(price.optimizer) - (len(order) - 1) / 2)
            for trace in _traces(price, getattr(price, unit), y, edge, style, theme):
                trace.showlegend = trace.name is not None and trace.name not in named
                named.add(trace.name or "")
                panels.figure.add_trace(trace, row=row, col=column)
        panels.figure.update_xaxes(**axis, title_text=f"{title} until a setting works", row=row, col=column)
        add_panel_title(panels.figure, title, row, column)
    labels = ["all batch sizes" if size is None else f"batch {size:,}" for size in rows]
    panels.figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=labels, range=[len(rows) - 0.45, -0.55], showgrid=False
    )
    priors = {price.optimizer: price for price in shown}
    draws = sum(price.draws for price in shown if price.batch_size is not None)
    return panels.finish(
        theme,
        f"The price of tuning: what it takes until a setting reaches {safe(target)}",
        [
            f"n = {count(draws, 'draw')}",
            *(f"{optimizer_label(name)}: {safe(price.prior)}" for name, price in priors.items()),
            *(f"lines: 95%, {said}" for said in dict.fromkeys(price.success.covers for price in shown) if said),
            "open, pointing right: none of the draws works, and this is the lower bound",
        ],
        panel_width=330,
        left=110,
    )


def _ends(estimate: Estimate) -> list[float]:
    ends = [estimate.value, *(estimate.interval or ())]
    return [end for end in ends if math.isfinite(end) and end > 0]


def _traces(
    price: TuningPrice, estimate: Estimate, y: float, edge: float, style: Style, theme: Theme
) -> list[go.Scatter]:
    """Return an interval, an arrow where it goes on, and the estimate itself."""
    name = optimizer_label(price.optimizer)
    found = []
    low, high = estimate.interval or (math.nan, math.nan)
    if estimate.known and estimate.interval is not None:
        line = {"color": style.colour, "width": 3}
        found.append(go.Scatter(x=[low, min(high, edge)], y=[y, y], mode="lines", line=line, hoverinfo="skip"))
    if math.isinf(high) and estimate.known:
        marker = {"symbol": "triangle-right", "size": 10, "color": style.colour}
        found.append(go.Scatter(x=[edge], y=[y], mode="markers", marker=marker, hoverinfo="skip"))
    x = estimate.value if estimate.known else low
    if math.isfinite(x):
        found.append(
            go.Scatter(
                x=[x],
                y=[y],
                mode="markers",
                name=name if estimate.known else f"{name}, at least",
                marker={
                    "symbol": style.symbol if estimate.known else "triangle-right-open",
                    "size": 11,
                    "color": style.colour,
                    "line": {"width": 1, "color": theme.paper if estimate.known else style.colour},
                },
                hovertext=[_hover(price)],
                hoverinfo="text",
                cliponaxis=False,
            )
        )
    return found


def _hover(price: TuningPrice) -> str:
    where = "all batch sizes" if price.batch_size is None else f"batch size {price.batch_size:,}"
    lines = [f"<b>{optimizer_label(price.optimizer)}, {where}</b>"]
    lines.append(f"{price.reached:,} of {count(price.draws, 'draw')} reach the target")
    for what, estimate in (("trials", price.trials), ("device-seconds", price.seconds), ("FLOPs", price.flops)):
        lines.append(f"{what}: {price_text(estimate)}")
    return "<br>".join([*lines, f"drawn from {safe(price.prior)}"])


def price_text(estimate: Estimate) -> str:
    """Return a price with its interval; a lower bound where no draw works."""
    if estimate.interval is None:
        return number(estimate.value, 3)
    low, high = estimate.interval
    if not estimate.known:
        return f"> {number(low, 3)}"
    return f"{number(estimate.value, 3)} [{number(low, 3)}, {number(high, 3)}]"
