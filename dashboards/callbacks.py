"""Callbacks that connect address, controls, blocks and new results.

The address alone determines what is shown. Controls and clicks change it; the router fills the page from it, unless the
current page can update itself; every block redraws itself when the address, the version of the study or the theme
changes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dash import ALL, ClientsideFunction, Dash, Input, Output, State, no_update
from dash.exceptions import PreventUpdate

from dashboards.address import Address, change, parse, search_of
from dashboards.blocks import Scene
from dashboards.exhibits import choices
from dashboards.filters import filter_bar, filtered_words, with_controls
from dashboards.pages import blocks_of, pages
from dashboards.shell import error_page, navigation, study_page
from dashboards.site import Site
from dashboards.top import TopPage
from sensitivity.figures import catalogue
from sensitivity.study.errors import UserError

_NEAR_PX = 5
_NOTHING = "Nothing to show here"
_OTHER_BLOCKS = "other blocks"
"""Value in ``shown``: the change that the page's own controls wrote gives the page other blocks."""
_EMPTY = "No run passes the filters. Widen the prior box, or choose more optimizers or batch sizes."


def register(app: Dash, site: Site, tops: dict[str, TopPage]) -> None:
    """Connect everything that all pages share."""
    _theme(app)
    _router(app, site, tops)
    _controls(app, site)
    _ticks(app, site, tops)
    _marks(app)


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
        Input("arrived", "data"),
        State("shown", "data"),
    )
    def route(arrived: dict[str, Any] | None, shown: dict[str, Any] | None) -> tuple[Any, ...]:
        if arrived is None:
            raise PreventUpdate
        address = parse(site.inner(arrived["path"]), arrived["search"])
        nav = navigation(site, address)
        known = pages()
        if address.page not in (tops if address.study is None else known):
            return error_page(_NOTHING, "There is no such page."), None, nav, arrived, None
        try:
            if address.study is None:
                page = tops[address.page].content(address)
                return page, None, nav, arrived, tops[address.page].version(address)
            scene, missing = site.scene(address, None)
        except UserError as error:  # a study without pages
            nav = navigation(site, replace(address, study=None))
            return error_page(_NOTHING, str(error)), None, nav, arrived, None
        page = study_page(known[address.page], scene, missing)
        own = shown is not None and {**shown, "arrival": arrived.get("arrival")} == {**arrived, _OTHER_BLOCKS: "yes"}
        bar = no_update if own else filter_bar(scene.results)
        return page, bar, nav, arrived, scene.version

    # The page's own controls write both the address and what is shown; its blocks and links then update themselves.
    app.clientside_callback(  # type: ignore[no-untyped-call]
        ClientsideFunction("sensitivity", "arrive"),
        Output("arrived", "data"),
        Input("url", "pathname"),
        Input("url", "search"),
        State("shown", "data"),
        State("arrived", "data"),
    )
    app.clientside_callback(  # type: ignore[no-untyped-call]
        ClientsideFunction("sensitivity", "follow"),
        Output({"type": "to", "page": ALL}, "href"),
        Input("url", "search"),
        State("url", "pathname"),
        State("shown", "data"),
        State("arrived", "data"),
        State({"type": "to", "page": ALL}, "href"),
        prevent_initial_call=True,
    )


def _controls(app: Dash, site: Site) -> None:
    @app.callback(
        Output("asked", "data"),
        Output("filtered", "children"),
        Input({"type": "filter", "name": ALL}, "value"),
        Input({"type": "option", "name": ALL}, "value"),
        Input({"type": "side", "optimizer": ALL, "parameter": ALL}, "value"),
        State({"type": "filter", "name": ALL}, "id"),
        State({"type": "option", "name": ALL}, "id"),
        State({"type": "side", "optimizer": ALL, "parameter": ALL}, "id"),
        State("url", "pathname"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def control(
        values: list[Any],
        options: list[Any],
        sides: list[Any],
        names: list[dict[str, str]],
        option_names: list[dict[str, str]],
        side_names: list[dict[str, str]],
        pathname: str,
        search: str,
    ) -> tuple[Any, ...]:
        address = parse(site.inner(pathname), search)
        page = pages().get(address.page)
        if address.study is None or page is None:
            raise PreventUpdate
        given = {name["name"]: value for name, value in zip(names, values, strict=True)}
        boxes = {(n["optimizer"], n["parameter"]): value for n, value in zip(side_names, sides, strict=True)}
        chosen = {n["name"]: value for n, value in zip(option_names, options, strict=True) if isinstance(value, str)}
        try:
            scene, _ = site.scene(address, None)
            asked = with_controls(address, given, boxes, scene.loaded.spec)
            changed = _settled(replace(asked, options={**asked.options, **chosen}), scene)
            written = search_of(changed)
            if written == search_of(address):
                raise PreventUpdate
            after, _ = site.scene(changed, None)
        except UserError:
            raise PreventUpdate from None
        same = [b.name for b in blocks_of(page, scene)] == [b.name for b in blocks_of(page, after)]
        return change(search, written, other_blocks=not same), filtered_words(after.results)

    # The server may answer after another click has changed the address, so only the control's own change is written.
    app.clientside_callback(  # type: ignore[no-untyped-call]
        ClientsideFunction("sensitivity", "apply"),
        Input("asked", "data"),
        prevent_initial_call=True,
    )

    # Choosing a cell changes the address in the browser: a round trip to the server could lose it to the next click.
    app.clientside_callback(  # type: ignore[no-untyped-call]
        ClientsideFunction("sensitivity", "choose"),
        Input({"type": "figure", "name": ALL}, "clickData"),
        prevent_initial_call=True,
    )
    app.clientside_callback(  # type: ignore[no-untyped-call]
        ClientsideFunction("sensitivity", "slot"),
        Input({"type": "slot", "name": ALL}, "value"),
        prevent_initial_call=True,
    )


def _settled(address: Address, scene: Scene) -> Address:
    """Return the address without values that are the study's defaults, so that it stays short."""
    view = address.view
    plain = scene.results.under(metric=None, target=None)
    metric = None if view.metric == plain.metric.name else view.metric
    target = None if view.target == plain.target else view.target
    standard = 100 * plain.under(metric=metric).metric.quantity.usual_tolerance
    tolerance = None if view.tolerance == standard else view.tolerance
    first = {
        option.name: next(iter(option.values(scene.results)), None)
        for exhibit in reversed(catalogue.EXHIBITS)
        for option in choices(exhibit)
        if option.name in address.options
    }
    options = {name: key for name, key in address.options.items() if first.get(name) != key}
    return replace(address.under(metric=metric, target=target, tolerance=tolerance), options=options)


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
        address = parse(site.inner(pathname), search)
        try:
            if address.study is not None:
                now = site.catalog.version(address.study)
            elif address.page in tops:
                now = tops[address.page].version(address)
            else:
                raise PreventUpdate
        except UserError as error:
            if version is None:  # the page itself reports it
                raise PreventUpdate from None
            return no_update, str(error).partition("\n")[0]
        if now == version:
            raise PreventUpdate
        return now, ""


def _marks(app: Dash) -> None:
    app.clientside_callback(  # type: ignore[no-untyped-call]
        ClientsideFunction("sensitivity", "mark"),
        Output("marked", "data"),
        Input("url", "search"),
        Input({"type": "drawn", "name": ALL}, "data"),
    )
