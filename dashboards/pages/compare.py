"""Compare studies: their maps on one colour scale, their best cells and counts side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, dcc, html
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate

from dashboards.blocks import Scene, Table, aria, html_table
from dashboards.site import Site
from dashboards.top import TopPage
from dashboards.view import View, parse, search_of
from dashboards.words import duration
from sensitivity.figures.labels import metric_value, number, optimizer_name
from sensitivity.figures.maps import draw_maps
from sensitivity.figures.scales import map_scale
from sensitivity.figures.theme import CONFIG
from sensitivity.study.errors import UserError
from sensitivity.study.metrics import METRICS

MOST = 4
"""Studies on a page."""


def compare_page(site: Site) -> TopPage:
    """Return the page."""

    def content(view: View) -> list[Component]:
        metrics = [{"value": name, "label": METRICS[name].label.capitalize()} for name in METRICS]
        return [
            html.H1("Compare studies"),
            html.P(f"Up to {MOST} studies, their maps on one colour scale.", className="lead"),
            html.Section(
                [
                    dmc.MultiSelect(
                        id="compared",
                        label="Studies",
                        data=list(site.catalog.places()),
                        value=list(view.others),
                        maxValues=MOST,
                        size="xs",
                        miw=320,
                        clearable=True,
                        clearButtonProps={"aria-label": "Clear studies"},
                    ),
                    dmc.Select(
                        id="compared-metric",
                        label="Metric",
                        data=metrics,
                        value=view.metric or "test_accuracy",
                        allowDeselect=False,
                        size="xs",
                        w=180,
                    ),
                ],
                className="bar controls",
                **aria(label="Choice"),
            ),
            html.Div(id="comparison", className="comparison"),
        ]

    def version(view: View) -> str:
        known = site.catalog.places()
        return " ".join(site.catalog.version(name) for name in view.others if name in known)

    return TopPage(content=content, version=version)


def register(app: Dash, site: Site) -> None:
    """Connect the page."""

    @app.callback(
        Output("url", "search", allow_duplicate=True),
        Output("shown", "data", allow_duplicate=True),
        Input("compared", "value"),
        Input("compared-metric", "value"),
        State("url", "pathname"),
        State("url", "search"),
        State("shown", "data"),
        prevent_initial_call=True,
    )
    def choose(
        names: list[str] | None, metric: str, pathname: str, search: str, shown: dict[str, str]
    ) -> tuple[str, dict[str, str]]:
        view = parse(site.inner(pathname), search)
        others = tuple(name for name in names or () if name in site.catalog.places())[:MOST]
        chosen = METRICS[metric].name if metric in METRICS and metric != "test_accuracy" else None
        written = search_of(replace(view, others=others, metric=chosen))
        if view.page != "compare" or written == search_of(view):
            raise PreventUpdate
        return written, {**shown, "search": written}

    @app.callback(
        Output("comparison", "children"),
        Input("url", "search"),
        Input("version", "data"),
        Input("theme", "data"),
        State("url", "pathname"),
    )
    def show(search: str, version: str | None, theme: str | None, pathname: str) -> Any:
        view = parse(site.inner(pathname), search)
        if view.page != "compare" or theme is None:
            raise PreventUpdate
        scenes, faults = [], []
        for name in view.others[:MOST]:
            try:
                one = View(page="robustness", study=name, metric=view.metric or METRICS["test_accuracy"].name)
                scenes.append(site.scene(one, theme)[0])
            except UserError as error:
                faults.append(html.P(str(error), className="notice"))
        if not scenes:
            return faults or html.P("Choose two studies or more.", className="notice")
        return [*faults, _table(scenes), *_maps(scenes)]


def _table(scenes: list[Scene]) -> Component:
    header = (
        "study", "optimizer", "batch size", "completed", "diverged", "waiting", "best median", "cells within tolerance",
        "robust region, decades", "device time",
    )  # fmt: skip
    rows = []
    for scene in scenes:
        results = scene.results
        maps = {(m.optimizer, m.batch_size): m for m in results.maps}
        decades = {(r.optimizer, r.batch_size): r.decades for r in results.regions}
        for group in results.summary.groups:
            key = (group.optimizer, group.batch_size)
            map_, region, tally = maps.get(key), decades.get(key), group.tally
            best = None if map_ is None else map_.best_cell
            rows.append(
                [
                    results.loaded.spec.name,
                    optimizer_name(group.optimizer),
                    group.batch_size,
                    f"{tally.completed:,} of {tally.planned:,}",
                    tally.diverged,
                    tally.waiting,
                    "–" if best is None or map_ is None else metric_value(map_.metric, best.median),
                    "–" if map_ is None else f"{sum(c.in_region for c in map_.cells):,} of {len(map_.cells):,}",
                    "–" if region is None or not region.known else number(region.value, 3),
                    duration(tally.train_seconds + tally.eval_seconds),
                ]
            )
    table = html_table(Table(header=header, rows=rows), "Each study, optimizer and batch size.")
    return html.Section([html.H2("Side by side"), table], className="card")


def _maps(scenes: list[Scene]) -> list[Component]:
    metric = scenes[0].results.metric
    every = [map_ for scene in scenes for map_ in scene.results.maps if map_.metric == metric]
    if not every:
        return [html.P("None of these studies has a result yet.", className="notice")]
    scale = map_scale(every)
    config: Any = CONFIG
    cards: list[Component] = []
    for scene in scenes:
        for optimizer in scene.results.loaded.spec.optimizers:
            own = [m for m in scene.results.maps if m.optimizer == optimizer and m.metric == metric]
            if own:
                figure = draw_maps(own, theme=scene.theme, scale=scale)
                name = scene.results.loaded.spec.name
                href = scene.href(View(page="robustness", study=scene.view.study, metric=scene.view.metric))
                graph = dcc.Graph(figure=figure, config=config, style={"height": f"{int(figure.layout.height)}px"})
                cards.append(html.Figure([html.H2(dcc.Link(name, href=href)), graph], className="card block"))
    return cards
