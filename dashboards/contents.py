"""Fills the blocks of a page with figures, texts and data, and redraws them when their content changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go
from dash import ALL, MATCH, ClientsideFunction, Dash, Input, Output, State, html, no_update
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate

from dashboards.address import parse
from dashboards.blocks import NOT_DRAWN, FigureBlock, Scene, TextBlock, block_version, data_rows
from dashboards.exhibits import notes_and_tables
from dashboards.figure_updates import frame_of, patch_of
from dashboards.pages import block_of, compare, pages
from dashboards.shell import error_note
from dashboards.site import Site
from sensitivity.figures.exhibit import Computed
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.study.errors import StorageError, UserError

_NEAR_PX = 5
EMPTY = "No run passes the filters. Widen the prior box, or choose more optimizers or batch sizes."


def register(app: Dash, site: Site) -> None:
    """Connect the blocks of all pages."""
    _requests(app)
    _figures(app, site)
    _texts(app, site)
    _data(app, site)


def _requests(app: Dash) -> None:
    app.clientside_callback(  # type: ignore[no-untyped-call]
        ClientsideFunction("sensitivity", "ask"),
        Output({"type": "ask", "name": ALL}, "data"),
        Input("url", "search"),
        Input("version", "data"),
        Input("theme", "data"),
        State("url", "pathname"),
        State("shown", "data"),
        State("arrived", "data"),
        State({"type": "ask", "name": ALL}, "data"),
    )


def _figures(app: Dash, site: Site) -> None:
    @app.callback(
        Output({"type": "figure", "name": MATCH}, "figure"),
        Output({"type": "figure", "name": MATCH}, "style"),
        Output({"type": "note", "name": MATCH}, "children"),
        Output({"type": "beside", "name": MATCH}, "children"),
        Output({"type": "drawn", "name": MATCH}, "data"),
        Input({"type": "ask", "name": MATCH}, "data"),
        State("theme", "data"),
        State("url", "pathname"),
        State("url", "search"),
        State({"type": "drawn", "name": MATCH}, "data"),
        State({"type": "drawn", "name": MATCH}, "id"),
    )
    def figure(
        ask: dict[str, Any] | None,
        theme: str | None,
        pathname: str,
        search: str,
        before: dict[str, str] | None,
        block_id: dict[str, str],
    ) -> tuple[Any, ...]:
        if "key" not in (ask or {}):  # the browser will ask in a moment
            raise PreventUpdate
        scene, block = _found(site, pathname, search, theme, block_id["name"])
        if not isinstance(block, FigureBlock):
            raise PreventUpdate
        key = f"{theme} {block_version(scene, block)}"
        if before is not None and before.get("key") == key:
            raise PreventUpdate

        def draw() -> Drawn:
            with site.in_turn(scene, block):
                return drawn(block, scene)

        try:
            found = site.figure_cache.get((scene.address.study, block.name, key), draw)
        except StorageError as error:  # part of the curves is damaged; other figures are still shown
            found = Drawn(figure=None, why=str(error))
        figure = found.figure
        if figure is None:
            return no_update, NOT_DRAWN, found.why, found.below, {"key": key, "frame": ""}
        now = {"key": key, "frame": frame_of(figure)}
        same = before is not None and before.get("frame") == now["frame"]
        style = {"height": f"{int(figure.layout.height or 450)}px"}
        if (width := (figure.layout.meta or {}).get("min_width")) is not None:  # scrolls in its frame if narrower
            style["minWidth"] = f"{int(width)}px"
        return patch_of(figure) if same else figure, style, "", found.below, now


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Content of a figure's place."""

    figure: go.Figure | None
    why: str = ""
    """Reason why there is no figure."""
    below: list[Component] = field(default_factory=list)


def drawn(block: FigureBlock, scene: Scene) -> Drawn:
    """Return a block's figure with its notes and tables, or the reason why there is none.

    Raises:
        StorageError: the curves that it needs can't be read.
    """
    if not len(scene.results.runs):
        return Drawn(figure=None, why=EMPTY)
    below: list[Component] = []
    try:
        found = block.show(scene)
        below = notes_and_tables(found)
        figure = found.figure(scene.theme)
    except NothingToShowError as error:
        return Drawn(figure=None, why=str(error), below=below)
    if figure is not None and block.choosable:  # marks over a cell don't intercept the pointer
        figure.update_layout(hoverdistance=_NEAR_PX)
    return Drawn(figure=figure, below=below)


