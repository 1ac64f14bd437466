"""Compare studies: results side by side, differences of study files, maps on one colour scale, and map differences."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, html
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate

from dashboards.address import Address, change, parse, search_of
from dashboards.blocks import FigureBlock, Scene, TextBlock, aria, html_table, place_block
from dashboards.site import Site
from dashboards.top import TopPage
from sensitivity.analysis.view import View
from sensitivity.figures.exhibit import Computed, computed
from sensitivity.figures.exhibits.map_differences import differences_exhibit
from sensitivity.figures.exhibits.maps import ROBUSTNESS
from sensitivity.figures.labels import capitalized, metric_value, number, optimizer_name
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.figures.scales import map_scale
from sensitivity.figures.tables import Table
from sensitivity.study.differences import spec_differences
from sensitivity.study.errors import UserError
from sensitivity.study.metrics import METRICS, USUAL, Metric
from sensitivity.study.words import duration

MAX_STUDIES = 4
"""Largest number of studies on a page."""


def compare_page(site: Site) -> TopPage:
    """Return the page."""

    def content(address: Address) -> list[Component]:
        metrics = [{"value": metric.name, "label": capitalized(metric.label)} for metric in _metrics(site, address)]
        return [
            html.H1("Compare studies"),
            html.P(
                f"Up to {MAX_STUDIES} studies: results, study files, maps on one colour scale, and map differences.",
                className="lead",
            ),
            html.Section(
                [
                    dmc.MultiSelect(
                        id="compared",
                        label="Studies",
                        data=list(site.catalog.places()),
                        value=list(address.others),
                        maxValues=MAX_STUDIES,
                        size="xs",
                        miw=320,
                        clearable=True,
                        clearButtonProps={"aria-label": "Clear studies"},
                    ),
                    dmc.Select(
                        id="compared-metric",
                        label="Metric",
                        data=metrics,
                        value=address.view.metric or "test_accuracy",
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

    def version(address: Address) -> str:
        known = site.catalog.places()
        return " ".join(site.catalog.version(name) for name in address.others if name in known)

    return TopPage(content=content, version=version)


def register(app: Dash, site: Site) -> None:
    """Connect the page."""

    @app.callback(
        Output("asked", "data", allow_duplicate=True),
        Input("compared", "value"),
        Input("compared-metric", "value"),
        State("url", "pathname"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def choose(names: list[str] | None, metric: str, pathname: str, search: str) -> dict[str, str | int | bool]:
        address = parse(site.inner(pathname), search)
        others = tuple(name for name in names or () if name in site.catalog.places())[:MAX_STUDIES]
        chosen = metric if isinstance(metric, str) and metric != "test_accuracy" else None
        written = search_of(replace(address, others=others).under(metric=chosen))
        if address.page != "compare" or written == search_of(address):
            raise PreventUpdate
        return change(search, written)

    @app.callback(Output("comparison", "children"), Input("url", "search"), State("url", "pathname"))
    def show(search: str, pathname: str) -> Any:
        address = parse(site.inner(pathname), search)
        if address.page != "compare":
            raise PreventUpdate
        scenes, faults = _scenes(site, address, None)
        notices = [html.P(fault, className="notice") for fault in faults]
        if not scenes:
            return notices or html.P("Choose two or more studies.", className="notice")
        return [*notices, *(place_block(block, scene) for scene, block in _blocks(scenes))]


def found(site: Site, address: Address, theme: str | None, name: str) -> tuple[Scene, FigureBlock | TextBlock | None]:
    """Return the block of a comparison with this name, and its scene; if there is none, cancel the update."""
    scenes, _ = _scenes(site, address, theme)
    for scene, block in _blocks(scenes):
        if block.name == name:
            return scene, block
    raise PreventUpdate


def _metrics(site: Site, address: Address) -> tuple[Metric, ...]:
    """Return the metrics of the compared studies; the usual ones if no study is chosen yet."""
    found: list[Metric] = []
    for name in address.others[:MAX_STUDIES]:
        with contextlib.suppress(UserError):  # the comparison reports the error
            found += site.catalog.load(name).spec.measured()
    return tuple(dict.fromkeys((*(found or USUAL), METRICS["test_accuracy"])))


def _scenes(site: Site, address: Address, theme: str | None) -> tuple[list[Scene], list[str]]:
    """Return a scene for each study, and the error messages of the others."""
    scenes, faults = [], []
    view = View(metric=address.view.metric or METRICS["test_accuracy"].name)
    for name in address.others[:MAX_STUDIES]:
        try:
            scenes.append(site.scene(Address(page="robustness", study=name, view=view), theme)[0])
        except UserError as error:
            faults.append(str(error))
    version = " ".join(scene.version for scene in scenes)  # all studies share the colour scale
    return [replace(scene, version=version) for scene in scenes], faults


def _blocks(scenes: Sequence[Scene]) -> list[tuple[Scene, FigureBlock | TextBlock]]:
    if not scenes:
        return []
    blocks: list[tuple[Scene, FigureBlock | TextBlock]] = [
        (scenes[0], TextBlock(name="side-by-side", content=lambda _: _table(scenes))),
    ]
    if len(scenes) > 1:
        blocks.append((scenes[0], TextBlock(name="files", content=lambda _: _files(scenes))))
    first = scenes[0].results
    for place, scene in enumerate(scenes[1:], 1):
        for optimizer in (name for name in first.spec.optimizers if name in scene.results.spec.optimizers):
            block = FigureBlock(
                name=f"difference-{place}-{optimizer}",
                label=f"{scene.results.spec.name} less {first.spec.name}: {optimizer_name(optimizer)}",
                show=partial(_difference, scenes, optimizer),
                depends=("study", "metric"),
            )
            blocks.append((scene, block))
    for place, scene in enumerate(scenes):
        for optimizer in scene.results.spec.optimizers:
            study = scene.results.spec.name
            block = FigureBlock(
                name=f"compared-{place}-{optimizer}",
                label=f"{study}: {ROBUSTNESS.title}: {optimizer_name(optimizer)}",
                show=partial(_show, scenes, optimizer),
                depends=("study", "metric"),
                heading=(study, scene.href(scene.address)),
            )
            blocks.append((scene, block))
    return blocks


def _difference(scenes: Sequence[Scene], optimizer: str, scene: Scene) -> Computed[Any]:
    """Return the difference between a study's maps of an optimizer and those of the first study."""
    first = scenes[0].results
    if scene.results.metric != first.metric:
        raise NothingToShowError(f"{scene.results.spec.name} has no {first.metric.label}.")
    return computed(differences_exhibit(first, optimizer), scene.results)


