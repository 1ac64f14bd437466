"""Cost of runs: wall-clock time and computation, of a step and of the whole search; and step time by phase."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from sensitivity.analysis.cost import Cost, CostRatio
from sensitivity.analysis.estimates import Estimate
from sensitivity.analysis.names import optimizer_name
from sensitivity.analysis.time_split import TimeSplit
from sensitivity.figures.axes import add_panel_title
from sensitivity.figures.data import Data, estimated
from sensitivity.figures.exhibit import Exhibit
from sensitivity.figures.labels import count, interval_text, number, optimizer_label, safe
from sensitivity.figures.nothing import NO_RESULT, NothingToShowError
from sensitivity.figures.panels import batch_axis, log_axis, make_panels
from sensitivity.figures.tables import Table
from sensitivity.figures.theme import LIGHT, Theme
from sensitivity.figures.traces import whiskers

_PANELS: tuple[tuple[str, str, Callable[[Cost], Estimate]], ...] = (
    ("Wall-clock per step", "device-seconds", lambda cost: cost.seconds_a_step),
    ("Computation per step", "FLOPs", lambda cost: Estimate(value=cost.flops_a_step)),
    ("Wall-clock of the search", "device-seconds", lambda cost: Estimate(value=cost.device_seconds)),
    ("Computation of the search", "FLOPs", lambda cost: Estimate(value=cost.flops)),
)
_PHASES = {
    "gradients": ("forward, backward, and updates not timed apart", ""),
    "factors": ("factors", "/"),
    "inverses": ("inverses", "x"),
    "precondition": ("preconditioning", "."),
    "update": ("update", "|"),
    "rest": ("rest", "-"),
}


def draw_cost(costs: Sequence[Cost], *, theme: Theme = LIGHT) -> go.Figure:
    """Draw device-seconds and floating-point operations against batch size.

    Raises:
        NothingToShowError: no run has a result.
    """
    if not any(cost.runs for cost in costs):
        raise NothingToShowError(NO_RESULT)
    panels = make_panels(4, columns=2, height=230, shared_y=False)
    optimizers = list(dict.fromkeys(cost.optimizer for cost in costs))
    for place, ((row, column), (title, unit, get)) in enumerate(zip(panels.places(), _PANELS, strict=True)):
        values = []
        for position, optimizer in enumerate(optimizers):
            own = [cost for cost in costs if cost.optimizer == optimizer and get(cost).value > 0]
            style, name = theme.style(position), optimizer_label(optimizer)
            estimates = [get(cost) for cost in own]
            values += [v for e in estimates for v in (e.value, *(e.interval or ()))]
            panels.figure.add_trace(
                go.Scatter(
                    x=[cost.batch_size for cost in own],
                    y=[estimate.value for estimate in estimates],
                    mode="lines+markers",
                    name=name,
                    showlegend=place == 0,
                    line={"color": style.colour, "width": 2, "dash": style.dash},
                    marker={"symbol": style.symbol, "size": 9, "color": style.colour},
                    error_y=whiskers(estimates, style.colour),
                    hovertext=[
                        f"<b>{name}, batch size {cost.batch_size:,}</b><br>{title.lower()}: {interval_text(value)}"
                        f" {unit}<br>n = {count(cost.runs, 'run')} of {cost.planned:,} planned"
                        + (f"<br>packs of {cost.pack_size:g}" if not math.isnan(cost.pack_size) else "")
                        for cost, value in zip(own, estimates, strict=True)
                    ],
                    hoverinfo="text",
                ),
                row=row,
                col=column,
            )
        add_panel_title(panels.figure, title, row, column)
        panels.figure.update_yaxes(**log_axis(values), title_text=unit, row=row, col=column)
    panels.figure.update_xaxes(**batch_axis([cost.batch_size for cost in costs]))
    runs, planned = sum(cost.runs for cost in costs), sum(cost.planned for cost in costs)
    return panels.finish(
        theme,
        "Cost per step, and of the whole search",
        [
            f"n = {count(runs, 'run')} with a result of {planned:,} planned, diverged ones included",
            "device-seconds are a run's share of its pack's time; the search's include evaluation",
            "bars: 95% interval over packs (Student's t)",
        ],
        panel_width=420,
    )


def draw_time_split(splits: Sequence[TimeSplit], *, theme: Theme = LIGHT) -> go.Figure:
    """Draw the device time of a step by phase, stacked; one panel per optimizer.

    Raises:
        NothingToShowError: no run measured it.
    """
    if not splits:
        raise NothingToShowError("No run measured the time of its steps by phase.")
    optimizers = list(dict.fromkeys(split.optimizer for split in splits))
    panels = make_panels(len(optimizers), columns=2, height=300)
    phases = [*dict.fromkeys(name for split in splits for name, _ in split.phases), "rest"]
    for (row, column), optimizer in zip(panels.places(), optimizers, strict=True):
        own = [split for split in splits if split.optimizer == optimizer]
        for position, phase in enumerate(phases):
            label, pattern = _PHASES.get(phase, (safe(phase), ""))
            seconds = [split.rest if phase == "rest" else dict(split.phases).get(phase, 0.0) for split in own]
            panels.figure.add_trace(
                go.Bar(
                    x=[f"{split.batch_size:,}" for split in own],
                    y=[1e3 * value for value in seconds],
                    name=label,
                    showlegend=(row, column) == (1, 1),
                    marker={
                        "color": theme.category(position),
                        "line": {"color": theme.paper, "width": 1},
                        "pattern": {"shape": pattern, "fillmode": "overlay", "fgcolor": theme.paper, "size": 7},
                    },
                    hovertext=[
                        f"<b>{optimizer_label(optimizer)}, batch size {split.batch_size:,}</b><br>{label}:"
                        f" {1e3 * value:.3g} ms, {value / split.seconds if split.seconds else 0:.0%} of the step"
                        f"<br>n = {count(split.runs, 'run')}, {count(split.steps, 'step')}"
                        for split, value in zip(own, seconds, strict=True)
                    ],
                    hoverinfo="text",
                ),
                row=row,
                col=column,
            )
        add_panel_title(panels.figure, optimizer_label(optimizer), row, column)
    panels.figure.update_xaxes(title_text="batch size", type="category")
    panels.figure.update_yaxes(title_text="device-milliseconds per step", col=1)
    panels.figure.update_layout(barmode="stack", bargap=0.35, legend={"traceorder": "normal"})
    runs = sum(split.runs for split in splits)
    return panels.finish(
        theme,
        "Time of a step by phase",
        [f"n = {count(runs, 'run')} that measured it", "a run's share of its pack's step"],
        panel_width=420,
    )


def cost_data(costs: Sequence[Cost]) -> Data:
    """Return costs by optimizer and batch size."""
    fields = ("optimizer", "batch_size", "planned", "runs", "steps", "train_seconds", "eval_seconds", "flops")
    return Data(
        columns=(
            *fields, "seconds_a_step", "seconds_a_step_low", "seconds_a_step_high", "packs", "flops_a_step",
            "pack_size",
        ),
        rows=[
            (*(getattr(c, name) for name in fields), *estimated(c.seconds_a_step), c.flops_a_step, c.pack_size)
            for c in costs
        ],
    )  # fmt: skip


def time_split_data(splits: Sequence[TimeSplit]) -> Data:
    """Return the device-seconds of a step by phase."""
    return Data(
        columns=("optimizer", "batch_size", "phase", "seconds_a_step", "runs", "steps"),
        rows=[
            (s.optimizer, s.batch_size, name, seconds, s.runs, s.steps)
            for s in splits
            for name, seconds in (*s.phases, ("rest", s.rest))
        ],
    )


def ratio_table(ratios: Sequence[CostRatio]) -> Table:
    """Return the cost of one optimizer as a multiple of another's."""
    one, other = optimizer_name(ratios[0].candidate), optimizer_name(ratios[0].reference)
    rows = [
        [f"{r.batch_size:,}", *(f"{number(value, 3)}×" for value in (r.seconds, r.flops, r.total_seconds))]
        for r in ratios
    ]
    header = ("batch size", "seconds per step", "FLOPs per step", "device-seconds of the search")
    caption = f"Cost of {one} as a multiple of {other}'s."
    return Table(caption=caption, header=header, rows=rows, text_columns=0)


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Cost of the runs, and cost ratios of pairs of optimizers."""

    costs: tuple[Cost, ...]
    ratios: tuple[CostRatio, ...]


COST = Exhibit(
    name="cost",
    section="cost",
    title="Cost of the runs",
    compute=lambda results: Costs(costs=results.costs, ratios=results.cost_ratios),
    draw=lambda found, theme: draw_cost([cost for cost in found.costs if cost.runs], theme=theme),
    data=lambda found: cost_data(found.costs),
    tables=lambda found: [ratio_table(found.ratios)] if found.ratios else [],
    notes=lambda found: (
        *(caution.text for ratio in found.ratios for caution in ratio.warnings),
        *(caution.text for cost in found.costs for caution in cost.warnings),
    ),
    depends=("filters",),
)
TIME_SPLIT = Exhibit(
    name="time-split",
    section="cost",
    title="Time of a step by phase",
    compute=lambda results: results.time_splits,
    draw=lambda splits, theme: draw_time_split(splits, theme=theme),
    data=time_split_data,
    depends=("filters",),
)
