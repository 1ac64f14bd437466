"""Robustness: maps over the hyperparameter plane; clicking a cell shows its learning curves and its seeds."""

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

from dashboards.address import Slot
from dashboards.blocks import FigureBlock, FixedBlock, Page, Scene, TextBlock, aria, html_table
from sensitivity.analysis.curves import CellCurves
from sensitivity.figures.exhibit import Computed, Exhibit
from sensitivity.figures.exhibits.curves import curve_data, draw_curves
from sensitivity.figures.labels import metric_value, optimizer_name, settings
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.figures.tables import Table
from sensitivity.figures.theme import Theme
from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.words import duration

_ASK = {
    "a": "Click a cell of a map, or press Enter on it, to see its learning curves and its seeds here.",
    "b": "Shift-click another cell, or switch to cell B, to see the two side by side.",
}


def curves_exhibit(name: str, subject: str, optimizers: Sequence[str]) -> Exhibit[Sequence[CellCurves]]:
    """Return the exhibit of the learning curves of a cell selected on a page, at half the page's width.

    `optimizers` are all optimizers of the study, in its order, so that each has the same colour as elsewhere.
    """

    def draw(curves: Sequence[CellCurves], theme: Theme) -> go.Figure:
        figure: go.Figure = draw_curves(curves, theme=theme, subject=subject, optimizers=optimizers)
        subtitle = str(figure.layout.title.subtitle.text).replace(" · bold", "<br>bold", 1)
        return figure.update_layout(title_subtitle_text=subtitle)

    return Exhibit(
        name=name, section="", title=f"Learning curves of {subject}", compute=tuple, draw=draw, data=curve_data,
        depends=("metric",),
    )  # fmt: skip


def _curves(slot: Slot, scene: Scene) -> Computed[Any]:
    cell_id = _cell(scene, slot)
    if cell_id is None:
        raise NothingToShowError(_ASK[slot])
    curves = scene.results.cell_curves(cell_id)
    if not curves:
        raise NothingToShowError("The cell in the address is not in this study.")
    if not curves[0].times:
        raise NothingToShowError("No run of this cell has a learning curve.")
    return Computed(
        curves_exhibit(f"curves-{slot}", f"cell {slot.upper()}", tuple(scene.results.spec.optimizers)), curves
    )


def _cell(scene: Scene, slot: Slot) -> str | None:
    return scene.address.cell_a if slot == "a" else scene.address.cell_b


def _slots(scene: Scene) -> Component:
    return html.Div(
        [
            html.Span("A click on a map chooses", className="label", id="slot-label"),
            dmc.SegmentedControl(
                id={"type": "slot", "name": "slot"},
                data=[{"value": "a", "label": "cell A"}, {"value": "b", "label": "cell B, next to it"}],
                value=scene.address.slot,
                size="xs",
                **aria(labelledby="slot-label"),
            ),
        ],
        className="slots",
    )


def _seeds(slot: Slot, scene: Scene) -> Any:
    cell_id = _cell(scene, slot)
    rows = scene.results.cell_rows(cell_id) if cell_id else None
    if rows is None or not len(rows):
        return None
    first, metric = rows.iloc[0], scene.results.metric
    optimizer = str(first["optimizer"])
    names = scene.results.spec.optimizers[optimizer].hyperparameter_names
    table = Table(
        caption=f"Seeds of cell {slot.upper()}.",
        header=("seed", "status", metric.label, "steps", "device time", "run"),
        rows=[
            [
                str(run["seed"]),
                run["status"],
                metric_value(metric, float(run[metric.name])),
                "–" if math.isnan(float(run["steps"])) else f"{int(run['steps']):,}",
                duration(float(run["train_seconds"])),
                dcc.Link(
                    "open", href=scene.href(replace(scene.address, page="runs", run=str(run["trial_id"]))),
                    title=f"Open the run with seed {run['seed']}",
                ),
            ]
            for run in rows.to_dict("records")
        ],
        text_columns=2,
    )  # fmt: skip
    return html.Section(
        [
            html.H2(f"Cell {slot.upper()}: {optimizer_name(optimizer)}, batch size {first['batch_size']:,}"),
            html.P(settings(tuple((name, float(first[PARAM_PREFIX + name])) for name in names))),
            html_table(table),
        ],
        className="card",
    )


_SLOTS: tuple[Slot, ...] = ("a", "b")
_CURVES = tuple(
    FigureBlock(
        name=f"curves-{slot}",
        label=f"Learning curves of cell {slot.upper()}",
        show=partial(_curves, slot),
        depends=("metric", f"cell_{slot}"),
        width="half",
    )
    for slot in _SLOTS
)
_SEEDS = tuple(TextBlock(name=f"seeds-{slot}", content=partial(_seeds, slot), width="half") for slot in _SLOTS)

ROBUSTNESS = Page(
    name="robustness",
    title="Robustness",
    lead="How far can the hyperparameters move before the result is lost?",
    parts=("maps",),
    before={"robustness": (FixedBlock(name="slots", content=_slots),)},
    dock=tuple(block for pair in zip(_CURVES, _SEEDS, strict=True) for block in pair),
)
