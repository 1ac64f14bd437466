"""The price of tuning: expected trials, device-seconds and FLOPs until a sampled setting works."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from sensitivity.analysis.estimates import Estimate
from sensitivity.analysis.names import optimizer_name
from sensitivity.analysis.price import PriceRatio, TuningPrice
from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.axes import add_panel_title
from sensitivity.figures.data import Data, estimated
from sensitivity.figures.exhibit import Exhibit
from sensitivity.figures.labels import count, number, optimizer_label, safe, target_label
from sensitivity.figures.nothing import NO_RESULT, NO_TARGET, NothingToShowError, nothing, refusals
from sensitivity.figures.panels import log_axis, make_panels
from sensitivity.figures.tables import Table
from sensitivity.figures.theme import LIGHT, Style, Theme
from sensitivity.study.metrics import METRICS

_PANELS = (("trials", "expected trials"), ("seconds", "device-seconds"), ("flops", "FLOPs"))
_ROW_OFFSET = 0.26
"""Distance between the optimizers of a batch size, in rows."""


def draw_prices(prices: Sequence[TuningPrice], target: str, *, theme: Theme = LIGHT) -> go.Figure:
    """Draw the prices until a setting reaches `target` (in words), one row per batch size, one panel per unit.

    Raises:
        NothingToShowError: no price has an interval or a bound.
    """
    shown = [price for price in prices if price.refused is None and _ends(price.trials)]
    if not shown:
        valued = any(price.success.known for price in prices)
        without = "No price has an interval here, so none is drawn; the table has their values."
        raise nothing([price.refused for price in prices], without if valued else NO_RESULT)
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
            y = rows.index(price.batch_size) + _ROW_OFFSET * (order.index(price.optimizer) - (len(order) - 1) / 2)
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
        f"The price of tuning until a setting reaches {safe(target)}",
        [
            f"n = {count(draws, 'draw')}",
            *(f"{optimizer_label(name)}: {safe(price.prior)}" for name, price in priors.items()),
            *(f"lines: 95%, {text}" for text in dict.fromkeys(price.success.covers for price in shown) if text),
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
    """Return the interval, an arrow where it continues, and the estimate itself."""
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
    return "<br>".join([*lines, f"sampled from {safe(price.prior)}"])


def price_text(estimate: Estimate) -> str:
    """Return a price with its interval, or a lower bound if no draw works."""
    if estimate.interval is None:
        return number(estimate.value, 3)
    low, high = estimate.interval
    if not estimate.known:
        return f"> {number(low, 3)}"
    return f"{number(estimate.value, 3)} [{number(low, 3)}, {number(high, 3)}]"


def price_data(prices: Sequence[TuningPrice]) -> Data:
    """Return prices of tuning; without a batch size they are over all batch sizes."""
    return Data(
        columns=(
            "optimizer", "batch_size", "settings_from", "draws", "reached", "success", "success_low", "success_high",
            "n", "trials", "trials_low", "trials_high", "device_seconds", "device_seconds_low", "device_seconds_high",
            "flops", "flops_low", "flops_high", "refused",
        ),
        rows=[
            (
                p.optimizer, p.batch_size, p.prior, p.draws, p.reached, *estimated(p.success),
                *estimated(p.trials)[:3], *estimated(p.seconds)[:3], *estimated(p.flops)[:3],
                p.refused.text if p.refused else "",
            )
            for p in prices
        ],
    )  # fmt: skip


def price_table(prices: Sequence[TuningPrice], target: str) -> Table:
    """Return the prices until a setting works, with the priors."""
    rows = [
        [
            optimizer_name(p.optimizer), "all" if p.batch_size is None else f"{p.batch_size:,}", p.prior,
            f"{p.reached:,}/{p.draws:,}", f"{p.success.value:.1%}", *map(price_text, (p.trials, p.seconds, p.flops)),
        ]
        for p in prices
        if p.refused is None and p.success.known
    ]  # fmt: skip
    header = (
        "optimizer", "batch size", "settings are from", "work", "share", "expected trials", "device-seconds", "FLOPs",
    )  # fmt: skip
    caption = f"Price until a setting reaches {target}, with 95% intervals."
    return Table(caption=caption, header=header, rows=rows, text_columns=3)


def price_ratio_table(ratios: Sequence[PriceRatio]) -> Table:
    """Return the price of tuning one optimizer as a multiple of another's."""
    one, other = optimizer_name(ratios[0].candidate), optimizer_name(ratios[0].reference)
    rows = [
        ["all" if r.batch_size is None else f"{r.batch_size:,}", *map(price_text, (r.trials, r.seconds, r.flops))]
        for r in ratios
    ]
    header = ("batch size", "expected trials", "device-seconds", "FLOPs")
    caption = f"The price of tuning {one} as a multiple of {other}'s, with 95% intervals."
    return Table(caption=caption, header=header, rows=rows, text_columns=0)


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Prices until a sampled setting reaches the target."""

    prices: tuple[TuningPrice, ...]
    ratios: tuple[tuple[PriceRatio, ...], ...]
    """Ratios of each pair that has any."""
    target: str
    """The target in words."""


def compute_tuning_prices(results: StudyResults) -> Prices:
    """Return the prices of tuning for the current target.

    Raises:
        NothingToShowError: there is no target.
    """
    if results.target is None:
        raise NothingToShowError(NO_TARGET)
    name, level = results.target
    ratios = tuple(found for pair in results.pairs if (found := results.price_ratios(pair)))
    return Prices(prices=results.prices, ratios=ratios, target=target_label(METRICS[name], level))


PRICES = Exhibit(
    in_paper=True,
    name="prices",
    section="tuning",
    title="The price of tuning: trials and costs until a setting works",
    compute=compute_tuning_prices,
    draw=lambda found, theme: draw_prices(found.prices, found.target, theme=theme),
    data=lambda found: price_data(found.prices),
    tables=lambda found: [price_table(found.prices, found.target), *map(price_ratio_table, found.ratios)],
    notes=lambda found: (
        *refusals(price.refused for price in found.prices),
        *(caution.text for price in found.prices for caution in price.warnings),
    ),
    depends=("filters", "target"),
)
