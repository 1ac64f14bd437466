"""What a page is made of: figures, each with its data as a table and a download, and texts.

A page lists its blocks from a scene; a block is found again by its name, so the browser holds names only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import plotly.graph_objects as go
from dash import dcc, html
from dash.development.base_component import Component

from dashboards.results import Results
from dashboards.view import View
from sensitivity.figures.theme import CONFIG, Theme

_CONFIG: Any = CONFIG
Width = Literal["wide", "half"]
MOST_ROWS = 300
"""Of a table in a page; the download has all."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text and numbers beside a figure."""

    header: tuple[str, ...]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a page shows: the view, its study's results, and the theme."""

    view: View
    results: Results
    theme: Theme
    href: Callable[[View], str]
    """The address of a view."""
    version: str
    """Changes with the results of all studies that are shown."""


@dataclass(frozen=True, kw_only=True)
class FigureBlock:
    """A figure with its data."""

    name: str
    label: str
    """What it shows, for those who can't see it."""
    draw: Callable[[Scene], go.Figure | str]
    """The figure, or why there is none."""
    table: Callable[[Scene], Table]
    depends: tuple[str, ...] = ("filters", "metric", "tolerance", "target", "unit", "surface")
    """What of the view it shows; it stays as it is while that, the results and the theme do."""
    choosable: bool = False
    """Whether a click on it chooses a cell."""
    heading: tuple[str, str] | None = None
    """A heading above it, and the address that it leads to."""
    width: Width = "wide"


@dataclass(frozen=True, kw_only=True)
class TextBlock:
    """Something written, renewed with the results."""

    name: str
    content: Callable[[Scene], Any]
    depends: tuple[str, ...] | None = None
    """As of a figure; None is all of the view."""
    late: bool = False
    """Whether it takes long, and the rest of the page goes first."""
    reads: Callable[[Results], object] | None = None
    """What a late one reads before: in no turn, for reading holds up nobody."""
    steps: tuple[Callable[[Results], object], ...] = ()
    """Results that a late one needs, each computed in a turn of its own, so that a click never waits for all."""
    width: Width = "wide"


@dataclass(frozen=True, kw_only=True)
class FixedBlock:
    """A component that looks after itself, such as a control or a grid."""

    content: Callable[[Scene], Component]
    width: Width = "wide"


Block = FigureBlock | TextBlock | FixedBlock


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page of a study."""

    name: str
    title: str
    lead: str
    """What it answers, in a sentence."""
    blocks: Callable[[Scene], Sequence[Block]]
    further: tuple[Block, ...] = ()
    """Blocks that others of the page hold."""

    def block(self, scene: Scene, name: str) -> FigureBlock | TextBlock | None:
        """Return the block of that name."""
        named = (block for block in (*self.blocks(scene), *self.further) if not isinstance(block, FixedBlock))
        return next((block for block in named if block.name == name), None)


def seen(scene: Scene, block: FigureBlock | TextBlock) -> str:
    """Return what changes whenever a block has to be renewed, the theme apart."""
    if block.depends is None:
        return repr((scene.version, scene.view))
    results = scene.results
    # What the view leaves open is decided elsewhere: the target by the metric, for one.
    decided = {"metric": results.metric.name, "target": results.target}
    return repr((scene.version, [decided.get(name, getattr(scene.view, name)) for name in block.depends]))


def aria(**names: str) -> dict[str, Any]:
    """Return ``aria-`` attributes, to be given with ``**``."""
    return {f"aria-{name}": value for name, value in names.items()}


def place_block(block: Block, scene: Scene) -> Component:
    """Return the place of a block in its page; callbacks fill it."""
    if isinstance(block, FixedBlock):
        return html.Div(block.content(scene), className=f"block {block.width}")
    if isinstance(block, TextBlock):
        return html.Div(
            [dcc.Store(id={"type": "written", "name": block.name}), html.Div(id={"type": "text", "name": block.name})],
            className=f"block text {block.width}",
        )
    return _figure_place(block)


def _figure_place(block: FigureBlock) -> Component:
    name = block.name
    hint = " Arrow keys move between cells, Enter chooses one." if block.choosable else ""
    graph = dcc.Graph(id={"type": "figure", "name": name}, config=_CONFIG, style={"display": "none"})
    canvas = html.Div(
        dcc.Loading(graph, type="dot", delay_show=400, color="var(--accent)"),
        id={"type": "canvas", "name": name},
        className="canvas choosable" if block.choosable else "canvas",
        role="application" if block.choosable else "group",
        tabIndex="0" if block.choosable else None,
        **aria(label=f"{block.label}.{hint}"),
    )
    tools = html.Div(
        [
            html.Button("Data", id={"type": "show-data", "name": name}, className="quiet", **aria(expanded="false")),
            html.Button("CSV", id={"type": "csv", "name": name}, className="quiet", title=f"Download: {block.label}"),
            dcc.Download(id={"type": "download", "name": name}),
        ],
        className="tools",
    )
    above = [] if block.heading is None else [html.H2(dcc.Link(block.heading[0], href=block.heading[1]))]
    return html.Figure(
        [
            *above,
            dcc.Store(id={"type": "drawn", "name": name}),
            html.P(id={"type": "note", "name": name}, className="note"),
            canvas,
            tools,
            html.Div(id={"type": "data", "name": name}, className="data"),
        ],
        className=f"block card {block.width}",
    )


def html_table(table: Table, caption: str, *, most: int = MOST_ROWS) -> Component:
    """Return a table, its first rows if it is long."""
    kept = list(table.rows[:most])
    if len(table.rows) > most:
        caption += f" The first {most:,} of {len(table.rows):,} rows; the download has all."
    head = html.Tr([html.Th(name, scope="col") for name in table.header])
    body = [html.Tr([_cell(value) for value in row]) for row in kept]
    return html.Div(
        html.Table([html.Caption(caption), html.Thead(head), html.Tbody(body)]),
        className="scroll",
        tabIndex="0",
        role="region",
        **aria(label=caption),
    )


def _cell(value: Any) -> Component:
    if isinstance(value, bool) or value is None:
        return html.Td("" if not value else "yes")
    if isinstance(value, int):
        return html.Td(f"{value:,}", className="n")
    if isinstance(value, float):
        return html.Td("–" if value != value else f"{value:.4g}", className="n")
    return html.Td(value)