def _show(scenes: Sequence[Scene], optimizer: str, scene: Scene) -> Computed[Any]:
    """Return an optimizer's robustness maps on the common colour scale of all studies that have the metric."""
    asked = [one.results.metric for one in scenes if one.results.view.metric is not None]
    metric = (asked or [scenes[0].results.metric])[0]
    if scene.results.metric != metric:
        raise NothingToShowError(f"{scene.results.spec.name} has no {metric.label}.")
    found = computed(ROBUSTNESS, scene.results, optimizer=optimizer)
    every = [map_ for one in scenes if one.results.metric == metric for map_ in one.results.maps]
    return replace(found, result=replace(found.result, scale=map_scale(every)))


def _files(scenes: Sequence[Scene]) -> Component:
    """Return the differences between the study files."""
    specs = [scene.results.spec for scene in scenes]
    found = spec_differences(specs)
    heading = html.H2("Differences between the study files")
    if not found:
        return html.Section([heading, html.P("Only their names differ.", className="note")], className="card")
    table = Table(
        caption="Fields in which the study files differ; a dash means that a file has no such field.",
        header=("field", *(spec.name for spec in specs)),
        rows=[[one.field, *(value or "–" for value in one.values)] for one in found],
        text_columns=len(specs) + 1,
    )
    return html.Section([heading, html_table(table)], className="card")


_QUANTITIES = (
    "completed", "diverged", "waiting", "best median", "cells within tolerance",
    "robust region, decades per dimension", "device time",
)  # fmt: skip


def _table(scenes: Sequence[Scene]) -> Component:
    """Return the results of each optimizer and batch size, with studies in columns."""
    of_study = [_results(scene) for scene in scenes]
    groups = dict.fromkeys(key for found in of_study for key in found)
    rows = [
        [
            optimizer_name(optimizer),
            f"{batch_size:,}",
            quantity,
            *(found.get(group, {}).get(quantity, "–") for found in of_study),
        ]
        for group in groups
        for optimizer, batch_size in [group]
        for quantity in _QUANTITIES
        if any(found.get(group, {}).get(quantity, "–") not in ("–", "0") for found in of_study)
    ]
    table = Table(
        caption=f"Results of each optimizer and batch size; medians are of {scenes[0].results.metric.label}.",
        header=("optimizer", "batch size", "quantity", *(scene.results.spec.name for scene in scenes)),
        rows=rows,
        text_columns=3,
    )
    return html.Section([html.H2("Side by side"), html_table(table)], className="card")


def _results(scene: Scene) -> dict[tuple[str, int], dict[str, str]]:
    """Return the quantities of each optimizer and batch size of a study."""
    results = scene.results
    maps = {(m.optimizer, m.batch_size): m for m in results.maps}
    regions = {(r.optimizer, r.batch_size): r.decades for r in results.target_regions or results.own_regions}
    found = {}
    for group in results.summary.groups:
        key = (group.optimizer, group.batch_size)
        map_, decades, tally = maps.get(key), regions.get(key), group.tally
        best = None if map_ is None else map_.best_cell
        found[key] = {
            "completed": f"{tally.completed:,} of {tally.planned:,}",
            "diverged": f"{tally.diverged:,}",
            "waiting": f"{tally.waiting:,}",
            "best median": "–" if best is None or map_ is None else metric_value(map_.metric, best.median),
            "cells within tolerance": "–"
            if map_ is None
            else f"{sum(c.in_region for c in map_.cells):,} of {len(map_.cells):,}",
            "robust region, decades per dimension": "–"
            if decades is None or not decades.known
            else number(decades.value, 3),
            "device time": duration(tally.train_seconds + tally.eval_seconds),
        }
    return found
