"""Figures inside a page: plotly.js once and every figure's data, each compressed with gzip in base64.

The page unpacks them with the browser's own ``DecompressionStream`` and draws a figure when it scrolls into
view, so that a report of many figures opens at once. Each figure is there in both themes.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from sensitivity.figures.labels import safe
from sensitivity.figures.theme import CONFIG, DARK, LIGHT, Theme


@dataclass
class Figures:
    """The figures of a page, collected while its sections are written."""

    drawn: dict[str, dict[str, object]] = field(default_factory=dict)

    def add(self, draw: Callable[[Theme], go.Figure], data_table: str) -> str:
        """Draw a figure in both themes and return its place in the page, with its data beside it."""
        name = f"figure-{len(self.drawn) + 1}"
        light = draw(LIGHT)
        self.drawn[name] = {
            "light": json.loads(light.to_json()),
            "dark": json.loads(draw(DARK).to_json()),
        }
        title, height = safe(light.layout.title.text), int(light.layout.height)
        return (
            f'<figure class="plot"><div class="scroll"><div class="canvas" id="{name}" role="img"'
            f' aria-label="{title}" style="height:{height}px"></div></div>'
            f"<details><summary>Data of this figure</summary>{data_table}</details></figure>"
        )

    def scripts(self) -> str:
        """Return the script elements that hold the library and the figures; none without a figure."""
        if not self.drawn:
            return ""
        content = {"config": CONFIG, "figures": self.drawn}
        return _packed("plotly", get_plotlyjs()) + _packed("figures", json.dumps(content))


def _packed(name: str, text: str) -> str:
    data = base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
    return f'<script type="text/plain" id="packed-{name}">{data}</script>\n'
