"""Building blocks of a page: figures, each with its data as a table and a download, and texts.

A page derives its blocks from a scene; a block is found again by its name, so the browser holds names only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dash import dcc, html
from dash.development.base_component import Component

from dashboards.address import Address
from dashboards.catalog import Loaded
from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.exhibit import Computed
from sensitivity.figures.tables import Table
from sensitivity.figures.theme import CONFIG, Theme

_CONFIG: Any = CONFIG
Width = Literal["wide", "half"]
MAX_ROWS = 300
"""Largest number of rows of a table in a page; the download has all."""
_MAX_NOTES = 3
NOT_DRAWN = {"visibility": "hidden", "height": "0px", "overflow": "hidden"}
"""Style of the place of a figure that isn't drawn yet: it already has its width, so the figure is drawn only once."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Context of a page: its address, the study, its results under the view, and the theme."""

    address: Address
    loaded: Loaded
    results: StudyResults
    theme: Theme
    href: Callable[[Address], str]
    """Returns the URL of an address, including the server's prefix."""
    version: str
    """Changes with the results of all studies that are shown."""
    may_run: bool = False
    """Whether studies can be started from the browser."""


Show = Callable[[Scene], Computed[Any]]
"""Computes an exhibit. Raises NothingToShowError, or StorageError if curves can't be read."""
Step = Callable[[StudyResults], object]


@dataclass(frozen=True, kw_only=True)
class FigureBlock:
    """A figure with its data."""

    name: str
    label: str
    """What it shows; also the text alternative for screen readers."""
    show: Show
    depends: tuple[str, ...]
    """Parts of the view and the address that it depends on, besides the results and the theme."""
    options: tuple[str, ...] = ()
    """Names of the options that it reads from the address."""
    choosable: bool = False
    """Whether a click on it selects a cell."""
    of_runs: bool = False
    """Whether a click on it opens a run."""
    heading: tuple[str, str] | None = None
    """A heading above it, and the address to which the heading links."""
    width: Width = "wide"
    steps: tuple[Step, ...] = ()
    """Slow steps, as in an exhibit."""


@dataclass(frozen=True, kw_only=True)
class TextBlock:
    """A text that is updated with the results."""

    name: str
    content: Callable[[Scene], Any]
    depends: tuple[str, ...] | None = None
    """Parts of the view and the address that it depends on; None means the whole address."""
    options: tuple[str, ...] = ()
    show: Show | None = None
    """Computes the exhibit whose data can be shown and downloaded."""
    label: str = ""
    width: Width = "wide"
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FixedBlock:
    """A component that updates itself, such as a control or a grid."""

    name: str
    """Changes when the component has to be rebuilt."""
    content: Callable[[Scene], Component]
    width: Width = "wide"


