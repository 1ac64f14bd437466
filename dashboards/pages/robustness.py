"""Robustness: maps over the hyperparameter plane; a click on a cell shows its learning curves and its seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import dash_mantine_components as dmc
import plotly.graph_objects as go
from dash import dcc, html
from dash.development.base_component import Component

from dashboards.blocks import Block, FigureBlock, FixedBlock, Page, Scene, Table, TextBlock, aria, html_table
from dashboards.filters import UNIT_NAMES, target_words
from dashboards.flatten import flatten
from dashboards.pages.verdicts import verdict_text
from sensitivity.analysis.curves import CellCurves
from sensitivity.analysis.maps import RobustnessMap
from sensitivity.figures.exhibits.curves import draw_curves
from sensitivity.figures.exhibits.maps import draw_maps
from sensitivity.figures.labels import metric_value, number, optimizer_name, parameter_name
from sensitivity.figures.scales import map_scale
from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.words import duration

_NOTHING = "No run has a measured value here yet, so there is nothing to draw."


def _blocks(scene: Scene) -> Sequence[Block]:
    names = list(scene.results.loaded.spec.optimizers)
    shown = [name for name in names if name in (scene.view.optimizers or names)]
    return (
        FixedBlock(content=_slots),
        *(
            FigureBlock(
                name=f"maps-{names.index(name)}",
                label=f"Robustness maps of {optimizer_name(name)}, a panel a batch size",
                draw=partial(_draw_maps, name),
                table=partial(_maps_table, name),
                depends=("filters", "metric", "tolerance"),
                choosable=True,
            )
            for name in shown
        ),
        *(_curves_block(slot) for slot in "ab"),
        *(TextBlock(name=f"seeds-{slot}", content=partial(_seeds, slot), width="half") for slot in "ab"),
        TextBlock(
            name="numbers",
            content=_numbers,
            depends=("filters", "metric", "tolerance", "target"),
            late=True,
            reads=lambda results: results.target and results.loaded.meeting(*results.target),
            steps=(
                lambda results: results.at_target,
                lambda results: results.scaling("steps"),
                lambda results: results.regions,
            ),
        ),
    )


def _curves_block(slot: str) -> Block:
    return FigureBlock(
        name=f"curves-{slot}",
        label=f"Learning curves of cell {slot.upper()}",
        draw=partial(_draw_curves, slot),
        table=partial(_curves_table, slot),
        depends=("metric", f"cell_{slot}"),
        width="half",
    )


def _slots(scene: Scene) -> Component:
    return html.Div(
        [
            html.Span("A click on a map chooses", className="label", id="slot-label"),
            dmc.SegmentedControl(
                id={"type": "slot", "name": "slot"},
                data=[{"value": "a", "label": "cell A"}, {"value": "b", "label": "cell B, beside it"}],
                value=scene.view.slot,
                size="xs",
                **aria(labelledby="slot-label"),
            ),
        ],
        className="slots",
    )


def _own(scene: Scene, optimizer: str) -> list[RobustnessMap]:
    return [map_ for map_ in scene.results.maps if map_.optimizer == optimizer]


def _draw_maps(optimizer: str, scene: Scene) -> go.Figure | str:
    maps = _own(scene, optimizer)
    if not maps:
        return _NOTHING
    figure: go.Figure = draw_maps(maps, theme=scene.theme, scale=map_scale(scene.results.maps))
    return figure


def _maps_table(optimizer: str, scene: Scene) -> Table:
    return flatten(_own(scene, optimizer), parts="cells")


def _cell(scene: Scene, slot: str) -> str | None:
    return scene.view.cell_a if slot == "a" else scene.view.cell_b


def _draw_curves(slot: str, scene: Scene) -> go.Figure | str:
    cell_id = _cell(scene, slot)
    if cell_id is None:
        return (
            "Click a cell of a map, or press Enter on it, to see its learning curves and its seeds here."
            if slot == "a"
            else "Switch to cell B above and click another cell to see the two side by side."
        )
    curves = scene.results.cell_curves(cell_id)
    if not curves:
        return "The cell in the address is none of this study's."
    if not curves[0].epochs:
        return "No run of this cell has a learning curve."
    return narrow_curves(curves, scene, f"cell {slot.upper()}").update_layout(meta=cell_id)


def narrow_curves(curves: Sequence[CellCurves], scene: Scene, subject: str) -> go.Figure:
    """Draw learning curves for half a page's width."""
    names = list(scene.results.loaded.spec.optimizers)
    figure: go.Figure = draw_curves(curves, theme=scene.theme, subject=subject, optimizers=names)
    said = str(figure.layout.title.subtitle.text).replace(" · bold", "<br>bold", 1)
    return figure.update_layout(title_subtitle_text=said)


