"""Colours and template of all figures, light and dark. Category colours are those of Okabe and Ito (2008)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "showSendToCloud": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
    "toImageButtonOptions": {"format": "svg"},
}
"""Plotly configuration wherever a figure is displayed: no logo, no button that sends data to a cloud."""

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "pentagon")


@dataclass(frozen=True, kw_only=True)
class Style:
    """Colour, dash and symbol of an optimizer in all figures."""

    colour: str
    dash: str
    symbol: str


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours of a figure."""

    name: str
    ink: str
    muted: str
    grid: str
    paper: str
    hatch_fill: str
    """Background of a cell without a value."""
    hatch_line: str
    warning: str
    failed: str
    lean: tuple[str, str, str]
    """Colours of a difference: below zero, at zero, above zero."""
    categories: tuple[str, ...]
    """Colours of optimizers, in the order of the study."""

    def category(self, position: int) -> str:
        """Return the colour of the optimizer at `position`. Colours repeat, so dashes differ as well."""
        return self.categories[position % len(self.categories)]

    def style(self, position: int) -> Style:
        """Return the style of the optimizer at `position`. Colour, dash and symbol each distinguish up to six.

        When colours repeat, dashes and symbols shift by one, so up to 36 optimizers have distinct styles.
        """
        turn, k = divmod(position, len(self.categories))
        other = (k + turn) % len(DASHES)
        return Style(colour=self.categories[k], dash=DASHES[other], symbol=SYMBOLS[other])

    @functools.cache  # noqa: B019  (themes are few and live as long as the process)
    def template(self) -> go.layout.Template:
        """Return the Plotly template."""
        axis = {
            "gridcolor": self.grid,
            "linecolor": self.grid,
            "zeroline": False,
            "ticks": "",
            "ticklabelstandoff": 4,
            "tickfont": {"size": 11, "color": self.muted},
            "title": {"font": {"size": 12, "color": self.ink}, "standoff": 10},
            "automargin": True,
        }
        return go.layout.Template(
            layout={
                "font": {"family": FONT, "size": 12, "color": self.ink},
                "title": {
                    "font": {"size": 17, "color": self.ink},
                    "subtitle": {"font": {"size": 12, "color": self.muted}},
                    "x": 0.0,
                    "xref": "paper",
                    "xanchor": "left",
                    "yref": "container",
                    "y": 1.0,
                    "yanchor": "top",
                    "pad": {"t": 14},
                },
                "paper_bgcolor": self.paper,
                "plot_bgcolor": self.paper,
                "hoverlabel": {
                    "font": {"family": FONT, "size": 12, "color": self.ink},
                    "bgcolor": self.paper,
                    "bordercolor": self.muted,
                    "align": "left",
                },
                "legend": {
                    "orientation": "h",
                    "yref": "container",
                    "y": 0.0,
                    "yanchor": "bottom",
                    "x": 0.0,
                    "font": {"size": 11, "color": self.muted},
                    "itemclick": False,
                    "itemdoubleclick": False,
                },
                "xaxis": axis,
                "yaxis": axis,
                "coloraxis": {
                    "colorbar": {
                        "outlinewidth": 0,
                        "thickness": 14,
                        "tickfont": {"size": 11, "color": self.muted},
                        "title": {"font": {"size": 12, "color": self.ink}, "side": "top"},
                    }
                },
            }
        )


LIGHT = Theme(
    name="light",
    ink="#1c2430",
    muted="#5a6675",
    grid="#e3e7ec",
    paper="#ffffff",
    hatch_fill="#ececec",
    hatch_line="#9aa1aa",
    warning="#d55e00",
    failed="#a8437f",
    lean=("#d55e00", "#f7f7f7", "#0072b2"),
    categories=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
)
DARK = Theme(
    name="dark",
    ink="#e8ecf1",
    muted="#a3adba",
    grid="#333b47",
    paper="#171c24",
    hatch_fill="#2a313b",
    hatch_line="#78828f",
    warning="#ff8a3d",
    failed="#e08fc0",
    lean=("#e69f00", "#222831", "#56b4e9"),
    categories=("#56b4e9", "#e69f00", "#35c79a", "#e08fc0", "#f0e442", "#9ecbf0"),
)


def colours(theme: Theme) -> tuple[str, ...]:
    """Return all colours of a theme, in the same order for every theme."""
    single = (theme.ink, theme.muted, theme.grid, theme.paper, theme.hatch_fill, theme.hatch_line)
    return (*single, theme.warning, theme.failed, *theme.lean, *theme.categories)


def _placeholder_theme() -> Theme:
    names = iter(f"#fade{k:02x}" for k in range(len(colours(LIGHT))))
    single = {name: next(names) for name in ("ink", "muted", "grid", "paper", "hatch_fill", "hatch_line")}
    warning, failed, *rest = names
    return Theme(
        name="any",
        **single,
        warning=warning,
        failed=failed,
        lean=(rest[0], rest[1], rest[2]),
        categories=tuple(rest[3:]),
    )


PLACEHOLDER = _placeholder_theme()
"""Placeholder colours, each for one colour of a theme: a figure drawn with them can be painted in any theme later."""
