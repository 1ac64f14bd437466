"""How address, controls, blocks and new results move each other.

The address is the one place that says what is seen. Controls and clicks write it; the router fills the page from it,
unless the page that stands already follows by itself; every block renews itself when the address, the version of the
study or the theme changes.
"""

from __future__ import annotations

import contextlib
import csv
import io
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go
from dash import ALL, MATCH, ClientsideFunction, Dash, Input, Output, State, no_update
from dash.exceptions import PreventUpdate

from dashboards.blocks import FigureBlock, Scene, TextBlock, html_table, seen
from dashboards.figure_updates import frame_of, patch_of
from dashboards.filters import filter_bar, filtered_words, with_controls
from dashboards.pages import PAGES, compare
from dashboards.shell import navigation, study_page, trouble, trouble_note
from dashboards.site import Site
from dashboards.top import TopPage
from dashboards.view import View, parse, search_of
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.study.errors import StorageError, UserError

_NEAR_PX = 5
_NOTHING = "Nothing to show here"
_EMPTY = "The filters leave no run. Widen the prior box, or choose more optimizers or batch sizes."


def register(app: Dash, site: Site, tops: dict[str, TopPage]) -> None:
    """Connect everything that all pages share."""
    _theme(app)
    _router(app, site, tops)
    _controls(app, site)
    _ticks(app, site, tops)
    _figures(app, site)
    _marks(app)
    _texts(app, site)
    _data(app, site)


def _theme(app: Dash) -> None:
    app.clientside_callback(  # type: ignore[no-untyped-call]
        ClientsideFunction("sensitivity", "theme"),
        Output("theme", "data"),
        Output("mantine", "forceColorScheme"),
        Output("theme-switch", "children"),
        Input("theme-switch", "n_clicks"),
        State("theme", "data"),
    )


def _router(app: Dash, site: Site, tops: dict[str, TopPage]) -> None:
    @app.callback(
        Output("page", "children"),
        Output("bar", "children"),
        Output("nav", "children"),
        Output("shown", "data"),
        Output("version", "data"),
        Input("url", "pathname"),
        Input("url", "search"),
        State("shown", "data"),
    )
    def route(pathname: str, search: str, shown: dict[str, str] | None) -> tuple[Any, ...]:
        view = parse(site.inner(pathname), search)
        nav = navigation(site, view)
        now = {"study": view.study or "", "page": view.page, "search": search or ""}
        if shown == now:  # the page's own controls wrote the address, and its blocks follow it
            return no_update, no_update, nav, no_update, no_update
        if view.page not in (tops if view.study is None else PAGES):
            return trouble(_NOTHING, "There is no such page."), None, nav, now, None
        try:
            if view.study is None:
                page = tops[view.page].content(view)
                return page, None, nav, now, tops[view.page].version(view)
            scene, missing = site.scene(view, None)
        except UserError as error:
            return trouble(_NOTHING, str(error)), None, nav, now, None
        page = study_page(PAGES[view.page], scene, missing)
        return page, filter_bar(scene.results), nav, now, scene.results.loaded.version


def _controls(app: Dash, site: Site) -> None:
    @app.callback(
        Output("url", "search"),
        Output("shown", "data", allow_duplicate=True),
        Input({"type": "filter", "name": ALL}, "value"),
        Input({"type": "side", "optimizer": ALL, "parameter": ALL}, "value"),
        State({"type": "filter", "name": ALL}, "id"),
        State({"type": "side", "optimizer": ALL, "parameter": ALL}, "id"),
        State("url", "pathname"),
        State("url", "search"),
        State("shown", "data"),
        prevent_initial_call=True,
    )
    def control(
        values: list[Any],
        sides: list[Any],
        names: list[dict[str, str]],
        side_names: list[dict[str, str]],
        pathname: str,
        search: str,
        shown: dict[str, str] | None,
    ) -> tuple[Any, ...]:
        view = parse(site.inner(pathname), search)
        if view.study is None:
            raise PreventUpdate
        try:
            scene, _ = site.scene(view, None)
        except UserError:
            raise PreventUpdate from None
        given = {name["name"]: value for name, value in zip(names, values, strict=True)}
        boxes = {(n["optimizer"], n["parameter"]): value for n, value in zip(side_names, sides, strict=True)}
        changed = _settled(with_controls(view, given, boxes, scene.results.loaded.spec), scene)
        written = search_of(changed)
        if written == search_of(view):
            raise PreventUpdate
        return written, {**(shown or {}), "search": written}

    # A choice of a cell is an address at once: one that had to be asked for could be lost to the next.
    app.clientside_callback(  # type: ignore[no-untyped-call]
        ClientsideFunction("sensitivity", "choose"),
        Output("url", "search", allow_duplicate=True),
        Output("shown", "data", allow_duplicate=True),
        Input({"type": "figure", "name": ALL}, "clickData"),
        Input({"type": "slot", "name": ALL}, "value"),
        State("url", "search"),
        State("shown", "data"),
        prevent_initial_call=True,
    )