def _curves_table(slot: str, scene: Scene) -> Table:
    cell_id = _cell(scene, slot)
    cells = scene.results.cell_curves(cell_id) if cell_id else ()
    return flatten(cells, columns=("epochs", "median", "low", "high"))


def _seeds(slot: str, scene: Scene) -> Any:
    cell_id = _cell(scene, slot)
    rows = scene.results.cell_rows(cell_id) if cell_id else None
    if rows is None or not len(rows):
        return None
    first, metric = rows.iloc[0], scene.results.metric
    settings = ", ".join(
        f"{parameter_name(name)} {number(float(first[PARAM_PREFIX + name]), 3)}"
        for name in scene.results.loaded.spec.optimizers[str(first["optimizer"])].hyperparameter_names
    )
    table = Table(
        header=("seed", "status", metric.label, "steps", "device time", "run"),
        rows=[
            [
                int(run["seed"]),
                run["status"],
                metric_value(metric, float(run[metric.name])),
                "–" if math.isnan(float(run["steps"])) else f"{int(run['steps']):,}",
                duration(float(run["train_seconds"])),
                dcc.Link(
                    "open", href=scene.href(replace(scene.view, page="runs", run=str(run["trial_id"]))),
                    title=f"Open the run with seed {run['seed']}",
                ),
            ]
            for run in rows.to_dict("records")
        ],
    )  # fmt: skip
    return html.Section(
        [
            html.H2(
                f"Cell {slot.upper()}: {optimizer_name(str(first['optimizer']))}, batch size {first['batch_size']:,}"
            ),
            html.P(settings),
            html_table(table, f"Seeds of cell {slot.upper()}."),
        ],
        className="card",
    )


def _numbers(scene: Scene) -> Any:
    """Return what the prior box, as narrowed, makes of each optimizer."""
    results = scene.results
    target = results.target
    outcomes = {(o.optimizer, o.batch_size): o for o in results.at_target}
    decades = {(r.optimizer, r.batch_size): r.decades for r in results.regions}
    rows = []
    for map_ in results.maps:
        key = (map_.optimizer, map_.batch_size)
        best, outcome, region = map_.best_cell, outcomes.get(key), decades.get(key)
        rows.append(
            [
                optimizer_name(map_.optimizer),
                map_.batch_size,
                "nothing completed" if best is None else metric_value(map_.metric, best.median),
                f"{sum(cell.in_region for cell in map_.cells):,} of {len(map_.cells):,}",
                "–" if region is None or not region.known else number(region.value, 3),
                "–" if outcome is None else f"{outcome.reached:,} of {outcome.planned:,}",
                "–" if outcome is None else _expected(outcome.expected_steps, outcome.spent_steps),
            ]
        )
    aim = f"reach {target_words(*target)}" if target else "reach the target (none is declared)"
    header = (
        "optimizer", "batch size", f"best median {results.metric.label}", "cells within the tolerance",
        "robust region, decades a dimension", f"runs that {aim}", f"expected {UNIT_NAMES['steps']} to it",
    )  # fmt: skip
    return html.Section(
        [
            html.H2("In this prior box"),
            html_table(Table(header=header, rows=rows), "Each optimizer and batch size, as filtered."),
            *verdict_text(results.claims),
        ],
        className="card",
    )


def _expected(steps: float, spent: float) -> str:
    return f"> {number(spent, 3)}" if math.isnan(steps) else number(steps, 3)


ROBUSTNESS = Page(
    name="robustness",
    title="Robustness",
    lead="How far can the hyperparameters move before the result is lost?",
    blocks=_blocks,
)
