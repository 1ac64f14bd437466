"""Figures for print: at a given width and font size, without a title, with panels in fewer columns."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

Panel = tuple[Any, Any]
"""The x and y axes of a panel."""
WIDTHS = (3.3, 5.5)
"""Widths in inches: of a column, and of the text of a single-column page."""
POINTS = 8.0
"""Font size in points of axis titles; ticks and legends are one point smaller."""
PIXELS = 96
"""Pixels per inch."""
_FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
_SCREEN_FONT = 12.0
_NARROWEST, _NARROWEST_TITLED = 1.75, 2.6
"""Smallest width in inches of a panel with its labels, if all share axis titles and if each has its own."""
_TALLEST = 8.5
_TOP, _TITLE_LINE, _BOTTOM, _LEGEND_LINE = 8, 13, 54, 15
"""Pixels: margin above the panels, a line of a panel title, margin below the panels, a line of the legend."""
_MARKER = 0.7


def resized(figure: go.Figure, inches: float) -> go.Figure:
    """Return a figure `inches` wide, with letters as large as those of the surrounding text."""
    content = _small(figure.to_plotly_json())
    made = go.Figure(content)
    panels = _panels(made)
    below = max(_lines(made), 1)
    panel = min(max(_panel_height(figure), 120), 230) * (0.8 if inches < 4 else 0.9)
    width = inches * PIXELS
    legend = _legend_lines(made, width)
    bottom = _BOTTOM + legend * _LEGEND_LINE
    titled = len({x.title.text for x, _ in panels if x.title.text}) > 1
    rows = _rearranged(panels, max(int(inches / (_NARROWEST_TITLED if titled else _NARROWEST)), 1), titled=titled)
    between = _TITLE_LINE * below + (58 if titled else 42)
    plot = min(rows * panel + (rows - 1) * between, _TALLEST * PIXELS)
    top = _TOP + _TITLE_LINE * below
    _stack(panels, rows, between / plot)
    made.update_layout(
        title=None,
        width=width,
        height=plot + top + bottom,
        margin={"t": top, "b": bottom, "l": 46, "r": 6, "pad": 0},
        font={"family": _FONT, "size": POINTS * PIXELS / 72, "color": "#000000"},
        legend={"yref": "container", "y": 0, "yanchor": "bottom", "font": {"size": (POINTS - 1) * PIXELS / 72}},
        meta={"min_width": width},
    )
    made.update_coloraxes(
        colorbar={"thickness": 8, "x": 1.01, "len": 1.0, "lenmode": "fraction", "y": 0.5, "yanchor": "middle"}
    )
    return made


def caption(figure: go.Figure) -> str:
    """Return the title of a figure as one or two sentences for its caption."""
    title = figure.layout.title
    subtitle = str(title.subtitle.text or "") if title.subtitle else ""
    flat_subtitle = re.sub(r"\s*<br>\s*", " ", subtitle)
    parts = [plain(str(title.text or "")), *(plain(part) for part in flat_subtitle.split(" · "))]
    return " ".join(f"{part if part.startswith('n =') else part[0].upper() + part[1:]}." for part in parts if part)


def plain(text: str) -> str:
    """Return text without the tags that Plotly interprets."""
    return html.unescape(re.sub(r"<[^>]+>", "", text)).strip()


def _small(node: Any, within: str = "") -> Any:
    """Return a figure's JSON with letters and markers in print size."""
    if isinstance(node, dict):
        return {key: _size(key, value, within) for key, value in node.items()}
    if isinstance(node, (list, tuple)) and node and isinstance(node[0], dict):
        return [_small(each, within) for each in node]
    return node


def _size(key: str, value: Any, within: str) -> Any:
    if key == "size" and isinstance(value, (int, float)):
        if within.endswith("font"):
            return value * POINTS * PIXELS / 72 / _SCREEN_FONT
        if within == "marker":
            return value * _MARKER
    return _small(value, key)


def _panels(figure: go.Figure) -> list[Panel]:
    """Return the axes of each panel, in reading order."""
    numbers = [name.removeprefix("xaxis") for name in figure.layout.to_plotly_json() if name.startswith("xaxis")]
    found = [(figure.layout[f"xaxis{number}"], figure.layout[f"yaxis{number}"]) for number in numbers]
    return sorted(found, key=lambda one: (-round((one[1].domain or (0, 1))[1], 3), (one[0].domain or (0, 1))[0]))


def _rearranged(panels: Sequence[Panel], columns: int, *, titled: bool) -> int:
    """Arrange `panels` in at most `columns`, each with its own tick labels; return the number of rows.

    `titled` says whether each panel has its own axis titles.
    """
    now = len({round((y.domain or (0, 1))[1], 3) for _, y in panels}) or 1
    columns = min(columns, len(panels))
    if not panels or (math.ceil(len(panels) / now) <= columns and not (titled and columns > 1)):
        return now
    x_title = next((x.title.text for x, _ in panels if x.title.text), None)
    y_title = next((y.title.text for _, y in panels if y.title.text), None)
    gap = 0.0 if columns == 1 else 0.24 if titled else 0.16
    width = (1 - gap * (columns - 1)) / columns
    for place, (x, y) in enumerate(panels):
        column = place % columns
        x.domain = (column * (width + gap), column * (width + gap) + width)
        x.showticklabels = y.showticklabels = True
        y.title.text = y.title.text or (y_title if column == 0 else None)
        if not titled:
            x.title.text = x_title if place + columns >= len(panels) else None
    return math.ceil(len(panels) / columns)


def _stack(panels: Sequence[Panel], rows: int, gap: float) -> None:
    """Distribute the rows of panels over the height."""
    columns = math.ceil(len(panels) / rows)
    height = (1 - gap * (rows - 1)) / rows
    for place, (_, y) in enumerate(panels):
        top = 1 - place // columns * (height + gap)
        y.domain = (max(top - height, 0.0), top)


def _panel_height(figure: go.Figure) -> float:
    layout = figure.layout
    y = [one.domain or (0, 1) for _, one in _panels(figure)] or [(0, 1)]
    plot = float(layout.height or 400) - float(layout.margin.t or 80) - float(layout.margin.b or 80)
    return (y[0][1] - y[0][0]) * plot


def _lines(figure: go.Figure) -> int:
    """Return the number of lines in panel titles."""
    titles = [note.text or "" for note in figure.layout.annotations if str(note.yref or "").endswith("domain")]
    return max((text.count("<br>") + 1 for text in titles), default=0)


def _legend_lines(figure: go.Figure, width: float) -> int:
    """Return the number of lines of the legend, estimated from the lengths of its entries."""
    names = [plain(str(trace.name)) for trace in figure.data if trace.name and trace.showlegend is not False]
    lines, left = (1, width - 60) if names else (0, 0.0)
    for name in names:
        takes = 44 + 5.4 * len(name)
        if takes > left:
            lines, left = lines + 1, width - 60
        left -= takes
    return lines
