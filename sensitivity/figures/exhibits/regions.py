"""Sensitivity of an optimizer in numbers: robust regions in decades, and sensitivity scalars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from sensitivity.analysis.estimates import Caution, Estimate
from sensitivity.analysis.lr_sensitivity import LrSensitivity
from sensitivity.analysis.names import optimizer_name, parameter_name
from sensitivity.analysis.regions import RobustRegion
from sensitivity.analysis.tuning import Tuning
from sensitivity.figures.axes import add_panel_title
from sensitivity.figures.data import ESTIMATE, Data, Value, estimated
from sensitivity.figures.exhibit import Exhibit
from sensitivity.figures.labels import (
    count,
    interval_text,
    metric_value,
    number,
    optimizer_label,
    parameter_label,
    safe,
    settings,
    target_label,
)
from sensitivity.figures.nothing import NothingToShowError, nothing, refusals
from sensitivity.figures.panels import Panels, batch_axis, make_panels
from sensitivity.figures.tables import Table
from sensitivity.figures.theme import LIGHT, Theme
from sensitivity.figures.traces import whiskers
from sensitivity.study.metrics import METRICS


def draw_regions(regions: Sequence[RobustRegion], *, theme: Theme = LIGHT) -> go.Figure:
    """Draw the robust regions in decades per dimension against batch size, one panel per rule and metric.

    Raises:
        NothingToShowError: no region has a size.
    """
    known = [region for region in regions if region.decades.known]
    if not known:
        raise nothing([region.decades.refused for region in regions])
    order = list(dict.fromkeys(region.optimizer for region in regions))
    titles = {_rule(region): None for region in known}
    panels = make_panels(len(titles), columns=2, height=310)
    shown: set[str] = set()
    for (row, column), title in zip(panels.places(), titles, strict=True):
        for position, optimizer in enumerate(order):
            own = [region for region in known if region.optimizer == optimizer and _rule(region) == title]
            style, name = theme.style(position), optimizer_label(optimizer)
            for bounded, symbol, legend in (
                (False, style.symbol, name),
                (True, "triangle-up-open", f"{name}, at least"),
            ):
                part = [region for region in own if bool(region.touches) is bounded]
                if not part:
                    continue
                panels.figure.add_trace(
                    go.Scatter(
                        x=[region.batch_size for region in part],
                        y=[region.decades.value for region in part],
                        mode="markers",
                        name=legend,
                        showlegend=legend not in shown,
                        marker={
                            "symbol": symbol,
                            "size": 11,
                            "color": style.colour,
                            "line": {"width": 2, "color": style.colour},
                        },
                        error_y=whiskers([region.decades for region in part], style.colour),
                        hovertext=[_region_hover(region) for region in part],
                        hoverinfo="text",
                    ),
                    row=row,
                    col=column,
                )
                shown.add(legend)
            panels.figure.add_trace(
                go.Scatter(
                    x=[region.batch_size for region in own],
                    y=[region.decades.value for region in own],
                    mode="lines",
                    line={"color": style.colour, "width": 1.5, "dash": style.dash},
                    hoverinfo="skip",
                    showlegend=False,
                ),
                row=row,
                col=column,
            )
        add_panel_title(panels.figure, title, row, column)
    panels.figure.update_xaxes(**batch_axis([region.batch_size for region in known]))
    panels.figure.update_yaxes(rangemode="tozero")
    panels.figure.update_yaxes(title_text="decades per dimension", col=1)
    dimensions = [
        f"{optimizer_label(name)} over "
        + " and ".join(parameter_label(n) for n in next(r.names for r in known if r.optimizer == name))
        for name in order
        if any(region.optimizer == name for region in known)
    ]
    n = max(known, key=lambda region: region.decades.n).decades
    return panels.finish(
        theme,
        "Size of the robust region",
        [
            f"n = {count(n.n, n.of.removesuffix('s'))}",
            *dimensions,
            "pointing up: the region reaches the edge of the box, so this is a lower bound",
            *(f"bars: {covers}" for covers in dict.fromkeys(region.decades.covers for region in known) if covers),
        ],
        panel_width=440,
    )


def _rule(region: RobustRegion) -> str:
    metric = METRICS[region.metric]
    if region.rule == "own-best":
        return f"{metric.label} near the optimizer's own best"
    return f"{target_label(metric, region.threshold)}, the same for all"


def _region_hover(region: RobustRegion) -> str:
    names = " × ".join(parameter_label(name) for name in region.names)
    box = ", ".join(
        f"{parameter_label(name)} {number(low)} to {number(high)}"
        for name, (low, high) in zip(region.names, region.box, strict=True)
    )
    return (
        f"<b>{optimizer_label(region.optimizer)}, batch size {region.batch_size:,}</b><br>"
        f"{'at least ' if region.touches else ''}{interval_text(region.decades)} decades per dimension<br>"
        f"volume {number(region.volume.value, 3)} decades^{len(region.names)} of {names}<br>"
        f"threshold {metric_value(METRICS[region.metric], region.threshold)}<br>box: {box}<br>"
        f"n = {count(region.decades.n, region.decades.of.removesuffix('s'))}"
    )


def draw_sensitivity(lr: Sequence[LrSensitivity], tunings: Sequence[Tuning], *, theme: Theme = LIGHT) -> go.Figure:
    """Draw learning-rate sensitivity, tunability, and the loss from using one setting for all batch sizes.

    Raises:
        NothingToShowError: no scalar has a value.
    """
    order = list(dict.fromkeys([*(tuning.optimizer for tuning in tunings), *(one.optimizer for one in lr)]))
    by_batch: dict[str, dict[str, dict[int, Estimate]]] = {}
    for one in lr:
        title = f"Missing the best learning rate by up to {one.window:g} decade{'' if one.window == 1 else 's'}"
        by_batch.setdefault(title, {}).setdefault(one.optimizer, {})[one.batch_size] = one.sensitivity
    for tuning in tunings:
        for at in tuning.tunability:
            title = "One setting for all batch sizes, against the best"
            by_batch.setdefault(title, {}).setdefault(tuning.optimizer, {})[at.batch_size] = at.gain
    kept = {
        title: {name: {size: e for size, e in of.items() if e.known} for name, of in group.items() if name in order}
        for title, group in by_batch.items()
        if any(e.known for of in group.values() for e in of.values())
    }
    if not kept:
        raise NothingToShowError("There are too few results for a measure of sensitivity.")
    metric = METRICS[(lr[0] if lr else tunings[0]).metric]
    factor = 100.0 if metric.percent else 1.0
    panels = make_panels(len(kept), columns=2, height=300, shared_y=False)
    sizes = [size for group in kept.values() for of in group.values() for size in of]
    shown: set[str] = set()
    for (row, column), (title, group) in zip(panels.places(), kept.items(), strict=True):
        _add_scalars(panels, group, order, factor, row, column, shown, theme)
        add_panel_title(panels.figure, safe(title), row, column)
    panels.figure.update_xaxes(**batch_axis(sizes))
    lost = (
        "percentage points lost"
        if metric.percent
        else f"{metric.label} {'added' if metric.lower_is_better else 'lost'}"
    )
    panels.figure.update_yaxes(title_text=lost, zeroline=True, zerolinecolor=theme.muted)
    n = max(e.n for group in kept.values() for of in group.values() for e in of.values())
    settings = [
        f"{optimizer_label(tuning.optimizer)}'s single setting loses"
        f" {interval_text(_scaled(tuning.one_setting, factor))} on average"
        for tuning in tunings
        if tuning.one_setting.known
    ]
    return panels.finish(
        theme,
        f"Cost of an untuned setting in {metric.label}",
        [f"n = {count(n, 'judging seed')}", *settings, "bars: 95% interval over seeds (Student's t)"],
        panel_width=420,
    )


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    interval = None if estimate.interval is None else (factor * estimate.interval[0], factor * estimate.interval[1])
    return Estimate(value=factor * estimate.value, interval=interval, n=estimate.n, covers=estimate.covers)


def _add_scalars(
    panels: Panels,
    group: Mapping[str, Mapping[int, Estimate]],
    order: Sequence[str],
    factor: float,
    row: int,
    column: int,
    shown: set[str],
    theme: Theme,
) -> None:
    for optimizer, of in group.items():
        style, name = theme.style(order.index(optimizer)), optimizer_label(optimizer)
        estimates = [_scaled(of[size], factor) for size in sorted(of)]
        panels.figure.add_trace(
            go.Scatter(
                x=sorted(of),
                y=[estimate.value for estimate in estimates],
                mode="lines+markers",
                name=name,
                showlegend=name not in shown,
                line={"color": style.colour, "width": 2, "dash": style.dash},
                marker={"symbol": style.symbol, "size": 9, "color": style.colour},
                error_y=whiskers(estimates, style.colour),
                hovertext=[
                    f"<b>{name}, batch size {size:,}</b><br>{interval_text(estimate)}"
                    f"<br>n = {count(estimate.n, 'seed')}"
                    for size, estimate in zip(sorted(of), estimates, strict=True)
                ],
                hoverinfo="text",
            ),
            row=row,
            col=column,
        )
        shown.add(name)


def region_data(regions: Sequence[RobustRegion]) -> Data:
    """Return robust regions by both rules."""
    return Data(
        columns=(
            "optimizer", "batch_size", "metric", "rule", "threshold", "dimensions", "decades_a_dimension", "low",
            "high", "n", "volume", "reaches_edges", "refused",
        ),
        rows=[
            (
                r.optimizer, r.batch_size, r.metric, r.rule, r.threshold, " × ".join(r.names), *estimated(r.decades),
                r.volume.value, ", ".join(f"{edge.parameter} {edge.side}" for edge in r.touches),
                r.decades.refused.text if r.decades.refused else "",
            )
            for r in regions
        ],
    )  # fmt: skip


def sensitivity_data(lr: Sequence[LrSensitivity], tunings: Sequence[Tuning]) -> Data:
    """Return sensitivity scalars."""
    rows: list[tuple[Value, ...]] = [
        (
            f"learning-rate sensitivity within {one.window:g} decades", one.optimizer, one.batch_size, one.metric,
            *estimated(one.sensitivity),
        )
        for one in lr
    ]  # fmt: skip
    for t in tunings:
        rows.append(("one setting for all batch sizes", t.optimizer, None, t.metric, *estimated(t.one_setting)))
        rows += [
            ("tunability from that setting", t.optimizer, at.batch_size, t.metric, *estimated(at.gain))
            for at in t.tunability
        ]
    return Data(columns=("quantity", "optimizer", "batch_size", "metric", *ESTIMATE), rows=rows)


_NOTHING_TO_TUNE = "nothing from that setting on"


def tuning_table(tunings: Sequence[Tuning]) -> Table:
    """Return the single setting for all batch sizes, and which hyperparameters need tuning at each."""
    rows = [
        [
            optimizer_name(t.optimizer), f"{at.batch_size:,}", settings(t.default), settings(at.best),
            "–" if at.effective_dimension is None else f"{at.effective_dimension}",
            "–" if at.effective_dimension is None else ", ".join(map(parameter_name, at.to_tune)) or _NOTHING_TO_TUNE,
        ]
        for t in tunings
        for at in t.tunability
    ]  # fmt: skip
    header = (
        "optimizer", "batch size", "one setting for all batch sizes", "best here", "effective dimension", "to tune",
    )  # fmt: skip
    caption = (
        "What has to be tuned. Effective dimension: the fewest hyperparameters to tune, from the one setting, for 95%"
        " of the best setting's gain over the untrained network."
    )
    table = Table(caption=caption, header=header, rows=rows, text_columns=6)
    return table.without_empty("effective dimension", "to tune")


@dataclass(frozen=True, kw_only=True)
class Scalars:
    """Cost of missing the best learning rate, and of using one setting for all batch sizes."""

    lr: tuple[LrSensitivity, ...]
    tunings: tuple[Tuning, ...]

    @property
    def cautions(self) -> tuple[Caution, ...]:
        """Reasons why some were refused, and cautions on the others."""
        gains = [at.gain for tuning in self.tunings for at in tuning.tunability]
        found = [*(one.sensitivity for one in self.lr), *(tuning.one_setting for tuning in self.tunings), *gains]
        return tuple(
            caution
            for scalar in found
            for caution in (*((scalar.refused,) if scalar.refused else ()), *scalar.warnings)
        )


REGIONS = Exhibit(
    name="regions",
    section="regions",
    title="Robust regions in decades",
    compute=lambda results: (*results.own_regions, *results.target_regions),
    draw=lambda regions, theme: draw_regions(regions, theme=theme),
    data=region_data,
    notes=lambda regions: (
        *refusals(region.decades.refused for region in regions),
        *(caution.text for region in regions for caution in region.decades.warnings),
    ),
    depends=("filters", "metric", "tolerance", "target"),
)
SENSITIVITY = Exhibit(
    name="sensitivity",
    section="regions",
    title="Cost of a wrong learning rate, and of one setting for all batch sizes",
    compute=lambda results: Scalars(lr=results.lr_sensitivity, tunings=results.tunings),
    draw=lambda found, theme: draw_sensitivity(found.lr, found.tunings, theme=theme),
    data=lambda found: sensitivity_data(found.lr, found.tunings),
    tables=lambda found: [tuning_table(found.tunings)],
    notes=lambda found: tuple(caution.text for caution in found.cautions),
    depends=("filters", "metric"),
)
