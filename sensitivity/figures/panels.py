"""The frame of a figure: panels side by side, a title above them that states n, and a legend below.

A figure's ``layout.meta`` holds the width in pixels below which a page should scroll it instead of shrinking it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sensitivity.figures.labels import number
from sensitivity.figures.theme import Theme

LINE = 17
"""Height in pixels of a line of a subtitle."""
_TOP, _BOTTOM, _BETWEEN = 74, 92, 96
_RIGHT, _CHARACTER = 24, 6.1
"""Right margin, and average width of a character of a subtitle, in pixels."""
_TICK_MULTIPLES: tuple[tuple[float, tuple[float, ...]], ...] = (
    (0.6, (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)),
    (1.4, (1, 2, 5)),
    (3.0, (1, 3)),
    (math.inf, (1,)),
)
"""(decades, multiples): an axis of up to that many decades has labels at these multiples of each power of ten."""
_MAX_TICKS = 8
_LABEL_SHARE = 0.2
"""Share of an axis that one label takes; of values that are closer together only one is labelled."""


@dataclass(frozen=True)
class Panels:
    """A figure with `n` panels in rows of `columns`, filled in reading order."""

    figure: go.Figure
    n: int
    columns: int
    plot: float
    """Height in pixels of all rows and the gaps between them."""

    def places(self) -> Iterator[tuple[int, int]]:
        """Yield the row and column of each panel, counted from 1."""
        return ((k // self.columns + 1, k % self.columns + 1) for k in range(self.n))

    def finish(
        self, theme: Theme, title: str, subtitle: Sequence[str], *, panel_width: int = 320, left: int = 72
    ) -> go.Figure:
        """Set the figure's title, its subtitle (whose first part states n) and its size, and return the figure."""
        width = max(560, panel_width * self.columns + 60)
        lines = wrapped(subtitle, int((width - left - _RIGHT) / _CHARACTER))
        below = any(
            "<br>" in (note.text or "") for note in self.figure.layout.annotations
        )  # a panel title of two lines
        top = _TOP + LINE * (len(lines) + below)
        self.figure.update_layout(
            template=theme.template(),
            title={"text": title, "subtitle": {"text": "<br>".join(lines)}},
            height=self.plot + top + _BOTTOM,
            margin={"t": top, "b": _BOTTOM, "l": left, "r": _RIGHT},
            meta={"min_width": width},
            hovermode="closest",
        )
        return self.figure


def make_panels(n: int, *, columns: int, height: float, shared_y: bool = True) -> Panels:
    """Return `n` empty panels, each `height` pixels high."""
    columns = min(n, columns)
    rows = -(-n // columns)
    plot = rows * height + (rows - 1) * _BETWEEN
    gap = 0.0 if columns == 1 else 0.035 if shared_y else 0.09
    figure = make_subplots(
        rows=rows,
        cols=columns,
        shared_yaxes=shared_y,
        horizontal_spacing=gap,
        vertical_spacing=_BETWEEN / plot if rows > 1 else 0.0,
    )
    return Panels(figure, n, columns, plot)


def wrapped(parts: Sequence[str], characters: int) -> list[str]:
    """Join `parts` with dots into lines of about `characters`; longer parts are broken at spaces."""
    lines = [""]
    for part in (part for part in parts if part):
        for place, word in enumerate(part.split(" ")):
            joint = "" if not lines[-1] else " · " if place == 0 else " "
            if lines[-1] and len(lines[-1]) + len(joint) + len(word) > characters:
                lines[-1] += joint.rstrip()  # the dot ends the line, as a sign that the next part follows
                lines.append(word)
            else:
                lines[-1] += joint + word
    return lines


def log_axis(values: Sequence[float], *, base_two: bool = False, pad: float = 0.06) -> dict[str, object]:
    """Return a logarithmic axis for the positive finite `values`: its type, range and labelled ticks."""
    known = [value for value in values if math.isfinite(value) and value > 0] or [1.0]
    low, high = math.log10(min(known)), math.log10(max(known))
    margin = max(pad * (high - low), 0.04)
    low, high = low - margin, high + margin
    if base_two:
        step = math.log10(2)
        ticks = [2.0**k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    else:
        leads = next(leads for most, leads in _TICK_MULTIPLES if high - low < most)
        decades = range(math.floor(low), math.ceil(high) + 1)
        ticks = [lead * 10.0**decade for decade in decades for lead in leads]
        ticks = [tick for tick in ticks if low <= math.log10(tick) <= high]
    if len(ticks) < 2:
        close = math.log10(max(known) / min(known)) < _LABEL_SHARE * (high - low)
        ticks = sorted({max(known)} if close else {min(known), max(known)})
    ticks = ticks[:: -(-len(ticks) // _MAX_TICKS)]
    texts = [f"{tick:,.0f}" if base_two and tick >= 1 else number(tick, 3) for tick in ticks]
    return {"type": "log", "range": [low, high], "tickvals": ticks, "ticktext": texts}


def batch_axis(sizes: Sequence[int]) -> dict[str, object]:
    """Return a logarithmic axis of batch sizes, with the sizes themselves as labels."""
    shown = sorted(set(sizes))
    shown = shown[:: -(-len(shown) // 10)]
    axis = log_axis(sizes, pad=0.08)
    return {**axis, "tickvals": shown, "ticktext": [f"{size:,}" for size in shown], "title_text": "batch size"}