def _settled(view: View, scene: Scene) -> View:
    """Return the view without what is as the study has it by default, so that addresses stay short."""
    plain = replace(scene.results, view=replace(view, metric=None, target=None, tolerance=None))
    metric = None if view.metric == plain.metric.name else view.metric
    at_metric = replace(plain, view=replace(view, metric=metric, target=None))
    target = None if view.target == at_metric.target else view.target
    standard = 1.0 if at_metric.metric.is_fraction else 2.0
    tolerance = None if view.tolerance == standard else view.tolerance
    return replace(view, metric=metric, target=target, tolerance=tolerance)


def _ticks(app: Dash, site: Site, tops: dict[str, TopPage]) -> None:
    @app.callback(
        Output("version", "data", allow_duplicate=True),
        Output("trouble", "children"),
        Input("tick", "n_intervals"),
        State("url", "pathname"),
        State("url", "search"),
        State("version", "data"),
        prevent_initial_call=True,
    )
    def tick(_: int, pathname: str, search: str, version: str | None) -> tuple[Any, ...]:
        view = parse(site.inner(pathname), search)
        try:
            if view.study is not None:
                now = site.catalog.version(view.study)
            elif view.page in tops:
                now = tops[view.page].version(view)
            else:
                raise PreventUpdate
        except UserError as error:
            return no_update, str(error).partition("\n")[0]
        if now == version:
            raise PreventUpdate
        return now, ""


def _figures(app: Dash, site: Site) -> None:
    @app.callback(
        Output({"type": "figure", "name": MATCH}, "figure"),
        Output({"type": "figure", "name": MATCH}, "style"),
        Output({"type": "note", "name": MATCH}, "children"),
        Output({"type": "drawn", "name": MATCH}, "data"),
        Input("url", "search"),
        Input("version", "data"),
        Input("theme", "data"),
        State("url", "pathname"),
        State({"type": "drawn", "name": MATCH}, "data"),
        State({"type": "drawn", "name": MATCH}, "id"),
    )
    def figure(
        search: str,
        version: str | None,
        theme: str | None,
        pathname: str,
        before: dict[str, str] | None,
        block_id: dict[str, str],
    ) -> tuple[Any, ...]:
        if theme is None:  # the browser says which in a moment
            raise PreventUpdate
        scene, block = _found(site, pathname, search, theme, block_id["name"])
        if not isinstance(block, FigureBlock):
            raise PreventUpdate
        key = f"{theme} {seen(scene, block)}"
        if before is not None and before.get("key") == key:
            raise PreventUpdate
        with site.turns.take(late=False):
            drawn = _drawn(block, scene)
        if isinstance(drawn, str):
            return no_update, {"display": "none"}, drawn, {"key": key, "frame": ""}
        if block.choosable:  # a mark near a cell leaves the cell to the pointer
            drawn.update_layout(hoverdistance=_NEAR_PX)
        now = {"key": key, "frame": frame_of(drawn)}
        same = before is not None and before.get("frame") == now["frame"]
        style = {"height": f"{int(drawn.layout.height or 450)}px"}
        return patch_of(drawn) if same else drawn, style, "", now


def _drawn(block: FigureBlock, scene: Scene) -> go.Figure | str:
    """Return the figure of a block, or why there is none."""
    if not len(scene.results.runs):
        return _EMPTY
    try:
        return block.draw(scene)
    except NothingToShowError as error:
        return f"Nothing to draw yet: {error}."
    except StorageError as error:  # a part of the curves is damaged: what needs none of it is shown
        return str(error)


