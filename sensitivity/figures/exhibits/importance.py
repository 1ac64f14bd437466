"""Importance of hyperparameters as bars with intervals, and the ridge of a learning rate and its divisor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from sensitivity.analysis.estimates import Estimate
from sensitivity.analysis.importance import Importance, ridge_names
from sensitivity.analysis.maps import RobustnessMap
from sensitivity.analysis.names import optimizer_name
from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.axes import add_panel_title
from sensitivity.figures.data import ESTIMATE, Data, estimated
from sensitivity.figures.exhibit import Exhibit, Option, optimizers
from sensitivity.figures.exhibits.maps import map_data
from sensitivity.figures.labels import (
    cell_hover,
    count,
    interval_text,
    map_counts,
    number,
    optimizer_label,
    parameter_label,
)
from sensitivity.figures.nothing import NothingToShowError, nothing, refusals
from sensitivity.figures.panels import log_axis, make_panels
from sensitivity.figures.scales import Scale, map_scale
from sensitivity.figures.theme import LIGHT, Theme
from sensitivity.figures.traces import whiskers
from sensitivity.study.hyperparameters import ridge
from sensitivity.study.metrics import METRICS

_MAX_BARS = 10
_SHAPES = ("", "/", ".", "x", "|", "-", "+", "\\")


def draw_importance(importances: Sequence[Importance], *, theme: Theme = LIGHT) -> go.Figure:
    """Draw the shares of variance, one panel per optimizer, one bar per batch size; refused ones are left out.

    Raises:
        NothingToShowError: every decomposition was refused.
    """
    shown = [importance for importance in importances if importance.refused is None and importance.shares]
    if not shown:
        raise nothing(
            [found.refused for found in importances], "No run has a result, so there is no variance to split."
        )
    optimizers = list(dict.fromkeys(importance.optimizer for importance in shown))
    sizes = sorted({importance.batch_size for importance in shown})
    shares = {name: _names([i for i in shown if i.optimizer == name]) for name in optimizers}
    bars = max(map(len, shares.values())) * len(sizes)
    panels = make_panels(len(optimizers), columns=2, height=min(max(16 * bars, 200), 520), shared_y=False)
    for (row, column), optimizer in zip(panels.places(), optimizers, strict=True):
        own = {i.batch_size: i for i in shown if i.optimizer == optimizer}
        names = shares[optimizer]
        for position, size in enumerate(sizes):
            if size not in own:
                continue
            estimates = [own[size].share_of(*key) for key in names]
            labels = [_label(key) for key in names]
            panels.figure.add_trace(
                go.Bar(
                    x=[estimate.value for estimate in estimates],
                    y=labels,
                    orientation="h",
                    name=f"batch size {size:,}",
                    showlegend=(row, column) == (1, 1),
                    marker={
                        "color": theme.category(position),
                        "pattern": {
                            "shape": _SHAPES[position % len(_SHAPES)],
                            "fillmode": "overlay",
                            "fgcolor": theme.paper,
                            "size": 6,
                        },
                    },
                    error_x=whiskers(estimates, theme.ink),
                    hovertext=[
                        f"<b>{optimizer_label(optimizer)}, batch size {size:,}</b><br>{label}:"
                        f" {interval_text(estimate)} of the variance<br>n = {_counted(estimate)}"
                        for label, estimate in zip(labels, estimates, strict=True)
                    ],
                    hoverinfo="text",
                ),
                row=row,
                col=column,
            )
        add_panel_title(panels.figure, optimizer_label(optimizer), row, column)
    panels.figure.update_xaxes(range=[0, 1], tickformat=".0%", title_text="share of the variance over the box")
    panels.figure.update_yaxes(autorange="reversed", showgrid=False)
    panels.figure.update_layout(barmode="group", bargap=0.25, legend={"traceorder": "normal"})
    most = {share.share.of: share.share for importance in shown for share in importance.shares}
    methods = {"exact": "exact on the grid", "forest": "by random forest"}
    over = {"seeds": "seeds", "configurations": "sampled configurations"}
    metric = METRICS[shown[0].metric]
    return panels.finish(
        theme,
        f"Which hyperparameters move {metric.label}",
        [
            f"n = {', '.join(_counted(estimate) for estimate in most.values())}",
            "functional ANOVA in decades: main effects and pairs",
            *dict.fromkeys(methods[importance.method] for importance in shown),
            "lr / damping and lr · damping are a separate split of the same variance",
            f"bars: 95% interval over {' or '.join(over[of] for of in most)} (jackknife)",
        ],
        panel_width=430,
        left=150,
    )


def _counted(estimate: Estimate) -> str:
    return count(estimate.n, estimate.of.removesuffix("s"))


def _names(importances: Sequence[Importance]) -> list[tuple[str, ...]]:
    """Return the effects, by decreasing largest share, then the coordinates of the ridge."""
    largest: dict[tuple[str, ...], float] = {}
    for importance in importances:
        for share in importance.shares:
            key = tuple(sorted(share.names))
            value = share.share.value
            largest[key] = max(largest.get(key, 0.0), 0.0 if math.isnan(value) else value)
    ordered = sorted(largest, key=lambda key: -largest[key])[:_MAX_BARS]
    return [*ordered, *dict.fromkeys(share.names for importance in importances for share in importance.ridge)]


def _label(names: tuple[str, ...]) -> str:
    return " × ".join(parameter_label(name) for name in names)


def draw_ridge(maps: Sequence[RobustnessMap], importances: Sequence[Importance], *, theme: Theme = LIGHT) -> go.Figure:
    """Draw every cell's metric against x / y, across the ridge; one panel per batch size, coloured by y.

    Raises:
        NothingToShowError: no map of two hyperparameters that form a ridge has a measured cell.
    """
    planes = [map_ for map_ in maps if has_ridge(map_)]
    if not planes:
        raise NothingToShowError("There is no measured map over a learning rate and a hyperparameter that divides it.")
    x_name, y_name = planes[0].x_name, str(planes[0].y_name)
    across = ridge_names((x_name, y_name))[0]
    scale = map_scale(planes)
    explained = _explained(importances, planes[0].optimizer, x_name, across)
    cells = [cell for map_ in planes for cell in map_.cells if cell.state == "measured"]
    panels = make_panels(len(planes), columns=4, height=270)
    for (row, column), map_ in zip(panels.places(), planes, strict=True):
        own = [cell for cell in map_.cells if cell.state == "measured"]
        panels.figure.add_trace(
            go.Scatter(
                x=[cell.x / cell.y for cell in own],
                y=[scale.position(cell.median) for cell in own],
                mode="markers",
                marker={
                    "size": 8,
                    "color": [math.log10(cell.y) for cell in own],
                    "coloraxis": "coloraxis",
                    "line": {"width": 0.7, "color": theme.muted},
                },
                hovertext=[cell_hover(map_, cell) for cell in own],
                hoverinfo="text",
                showlegend=False,
            ),
            row=row,
            col=column,
        )
        _add_lost(panels.figure, map_, scale, theme, row, column)
        add_panel_title(
            panels.figure, f"batch size {map_.batch_size:,}", row, column, below=explained.get(map_.batch_size, "")
        )
    ratios = [cell.x / cell.y for map_ in planes for cell in map_.cells]
    panels.figure.update_xaxes(**log_axis(ratios), title_text=f"{parameter_label(x_name)} / {parameter_label(y_name)}")
    panels.figure.update_yaxes(tickvals=scale.tickvals, ticktext=scale.ticktext)
    panels.figure.update_yaxes(title_text=planes[0].metric.label, col=1)
    decades = [math.log10(cell.y) for cell in cells]
    ticks = list(range(math.ceil(min(decades) - 1e-9), math.floor(max(decades) + 1e-9) + 1)) or [round(min(decades))]
    panels.figure.update_layout(
        coloraxis={
            "colorscale": "Cividis",
            "colorbar": {
                "title": {"text": f"{parameter_label(y_name)}<br> "},
                "tickvals": ticks,
                "ticktext": [number(10.0**tick) for tick in ticks],
            },
        }
    )
    return panels.finish(
        theme,
        f"{optimizer_label(planes[0].optimizer)}: {planes[0].metric.label} across the {x_name}–{y_name} ridge",
        [map_counts(planes), f"the closer the points are to one curve, the more {across} alone matters"],
        panel_width=270,
    )


def has_ridge(map_: RobustnessMap) -> bool:
    """Whether a map has a measured cell and two hyperparameters that form a ridge."""
    plane = (map_.x_name, map_.y_name or "")
    return ridge(plane) == plane and map_.best is not None


def _explained(importances: Sequence[Importance], optimizer: str, x_name: str, across: str) -> Mapping[int, str]:
    texts = {}
    for importance in importances:
        if importance.optimizer == optimizer and importance.refused is None and importance.ridge:
            both, alone = importance.share_of(across).value, importance.share_of(x_name).value
            texts[importance.batch_size] = f"explained by it: {both:.0%} · by {x_name}: {alone:.0%}"
    return texts


def _add_lost(figure: go.Figure, map_: RobustnessMap, scale: Scale, theme: Theme, row: int, column: int) -> None:
    """Mark cells in which every seed diverged, at the bad end of the scale."""
    lost = [cell for cell in map_.cells if cell.state == "diverged"]
    if not lost:
        return
    figure.add_trace(
        go.Scatter(
            x=[cell.x / cell.y for cell in lost],
            y=[scale.bad_end] * len(lost),
            mode="markers",
            name="every seed diverged",
            showlegend=(row, column) == (1, 1),
            marker={"symbol": "x-thin", "size": 8, "line": {"width": 1.5, "color": theme.muted}},
            hovertext=[cell_hover(map_, cell) for cell in lost],
            hoverinfo="text",
        ),
        row=row,
        col=column,
    )


def importance_data(importances: Sequence[Importance]) -> Data:
    """Return shares of variance."""
    return Data(
        columns=("optimizer", "batch_size", "metric", "method", "of", *ESTIMATE),
        rows=[
            (i.optimizer, i.batch_size, i.metric, i.method, " × ".join(share.names), *estimated(share.share))
            for i in importances
            for share in (*i.shares, *i.ridge)
        ],
    )


@dataclass(frozen=True, kw_only=True)
class Ridge:
    """Maps of an optimizer that have a ridge, and the share of variance that it explains."""

    maps: tuple[RobustnessMap, ...]
    importances: tuple[Importance, ...]


def compute_ridge(results: StudyResults, optimizer: str) -> Ridge:
    """Return the ridge of an optimizer.

    Raises:
        NothingToShowError: it has no measured map of two hyperparameters that form a ridge.
    """
    own = tuple(map_ for map_ in results.maps if map_.optimizer == optimizer and has_ridge(map_))
    if not own:
        who = optimizer_name(optimizer)
        raise NothingToShowError(
            f"{who} has no measured map over a learning rate and a hyperparameter that divides it."
        )
    return Ridge(maps=own, importances=results.importance)


IMPORTANCE = Exhibit(
    name="importance",
    section="importance",
    title="Which hyperparameters matter",
    compute=lambda results: results.importance,
    draw=lambda found, theme: draw_importance(found, theme=theme),
    data=importance_data,
    notes=lambda found: (
        *refusals(importance.refused for importance in found),
        *(caution.text for importance in found for caution in importance.warnings),
    ),
    depends=("filters", "metric"),
)
RIDGE = Exhibit(
    name="ridge",
    section="importance",
    title="The ridge of a learning rate and what divides it",
    compute=compute_ridge,
    draw=lambda found, theme: draw_ridge(found.maps, found.importances, theme=theme),
    data=lambda found: map_data(found.maps),
    options=(
        Option(
            name="optimizer",
            label="Optimizer",
            values=lambda results: {
                name: label
                for name, label in optimizers(results).items()
                if ridge(tuple(at for at, axis in results.spec.axes[name].items() if axis.varies)) is not None
            },
            together=True,
            why_empty=lambda _: "No optimizer here varies a learning rate and a hyperparameter that divides it.",
        ),
    ),
    depends=("filters", "metric", "tolerance"),
)
