"""Results of each planned look of a settlement: the ratio with its interval, and the evidence on sensitivity."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from sensitivity.analysis.settled import SettledLooks, settled_looks
from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.axes import add_panel_title
from sensitivity.figures.data import Data, Value
from sensitivity.figures.exhibit import PAIR, Exhibit, pair_of
from sensitivity.figures.exhibits.settling import not_settled
from sensitivity.figures.labels import count, number, optimizer_label
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.figures.panels import Panels, log_axis, make_panels
from sensitivity.figures.theme import LIGHT, Theme

_MAX_RATIO = 100.0
"""Ratios are clipped to this value and its reciprocal in figures."""
_MIN_E_VALUE = 1e-3
"""E-values below this are drawn at it: they only say that a claim has lost."""


def draw_looks(looks: SettledLooks, *, theme: Theme = LIGHT) -> go.Figure:
    """Draw the results of the looks at a pair, one panel per question."""
    one, other = (optimizer_label(name) for name in looks.pair)
    drawn = [draw for draw, some in ((_scaling, looks.scaling), (_sensitivity, looks.sensitivity)) if some]
    panels = make_panels(len(drawn), columns=2, height=300, shared_y=False)
    for (row, column), draw in zip(panels.places(), drawn, strict=True):
        draw(panels, looks, (one, other), theme, row, column)
    n = []
    if looks.scaling:
        n.append(count(looks.scaling[-1].seeds, "judging seed"))
    if looks.sensitivity:
        n.append(count(looks.sensitivity[-1].blocks, "block") + " of draws")
    return panels.finish(
        theme,
        f"{one} against {other}: what each planned look showed",
        [
            f"n = {' and '.join(n)}",
            *(["shaded: within the margin, equivalent"] if looks.scaling else []),
            *(["dashed: threshold of a claim"] if looks.sensitivity and looks.thresholds else []),
        ],
        panel_width=440,
        left=84,
    )


def _scaling(panels: Panels, looks: SettledLooks, names: tuple[str, str], theme: Theme, row: int, column: int) -> None:
    one, other = names
    seeds = [look.seeds for look in looks.scaling]
    ratios = [_clipped(look.ratio) for look in looks.scaling]
    ends = [(_clipped(look.low), _clipped(look.high)) for look in looks.scaling]
    margin = looks.claims["scaling"].margin
    style = theme.style(0)
    panels.figure.add_trace(
        go.Scatter(
            x=seeds,
            y=ratios,
            mode="markers",
            showlegend=False,
            marker={"size": 9, "symbol": "diamond", "color": style.colour},
            error_y={
                "array": [high - ratio for ratio, (_, high) in zip(ratios, ends, strict=True)],
                "arrayminus": [ratio - low for ratio, (low, _) in zip(ratios, ends, strict=True)],
                "color": style.colour,
                "thickness": 2,
                "width": 5,
            },
            hovertext=[
                f"<b>{count(look.seeds, 'seed')}</b><br>ratio {number(look.ratio, 3)}, interval"
                f" {number(look.low, 3)} to {number(look.high, 3)}<br>{look.answer}"
                for look in looks.scaling
            ],
            hoverinfo="text",
        ),
        row=row,
        col=column,
    )
    panels.figure.add_hrect(
        y0=1 / margin, y1=margin, fillcolor=theme.grid, opacity=0.6, line_width=0, layer="below", row=row, col=column
    )
    panels.figure.add_hline(y=1.0, line={"color": theme.muted, "width": 1}, row=row, col=column)
    axis = log_axis([*ratios, *(end for pair in ends for end in pair), margin, 1 / margin])
    panels.figure.update_yaxes(**axis, title_text=f"critical batch size: {one} / {other}", row=row, col=column)
    panels.figure.update_xaxes(**log_axis([float(n) for n in seeds]), title_text="judging seeds", row=row, col=column)
    add_panel_title(panels.figure, f"Further up: {one} scales further", row, column)


def _sensitivity(
    panels: Panels, looks: SettledLooks, names: tuple[str, str], theme: Theme, row: int, column: int
) -> None:
    one, other = names
    blocks = [look.blocks for look in looks.sensitivity]
    lines = {
        f"{one} is less sensitive": [look.better for look in looks.sensitivity],
        f"{one} is more sensitive": [look.worse for look in looks.sensitivity],
        "equally sensitive": [look.equivalent for look in looks.sensitivity],
    }
    for place, (name, values) in enumerate(lines.items()):
        style = theme.style(place)
        panels.figure.add_trace(
            go.Scatter(
                x=blocks,
                y=[max(value, _MIN_E_VALUE) for value in values],
                mode="lines+markers",
                name=name,
                line={"color": style.colour, "width": 2.5, "dash": style.dash},
                marker={"size": 6},
                hovertext=[
                    f"<b>{name}</b><br>{count(look.blocks, 'block')}: e-value {number(value, 3)}<br>"
                    f"{look.candidate:.1%} of the draws of {one} and {look.reference:.1%} of those of {other} work"
                    for look, value in zip(looks.sensitivity, values, strict=True)
                ],
                hoverinfo="text",
            ),
            row=row,
            col=column,
        )
    levels = looks.thresholds or ()
    for level in levels:
        panels.figure.add_hline(y=level, line={"color": theme.muted, "width": 1.5, "dash": "dash"}, row=row, col=column)
    values = [max(value, _MIN_E_VALUE) for some in lines.values() for value in some]
    panels.figure.update_yaxes(
        **log_axis([*values, *levels, 1.0]), title_text="evidence (e-value)", row=row, col=column
    )
    panels.figure.update_xaxes(
        **log_axis([float(n) for n in blocks]), title_text="blocks of draws", row=row, col=column
    )
    add_panel_title(panels.figure, "Further up: more evidence for the claim", row, column)


def _clipped(ratio: float) -> float:
    return 1.0 if math.isnan(ratio) else min(max(ratio, 1 / _MAX_RATIO), _MAX_RATIO)


def _data(looks: SettledLooks) -> Data:
    columns = (
        "question", "looked_at", "ratio", "low", "high", "e_better", "e_worse", "e_equivalent",
        "success_candidate", "success_reference",
    )  # fmt: skip
    rows: list[tuple[Value, ...]] = [
        ("scaling", one.seeds, one.ratio, one.low, one.high, None, None, None, None, None) for one in looks.scaling
    ]
    rows += [
        (
            "sensitivity",
            one.blocks,
            None,
            None,
            None,
            one.better,
            one.worse,
            one.equivalent,
            one.candidate,
            one.reference,
        )
        for one in looks.sensitivity
    ]
    return Data(columns=columns, rows=rows)


def _looks(results: StudyResults, pair: str) -> SettledLooks:
    ledger = results.tables.ledger
    if ledger is None:
        raise NothingToShowError(not_settled(results))
    looks = settled_looks(ledger, pair_of(results, pair))
    if not looks.scaling and not looks.sensitivity:
        raise NothingToShowError("The settlement has not looked at this pair yet.")
    return looks


LOOKS = Exhibit(
    name="looks",
    section="settling",
    title="What each planned look of the settlement showed",
    compute=_looks,
    draw=lambda looks, theme: draw_looks(looks, theme=theme),
    data=_data,
    notes=lambda looks: (
        "Every look's interval and evidence keep the error rate of the whole settlement, whenever it stops.",
    ),
    options=(PAIR,),
    depends=(),
)