def _marks(app: Dash) -> None:
    app.clientside_callback(  # type: ignore[no-untyped-call]
        ClientsideFunction("sensitivity", "mark"),
        Output("marked", "data"),
        Input("url", "search"),
        Input({"type": "drawn", "name": ALL}, "data"),
    )


def _texts(app: Dash, site: Site) -> None:
    @app.callback(
        Output({"type": "text", "name": MATCH}, "children"),
        Output({"type": "written", "name": MATCH}, "data"),
        Input("url", "search"),
        Input("version", "data"),
        State("url", "pathname"),
        State({"type": "written", "name": MATCH}, "data"),
        State({"type": "written", "name": MATCH}, "id"),
    )
    def text(
        search: str, version: str | None, pathname: str, before: str | None, name: dict[str, str]
    ) -> tuple[Any, str]:
        scene, block = _found(site, pathname, search, None, name["name"])
        if not isinstance(block, TextBlock):
            raise PreventUpdate
        key = seen(scene, block)
        if before == key:
            raise PreventUpdate
        if block.late:
            site.turns.give_way()
            with contextlib.suppress(StorageError):  # the content says it
                if block.reads is not None:
                    block.reads(scene.results)
                for step in block.steps:
                    with site.turns.take(late=True):
                        step(scene.results)
        with site.turns.take(late=block.late):
            return _written(block, scene), key

    @app.callback(
        Output("filtered", "children"),
        Input("url", "search"),
        Input("version", "data"),
        State("url", "pathname"),
    )
    def filtered(search: str, version: str | None, pathname: str) -> str:
        view = parse(site.inner(pathname), search)
        if view.study is None:
            raise PreventUpdate
        try:
            scene, _ = site.scene(view, None)
        except UserError:
            raise PreventUpdate from None
        return filtered_words(scene.results)


def _written(block: TextBlock, scene: Scene) -> Any:
    """Return the content of a block, or why there is none."""
    if not len(scene.results.runs):
        return _EMPTY
    try:
        return block.content(scene)
    except StorageError as error:
        return trouble_note(str(error))


def _found(
    site: Site, pathname: str, search: str, theme: str | None, name: str
) -> tuple[Scene, FigureBlock | TextBlock | None]:
    """Return the scene of an address and the block of that name; nothing happens where there is none."""
    view = parse(site.inner(pathname), search)
    if view.study is None and view.page == "compare":
        return compare.found(site, view, theme, name)
    if view.study is None or view.page not in PAGES:
        raise PreventUpdate
    try:
        scene, _ = site.scene(view, theme)
    except UserError:
        raise PreventUpdate from None
    return scene, PAGES[view.page].block(scene, name)


def _data(app: Dash, site: Site) -> None:
    @app.callback(
        Output({"type": "data", "name": MATCH}, "children"),
        Output({"type": "show-data", "name": MATCH}, "aria-expanded"),
        Input({"type": "show-data", "name": MATCH}, "n_clicks"),
        Input("url", "search"),
        Input("version", "data"),
        State("url", "pathname"),
        State({"type": "show-data", "name": MATCH}, "id"),
        prevent_initial_call=True,
    )
    def show(
        clicks: int | None, search: str, version: str | None, pathname: str, name: dict[str, str]
    ) -> tuple[Any, ...]:
        if not clicks:
            raise PreventUpdate
        if clicks % 2 == 0:
            return None, "false"
        scene, block = _found(site, pathname, search, None, name["name"])
        if not isinstance(block, FigureBlock) or not len(scene.results.runs):
            raise PreventUpdate
        try:
            return html_table(block.table(scene), f"{block.label}."), "true"
        except StorageError as error:
            return trouble_note(str(error)), "true"

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
        scene, block = _found(site, pathname, search, None, name["name"])
        if not isinstance(block, FigureBlock) or not len(scene.results.runs):
            raise PreventUpdate
        table = block.table(scene)
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(table.header)
        writer.writerows(table.rows)
        study = scene.results.loaded.spec.name
        return {"content": text.getvalue(), "filename": f"{study}-{block.name}.csv", "type": "text/csv"}
