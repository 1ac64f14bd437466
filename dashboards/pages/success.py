"""Success rates: over batch size and target, between optimizers, and over the hyperparameter plane."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import dash_mantine_components as dmc
import plotly.graph_objects as go
from dash import html
from dash.development.base_component import Component

from dashboards.blocks import Block, FigureBlock, FixedBlock, Page, Scene, Table, aria
from dashboards.filters import target_words
from dashboards.flatten import flatten, flatten_arrays
from sensitivity.figures.exhibits.planes import draw_planes
from sensitivity.figures.exhibits.success import draw_success, draw_success_3d, draw_success_difference
from sensitivity.figures.labels import optimizer_name

_NO_TARGET = "The study declares no target; choose one in the address, such as target=test_accuracy:0.9."


def _blocks(scene: Scene) -> Sequence[Block]:
    names = list(scene.results.loaded.spec.optimizers)
    return (
        FixedBlock(content=_surfaces),
        FigureBlock(
            name="success",
            label="Success rate over batch size and target",
            draw=_draw,
            table=_table,
            depends=("filters", "metric", "surface"),
        ),
        *(
            FigureBlock(
                name=f"planes-{names.index(name)}",
                label=f"Where {optimizer_name(name)} reaches the target",
                draw=partial(_draw_planes, name),
                table=partial(_planes_table, name),
                depends=("filters", "target"),
            )
            for name in names
            if name in (scene.view.optimizers or names)
        ),
    )


def _surfaces(scene: Scene) -> Component:
    return html.Div(
        [
            html.Span("Shown as", className="label", id="surface-label"),
            dmc.SegmentedControl(
                id={"type": "filter", "name": "surface"},
                data=[
                    {"value": "contours", "label": "contours"},
                    {"value": "difference", "label": "difference of optimizers"},
                    {"value": "3d", "label": "3-D surface"},
                ],
                value=scene.view.surface,
                size="xs",
                **aria(labelledby="surface-label"),
            ),
        ],
        className="slots",
    )


def _draw(scene: Scene) -> go.Figure | str:
    results, theme = scene.results, scene.theme
    surfaces = results.success
    known = [surface for surface in surfaces if surface.refused is None and surface.targets]
    if not known:
        refused = [surface.refused.text for surface in surfaces if surface.refused is not None]
        return " ".join(refused) or "No run has a result yet, so there is no rate."
    figure: go.Figure
    if scene.view.surface == "difference":
        difference = results.success_difference
        if difference is None or not difference.batch_sizes:
            return "A difference takes two optimizers with a batch size in common."
        figure = draw_success_difference(difference, surfaces, theme=theme)
    elif scene.view.surface == "3d":
        if len(known[0].batch_sizes) < 2 or len(known[0].targets) < 2:
            return "A surface takes two batch sizes and two targets; the contours show what there is."
        figure = draw_success_3d(surfaces, theme=theme)
    else:
        figure = draw_success(surfaces, theme=theme)
    return figure


def _table(scene: Scene) -> Table:
    results = scene.results
    over = ("batch_sizes", "targets")
    if scene.view.surface == "difference":
        difference = results.success_difference
        return flatten_arrays([difference] if difference else [], over, ("difference", "low", "high"))
    return flatten_arrays(results.success, over, ("rate", "low", "high"))


def _draw_planes(optimizer: str, scene: Scene) -> go.Figure | str:
    target = scene.results.target
    if target is None:
        return _NO_TARGET
    planes = [plane for plane in scene.results.planes if plane.optimizer == optimizer]
    if not planes or planes[0].y_name is None:
        return f"{optimizer_name(optimizer)} has no plane of two hyperparameters."
    curves = {curve.optimizer: curve for curve in scene.results.scaling("steps")}
    best = {point.batch_size: point.parameters for point in curves[optimizer].points if point.parameters}
    figure: go.Figure = draw_planes(planes, target_words(*target), best=best, theme=scene.theme)
    return figure


def _planes_table(optimizer: str, scene: Scene) -> Table:
    return flatten([plane for plane in scene.results.planes if plane.optimizer == optimizer], parts="cells")


SUCCESS = Page(
    name="success",
    title="Success rates",
    lead="How likely is a configuration of the prior box to reach a target within the budget?",
    blocks=_blocks,
)