Block = FigureBlock | TextBlock | FixedBlock


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page of a study: sections of the catalogue, and further blocks between their exhibits."""

    name: str
    title: str
    lead: str
    """The question that it answers, in a sentence."""
    parts: tuple[str, ...]
    """Names of sections, each with its introduction, and of exhibits that are shown outside their section."""
    first: tuple[Block, ...] = ()
    before: Mapping[str, tuple[Block, ...]] = field(default_factory=dict)
    """Name of an exhibit -> blocks shown before it; below: blocks shown after it."""
    after: Mapping[str, tuple[Block, ...]] = field(default_factory=dict)
    dock: tuple[Block, ...] = ()
    """Blocks at the side of the page that stay visible: what was selected in its figures."""
    further: tuple[Block, ...] = ()
    """Blocks contained in other blocks of the page."""


def block_version(scene: Scene, block: FigureBlock | TextBlock) -> str:
    """Return a token that changes whenever a block has to be redrawn for a reason other than the theme."""
    address, results = scene.address, scene.results
    if block.depends is None:
        return repr((scene.version, address))
    # Values that the view leaves open are decided elsewhere: the metric, for example, by the primary target.
    decided = {
        "filters": results.view.filters,
        "metric": results.metric.name,
        "tolerance": results.view.tolerance,
        "target": results.target,
        "margins": results.margins,
        "cells": (address.cell_a, address.cell_b),
        "rows": address.listing.where,
        "chosen": address.listing.chosen,
    }
    shown = [decided[name] if name in decided else getattr(address, name) for name in block.depends]
    return repr((scene.version, shown, [address.options.get(name) for name in block.options]))


_FILTERS = ("optimizer", "batch", "box")
_NAMED: Mapping[str, tuple[str, ...]] = {
    "filters": _FILTERS,
    "metric": ("metric", *_FILTERS),
    "tolerance": ("within",),
    "target": ("target",),
    "margins": (),
    "cells": ("cell", "beside"),
    "cell_a": ("cell",),
    "cell_b": ("beside",),
    "rows": ("where",),
    "chosen": ("chosen",),
    "run": ("run",),
    "study": ("study",),
}
"""Name in ``depends`` -> its names in an address; the default metric depends on the filters."""


def address_names(block: FigureBlock | TextBlock) -> list[str] | None:
    """Return the names in an address that affect a block; None means all."""
    if block.depends is None:
        return None
    return sorted({*block.options, *(name for what in block.depends for name in _NAMED[what])})


def aria(**names: str) -> dict[str, Any]:
    """Return ``aria-`` attributes, to be passed with ``**``."""
    return {f"aria-{name}": value for name, value in names.items()}


def place_block(block: Block, scene: Scene) -> Component:
    """Return the place of a block in its page, which callbacks fill."""
    if isinstance(block, FixedBlock):
        return html.Div(block.content(scene), className=f"block {block.width}")
    if isinstance(block, TextBlock):
        with_data = block.show is not None
        content = [
            dcc.Store(id={"type": "written", "name": block.name}),
            _request_stores(block, themed=False),
            html.Div(id={"type": "text", "name": block.name}),
            *(_data_place(block.name, block.label) if with_data else []),
        ]
        return html.Div(content, className=f"block text {'card ' if with_data else ''}{block.width}")
    return _figure_place(block)


def _figure_place(block: FigureBlock) -> Component:
    name = block.name
    hint = " Arrow keys move between cells, Enter chooses one." if block.choosable else ""
    hint = " Arrow keys move between runs, Enter opens one." if block.of_runs else hint
    marked = block.choosable or block.of_runs
    graph = dcc.Graph(id={"type": "figure", "name": name}, config=_CONFIG, style=NOT_DRAWN)
    canvas = html.Div(
        dcc.Loading(graph, type="dot", delay_show=400, color="var(--accent)"),
        id={"type": "canvas", "name": name},
        className=f"canvas{' choosable' if marked else ''}{' of-runs' if block.of_runs else ''}",
        role="application" if marked else "group",
        tabIndex="0" if marked else None,
        **aria(label=f"{block.label}.{hint}"),
    )
    above = [] if block.heading is None else [html.H2(dcc.Link(block.heading[0], href=block.heading[1]))]
    return html.Figure(
        [
            *above,
            dcc.Store(id={"type": "drawn", "name": name}),
            _request_stores(block, themed=True),
            html.P(id={"type": "note", "name": name}, className="note"),
            canvas,
            html.Div(id={"type": "beside", "name": name}, className="beside-figure"),
            *_data_place(name, block.label),
        ],
        className=f"block card {block.width}",
    )


def _request_stores(block: FigureBlock | TextBlock, *, themed: bool) -> Component:
    """Return the stores that ``page.js`` changes when a block has to be redrawn."""
    store: Component = dcc.Store(
        id={"type": "ask", "name": block.name}, data={"of": address_names(block), "themed": themed}
    )
    return store


def _data_place(name: str, label: str) -> list[Component]:
    """Return the buttons for a block's data, and the place where the data are shown."""
    tools = html.Div(
        [
            html.Button("Data", id={"type": "show-data", "name": name}, className="quiet", **aria(expanded="false")),
            html.Button("CSV", id={"type": "csv", "name": name}, className="quiet", title=f"Download: {label}"),
            dcc.Download(id={"type": "download", "name": name}),
        ],
        className="tools",
    )
    stores = [dcc.Store(id={"type": kind, "name": name}) for kind in ("rows", "ask-rows")]
    return [tools, *stores, html.Div(id={"type": "data", "name": name}, className="data")]


def note_lists(texts: Sequence[str]) -> list[Component]:
    """Return notes on how to read a block, with all but the first few folded."""
    return [folded_list(texts, _MAX_NOTES, "notes")] if texts else []


def folded_list(texts: Sequence[str], most: int, kind: str = "") -> Component:
    """Return a list in which items beyond `most` are folded."""
    rest = texts[most:]
    more = [html.Details([html.Summary(f"{len(rest):,} more"), html.Ul(list(map(html.Li, rest)))])] if rest else []
    return html.Div([html.Ul(list(map(html.Li, texts[:most]))), *more], className=kind)


def html_table(table: Table, *, most: int = MAX_ROWS) -> Component:
    """Return a table, cut to its first rows if it is long."""
    caption = table.caption + _cut_note(len(table.rows), most)

    def kind(column: int) -> str:
        return "" if column < table.text_columns else "n"

    head = [html.Th(name, scope="col", className=kind(at)) for at, name in enumerate(table.header)]
    rows = [[html.Td(_text(v), className=kind(at)) for at, v in enumerate(row)] for row in table.rows[:most]]
    return html.Div(
        html.Table([html.Caption(caption), html.Thead(html.Tr(head)), html.Tbody([html.Tr(row) for row in rows])]),
        className="scroll",
        tabIndex="0",
        role="region",
        **aria(label=caption),
    )


def folded(table: Table) -> Component:
    """Return a table that unfolds when its caption is clicked."""
    return html.Details([html.Summary(table.caption.partition(". ")[0]), html_table(table)])


def data_rows(shown: Computed[Any], label: str) -> dict[str, Any]:
    """Return the first rows of an exhibit's data, which ``page.js`` puts into the page.

    One component per cell would keep a browser busy for seconds.
    """
    data = shown.data
    return {
        "caption": f"{label}.{_cut_note(len(data.rows), MAX_ROWS)}",
        "header": list(data.columns),
        "rows": [[_text(value) for value in row] for row in data.rows[:MAX_ROWS]],
        "numbers": [any(isinstance(row[at], (int, float)) for row in data.rows) for at in range(len(data.columns))],
    }


def _cut_note(length: int, most: int) -> str:
    return f" The first {most:,} of {length:,} rows; the download has all." if length > most else ""


def _text(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return "–" if value != value else f"{value:.4g}"
    return value