def _texts(app: Dash, site: Site) -> None:
    @app.callback(
        Output({"type": "text", "name": MATCH}, "children"),
        Output({"type": "written", "name": MATCH}, "data"),
        Input({"type": "ask", "name": MATCH}, "data"),
        State("url", "pathname"),
        State("url", "search"),
        State({"type": "written", "name": MATCH}, "data"),
        State({"type": "written", "name": MATCH}, "id"),
    )
    def text(
        ask: dict[str, Any] | None, pathname: str, search: str, before: str | None, name: dict[str, str]
    ) -> tuple[Any, str]:
        if "key" not in (ask or {}):  # the browser will ask in a moment
            raise PreventUpdate
        scene, block = _found(site, pathname, search, None, name["name"])
        if not isinstance(block, TextBlock):
            raise PreventUpdate
        key = block_version(scene, block)
        if before == key:
            raise PreventUpdate
        with site.in_turn(scene, block):
            return written(block, scene), key


def written(block: TextBlock, scene: Scene) -> Any:
    """Return the content of a block, or the reason why there is none."""
    if not len(scene.results.runs):
        return html.P(EMPTY, className="note nothing")
    try:
        return block.content(scene)
    except NothingToShowError as error:
        heading = [html.H2(block.label)] if block.label else []
        return [*heading, html.P(str(error), className="note nothing")]
    except StorageError as error:
        return error_note(str(error))


def _found(
    site: Site, pathname: str, search: str, theme: str | None, name: str
) -> tuple[Scene, FigureBlock | TextBlock | None]:
    """Return the scene of an address and the block with this name; if there is none, cancel the update."""
    address = parse(site.inner(pathname), search)
    if address.study is None and address.page == "compare":
        return compare.found(site, address, theme, name)
    page = pages().get(address.page)
    if address.study is None or page is None:
        raise PreventUpdate
    try:
        scene, _ = site.scene(address, theme)
    except UserError:
        raise PreventUpdate from None
    return scene, block_of(page, scene, name)


def _data(app: Dash, site: Site) -> None:
    @app.callback(
        Output({"type": "rows", "name": MATCH}, "data"),
        Input({"type": "ask-rows", "name": MATCH}, "data"),
        State("url", "pathname"),
        State("url", "search"),
        State({"type": "show-data", "name": MATCH}, "id"),
        prevent_initial_call=True,
    )
    def show(ask: str | None, pathname: str, search: str, name: dict[str, str]) -> dict[str, Any] | None:
        if ask is None:
            return None
        found = _computed(site, pathname, search, name["name"])
        if isinstance(found, str):
            return {"caption": found, "header": [], "rows": [], "numbers": []}
        _, block, computed = found
        return data_rows(computed, block.label)

    app.clientside_callback(  # type: ignore[no-untyped-call]
        ClientsideFunction("sensitivity", "opened"),
        Output({"type": "ask-rows", "name": MATCH}, "data"),
        Output({"type": "show-data", "name": MATCH}, "aria-expanded"),
        Input({"type": "show-data", "name": MATCH}, "n_clicks"),
        Input({"type": "ask", "name": MATCH}, "data"),
        State({"type": "ask-rows", "name": MATCH}, "data"),
        prevent_initial_call=True,
    )

    app.clientside_callback(  # type: ignore[no-untyped-call]
        ClientsideFunction("sensitivity", "table"),
        Output({"type": "data", "name": MATCH}, "className"),
        Input({"type": "rows", "name": MATCH}, "data"),
        State({"type": "data", "name": MATCH}, "id"),
        prevent_initial_call=True,
    )

    @app.callback(
        Output({"type": "download", "name": MATCH}, "data"),
        Input({"type": "csv", "name": MATCH}, "n_clicks"),
        State("url", "pathname"),
        State("url", "search"),
        State({"type": "csv", "name": MATCH}, "id"),
        prevent_initial_call=True,
    )
    def download(clicks: int | None, pathname: str, search: str, name: dict[str, str]) -> dict[str, Any]:
        if not clicks:
            raise PreventUpdate
        found = _computed(site, pathname, search, name["name"])
        if isinstance(found, str):
            raise PreventUpdate
        scene, _, computed = found
        text = "".join(",".join(row) + "\r\n" for row in computed.data.fields())
        return {"content": text, "filename": f"{scene.loaded.spec.name}-{computed.name}.csv", "type": "text/csv"}


def _computed(
    site: Site, pathname: str, search: str, name: str
) -> tuple[Scene, FigureBlock | TextBlock, Computed[Any]] | str:
    """Return a block, its scene and its computed exhibit, or the reason why there is nothing to show.

    Cancels the update if there is no such block or it has no data.
    """
    scene, block = _found(site, pathname, search, None, name)
    if block is None or block.show is None:
        raise PreventUpdate
    if not len(scene.results.runs):
        return EMPTY
    try:
        return scene, block, block.show(scene)
    except (NothingToShowError, StorageError) as error:
        return str(error)
