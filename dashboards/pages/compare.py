"""Compare studies: their maps on one colour scale, their best cells and counts side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import dash_mantine_components as dmc
import plotly.graph_objects as go
from dash import Dash, Input, Output, State, html
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate

from dashboards.blocks import FigureBlock, Scene, Table, TextBlock, aria, html_table, place_block
from dashboards.flatten import flatten
from dashboards.site import Site
from dashboards.top import TopPage
from dashboards.view import View, parse, search_of
from sensitivity.analysis.maps import RobustnessMap
from sensitivity.figures.exhibits.maps import draw_maps
from sensitivity.figures.labels import metric_value, number, optimizer_name
from sensitivity.figures.scales import map_scale
from sensitivity.study.errors import UserError
from sensitivity.study.metrics import METRICS, Metric
from sensitivity.study.words import duration

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
        names: list[str] | None, metric: str, pathname: str, search: str, shown: dict[str, str] | None
    ) -> tuple[str, dict[str, str]]:
        view = parse(site.inner(pathname), search)
        others = tuple(name for name in names or () if name in site.catalog.places())[:MOST]
        chosen = METRICS[metric].name if metric in METRICS and metric != "test_accuracy" else None
        written = search_of(replace(view, others=others, metric=chosen))
        if view.page != "compare" or written == search_of(view):
            raise PreventUpdate
        return written, {**(shown or {}), "search": written}

    @app.callback(Output("comparison", "children"), Input("url", "search"), State("url", "pathname"))
    def show(search: str, pathname: str) -> Any:
        view = parse(site.inner(pathname), search)
        if view.page != "compare":
            raise PreventUpdate
        scenes, faults = _scenes(site, view, None)
        notices = [html.P(fault, className="notice") for fault in faults]
        if not scenes:
            return notices or html.P("Choose two studies or more.", className="notice")
        return [*notices, *(place_block(block, scene) for scene, block in _blocks(scenes))]


def found(site: Site, view: View, theme: str | None, name: str) -> tuple[Scene, FigureBlock | TextBlock | None]:
    """Return the block of that name of a comparison, and its scene; nothing happens where there is none."""
    scenes, _ = _scenes(site, view, theme)
    for scene, block in _blocks(scenes):
        if block.name == name:
            return scene, block
    raise PreventUpdate


def _scenes(site: Site, view: View, theme: str | None) -> tuple[list[Scene], list[str]]:
    """Return a scene for each study, and what is wrong with the others."""
    scenes, faults = [], []
    for name in view.others[:MOST]:
        try:
            one = View(page="robustness", study=name, metric=view.metric or METRICS["test_accuracy"].name)
            scenes.append(site.scene(one, theme)[0])
        except UserError as error:
            faults.append(str(error))
    version = " ".join(scene.version for scene in scenes)  # the colour scale is of all
    return [replace(scene, version=version) for scene in scenes], faults


def _blocks(scenes: Sequence[Scene]) -> list[tuple[Scene, FigureBlock | TextBlock]]:
    if not scenes:
        return []
    blocks: list[tuple[Scene, FigureBlock | TextBlock]] = [
        (scenes[0], TextBlock(name="side-by-side", content=lambda _: _table(scenes)))
    ]
    for place, scene in enumerate(scenes):
        for position, optimizer in enumerate(scene.results.loaded.spec.optimizers):
            study = scene.results.loaded.spec.name
            block = FigureBlock(
                name=f"compared-{place}-{position}",
                label=f"{study}: robustness maps of {optimizer_name(optimizer)}, a panel a batch size",
                draw=partial(_draw, scenes, optimizer),
                table=partial(_cells, optimizer),
                depends=("study", "metric"),
                heading=(study, scene.href(View(page="robustness", study=scene.view.study, metric=scene.view.metric))),
            )
            blocks.append((scene, block))
    return blocks


def _metric(scenes: Sequence[Scene]) -> Metric:
    """Return the metric of the maps: the one asked for, where some study has it."""
    asked = [scene.results.metric for scene in scenes if scene.view.metric is not None]
    return (asked or [scenes[0].results.metric])[0]


def _own(scene: Scene, optimizer: str) -> list[RobustnessMap]:
    return [map_ for map_ in scene.results.maps if map_.optimizer == optimizer]


def _draw(scenes: Sequence[Scene], optimizer: str, scene: Scene) -> go.Figure | str:
    metric = _metric(scenes)
    if scene.results.metric != metric:
        return f"{scene.results.loaded.spec.name} has no {metric.label}."
    maps = _own(scene, optimizer)
    if not maps:
        return "No run has a measured value here yet, so there is nothing to draw."
    every = [map_ for one in scenes if one.results.metric == metric for map_ in one.results.maps]
    figure: go.Figure = draw_maps(maps, theme=scene.theme, scale=map_scale(every))
    return figure


def _cells(optimizer: str, scene: Scene) -> Table:
    return flatten(_own(scene, optimizer), parts="cells")


def _table(scenes: Sequence[Scene]) -> Component:
    header = (
        "study", "optimizer", "batch size", "completed", "diverged", "waiting", "metric", "best median",
        "cells within tolerance", "robust region, decades a dimension", "device time",
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
                    results.metric.label,
                    "–" if best is None or map_ is None else metric_value(map_.metric, best.median),
                    "–" if map_ is None else f"{sum(c.in_region for c in map_.cells):,} of {len(map_.cells):,}",
                    "–" if region is None or not region.known else number(region.value, 3),
                    duration(tally.train_seconds + tally.eval_seconds),
                ]
            )
    table = html_table(Table(header=header, rows=rows), "Each study, optimizer and batch size.")
    return html.Section([html.H2("Side by side"), table], className="card")
