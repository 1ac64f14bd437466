"""Outcomes of planned runs with respect to targets: one panel per target, one bar per optimizer and batch size."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sensitivity.analysis.names import optimizer_name
from sensitivity.analysis.targets import TargetOutcome
from sensitivity.figures.axes import add_panel_title
from sensitivity.figures.data import Data
from sensitivity.figures.exhibit import Exhibit
from sensitivity.figures.labels import number, optimizer_label, target_label
from sensitivity.figures.nothing import NO_TARGET, NothingToShowError
from sensitivity.figures.tables import Table
from sensitivity.figures.theme import LIGHT, Theme
from sensitivity.study.metrics import METRICS

_PANELS_A_ROW = 2
_TOP, _BOTTOM, _BAR, _BETWEEN = 92, 84, 30, 90


def draw_targets(outcomes: Sequence[TargetOutcome], *, theme: Theme = LIGHT) -> go.Figure:
    """Draw `outcomes` as bars of all planned runs, with the interval of the share reached if there is one.

    Raises:
        NothingToShowError: `outcomes` is empty.
    """
    if not outcomes:
        raise NothingToShowError(NO_TARGET)
    panels = list(dict.fromkeys((outcome.metric, outcome.target) for outcome in outcomes))
    groups = list(dict.fromkeys((outcome.optimizer, outcome.batch_size) for outcome in outcomes))
    columns = min(len(panels), _PANELS_A_ROW)
    rows = -(-len(panels) // columns)
    height = _BAR * len(groups) + 20
    plot = rows * height + (rows - 1) * _BETWEEN
    figure = make_subplots(
        rows=rows,
        cols=columns,
        shared_yaxes=True,
        horizontal_spacing=0.04 if columns > 1 else 0,
        vertical_spacing=_BETWEEN / plot if rows > 1 else 0,
    )
    fates = ("reached", "censored", "diverged", "failed", "waiting")
    present = {fate for fate in fates if any(getattr(outcome, fate) for outcome in outcomes)}
    for place, panel in enumerate(panels):
        row, column = place // columns + 1, place % columns + 1
        of_panel = [outcome for outcome in outcomes if (outcome.metric, outcome.target) == panel]
        for trace in _bars(of_panel, present, theme):
            trace.showlegend = place == 0
            figure.add_trace(trace, row=row, col=column)
        add_panel_title(figure, target_label(METRICS[panel[0]], panel[1]), row, column)
        figure.update_xaxes(title_text="share of planned runs", row=row, col=column)
    figure.update_xaxes(range=[0, 1], tickformat=".0%", showgrid=False)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    by_group = {(o.optimizer, o.batch_size): o.planned for o in outcomes}
    interval = any(outcome.interval for outcome in outcomes)
    figure.update_layout(
        template=theme.template(),
        title={
            "text": "Runs that reach each target within the budget",
            "subtitle": {
                "text": f"n = {sum(by_group.values()):,} planned runs, counts in the bars · "
                + (
                    "whisker: 95% interval (Wilson) of the share reached"
                    if interval
                    else "shares of a designed set of runs, not probabilities"
                )
            },
        },
        barmode="stack",
        legend={"traceorder": "normal"},
        bargap=0.25,
        height=plot + _TOP + _BOTTOM,
        margin={"t": _TOP, "b": _BOTTOM, "l": 110, "r": 20},
    )
    return figure


def _bars(outcomes: Sequence[TargetOutcome], present: Collection[str], theme: Theme) -> list[go.Bar]:
    names = [f"{optimizer_label(o.optimizer)}, batch {o.batch_size:,}" for o in outcomes]
    kinds = (
        ("reached", "reached", theme.category(0), ""),
        ("censored", "completed without reaching it", theme.grid, ""),
        ("diverged", "diverged", theme.hatch_fill, "/"),
        ("failed", "failed", theme.paper, "x"),
        ("waiting", "no result yet", theme.paper, "."),
    )
    bars = []
    for field, legend, colour, shape in kinds:
        if field not in present:
            continue
        counts = [int(getattr(outcome, field)) for outcome in outcomes]
        line = theme.failed if field == "failed" else theme.hatch_line
        bars.append(
            go.Bar(
                y=names,
                x=[n / outcome.planned for n, outcome in zip(counts, outcomes, strict=True)],
                orientation="h",
                name=legend,
                text=[str(n) if n else "" for n in counts],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                constraintext="none",
                textfont={"color": theme.paper if field == "reached" else theme.ink, "size": 11},
                marker={
                    "color": colour,
                    "line": {"color": line, "width": 0.5},
                    "pattern": {"shape": shape, "fgcolor": line, "bgcolor": colour, "size": 6},
                },
                error_x=_whiskers(outcomes, theme) if field == "reached" else None,
                hovertext=[
                    f"{name}: {n} of {outcome.planned} planned runs {legend}"
                    for name, n, outcome in zip(names, counts, outcomes, strict=True)
                ],
                hoverinfo="text",
            )
        )
    return bars


def _whiskers(outcomes: Sequence[TargetOutcome], theme: Theme) -> dict[str, object] | None:
    if not any(outcome.interval for outcome in outcomes):
        return None
    ends = [(o.reached / o.planned, o.interval or (o.reached / o.planned,) * 2) for o in outcomes]
    return {
        "array": [high - share for share, (_, high) in ends],
        "arrayminus": [share - low for share, (low, _) in ends],
        "color": theme.warning,
        "thickness": 2,
        "width": 5,
    }


def target_data(outcomes: Sequence[TargetOutcome]) -> Data:
    """Return the counts of outcomes with respect to targets."""
    fields = (
        "metric", "target", "optimizer", "batch_size", "planned", "reached", "fell_back", "at_first",
        "censored", "diverged", "diverged_after_meeting", "failed", "waiting", "median_steps_after", "median_steps",
        "median_epochs", "median_seconds",
        "expected_steps", "spent_steps",
    )  # fmt: skip
    return Data(
        columns=(*fields, "share_low", "share_high"),
        rows=[(*(getattr(o, name) for name in fields), *(o.interval or (None, None))) for o in outcomes],
    )


def target_table(outcomes: Sequence[TargetOutcome]) -> Table:
    """Return counts, and times to target in steps, epochs and seconds."""
    rows = []
    for o in outcomes:
        expected = f"> {number(o.spent_steps, 3)}" if math.isnan(o.expected_steps) else number(o.expected_steps, 3)
        interval = "–" if o.interval is None else f"{o.interval[0]:.0%} to {o.interval[1]:.0%}"
        rows.append(
            [
                target_label(METRICS[o.metric], o.target),
                optimizer_name(o.optimizer), o.batch_size, f"{o.reached}/{o.planned}", interval, o.censored,
                f"{o.diverged} ({o.diverged_after_meeting})", o.failed, o.waiting, o.fell_back, _steps(o),
                number(o.median_epochs, 3), number(o.median_seconds, 3), expected,
            ]
        )  # fmt: skip
    header = (
        "target", "optimizer", "batch size", "reached", "95% interval", "completed, not reached",
        "diverged (after meeting it)", "failed", "waiting", "fell back", "median steps", "median epochs",
        "median device-seconds", "expected running time in steps",
    )  # fmt: skip
    caption = "Runs that reach each target. Medians are over the runs that reach it."
    table = Table(caption=caption, header=header, rows=rows, text_columns=2)
    return table.without_empty("95% interval")


def _steps(outcome: TargetOutcome) -> str:
    """Return what is known of the median steps: an upper bound, or the evaluations between which they lie."""
    low, high = outcome.median_steps_after, outcome.median_steps
    if low == 0 < high:
        return f"≤ {number(high, 4)}"
    return number(high, 4) if not high - low > 1 else f"{number(low, 4)}–{number(high, 4)}"


TARGETS = Exhibit(
    name="targets",
    section="targets",
    title="Runs that reach each target",
    compute=lambda results: tuple(outcome for target in results.targets for outcome in results.outcomes(target)),
    draw=lambda outcomes, theme: draw_targets(outcomes, theme=theme),
    data=target_data,
    tables=lambda outcomes: [target_table(outcomes)],
    depends=("filters", "target"),
)
