"""Figures inside a page: plotly.js once, and each figure and its data compressed with gzip in base 64.

The page unpacks them with the browser's own ``DecompressionStream`` and draws a figure when it scrolls into view, so
that a report with many figures opens at once. A figure is drawn in placeholder colours (``theme.PLACEHOLDER``), which
the page replaces by those of the current theme; the template is embedded once.
"""

from __future__ import annotations

import base64
import functools
import gzip
import html
import json
from dataclasses import dataclass, field, replace
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from sensitivity.figures.data import Data
from sensitivity.figures.theme import CONFIG, DARK, LIGHT, PLACEHOLDER, Theme, colours

_MAX_ROWS = 6_000
"""Largest number of data rows per figure; `sensitivity export` writes all runs, the folder `curves` has the curves."""
_WIDE = 1000
"""Page width in pixels below which a figure without a width of its own is scrolled."""


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A figure with its data, or data alone, in a page."""

    name: str
    """Name that is unique in the page and valid as a file name."""
    table: str
    """Name under which its data are stored."""
    rows: int
    """Number of rows of its data."""
    held: int
    """Number of rows in the page, from the first."""
    title: str = ""
    """Empty for data alone, as are the next two fields."""
    height: int = 0
    width: int = 0
    """Page width in pixels below which it is scrolled."""

    @property
    def formats(self) -> tuple[str, ...]:
        """File formats in which it can be downloaded."""
        return ("csv", "svg", "png") if self.title else ("csv",)


@dataclass
class Figures:
    """The figures of a page, collected while its sections are written."""

    drawn: dict[str, str] = field(default_factory=dict)
    """Name that is unique and valid as a file name -> JSON of the figure in placeholder colours."""
    packed: list[str] = field(default_factory=list)
    """Script elements of the figures and data."""
    tables: dict[str, str] = field(default_factory=dict)
    """Data -> name of the script element that contains them: data of several figures are stored once."""

    def add(self, name: str, figure: go.Figure, data: Data) -> Embedded:
        """Add a figure, drawn with ``theme.PLACEHOLDER``, and its data."""
        self.drawn[name] = _content(figure)
        self.packed.append(_packed(f"figure-{name}", self.drawn[name]))
        layout = figure.layout
        return replace(
            self.add_data(name, data),
            title=html.unescape(layout.title.text),
            height=int(layout.height),
            width=(layout.meta or {}).get("min_width", _WIDE),
        )

    def add_data(self, name: str, data: Data) -> Embedded:
        """Add data without a figure."""
        held = Data(columns=data.columns, rows=data.rows[:_MAX_ROWS])
        table = "".join(",".join(row) + "\r\n" for row in held.fields())
        if table not in self.tables:
            self.tables[table] = name
            self.packed.append(_packed(f"data-{name}", table))
        return Embedded(name=name, table=self.tables[table], rows=len(data.rows), held=len(held.rows))

    def scripts(self) -> str:
        """Return the script elements of the figures and data and, if there is a figure, of the library and themes."""
        if not self.drawn:
            return "".join(self.packed)
        themes = {theme.name: dict(zip(colours(PLACEHOLDER), colours(theme), strict=True)) for theme in (LIGHT, DARK)}
        shared = json.dumps({"config": CONFIG, "template": _template(), "themes": themes})
        return "".join((_library(), _packed("shared", shared), *self.packed))


def in_theme(figure: str, theme: Theme) -> dict[str, Any]:
    """Return a figure of `Figures.drawn` in the colours of a theme, with its template, ready for Plotly."""
    text = figure
    for stand_in, colour in zip(colours(PLACEHOLDER), colours(theme), strict=True):
        text = text.replace(stand_in, colour)
    content: dict[str, Any] = json.loads(text)
    content["layout"]["template"] = theme.template().to_plotly_json()
    return content


def _content(figure: go.Figure) -> str:
    """Return data and layout without what a page doesn't need: the template, cell ids, excess digits."""
    content = json.loads(figure.to_json(), parse_float=lambda text: float(f"{float(text):.5g}"))
    content["layout"].pop("template", None)
    for trace in content["data"]:
        trace.pop("customdata", None)  # used only by clicks in the dashboard
    return json.dumps({"data": content["data"], "layout": content["layout"]}, separators=(",", ":"))


def _template() -> Any:
    empty = go.Figure(layout={"template": PLACEHOLDER.template()})
    return json.loads(empty.to_json())["layout"]["template"]


@functools.cache
def _library() -> str:
    return _packed("plotly", get_plotlyjs())


def _packed(name: str, text: str) -> str:
    data = base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
    return f'<script type="text/plain" id="packed-{name}">{data}</script>\n'
