"""Sensitivity: robust regions in decades, what a wrong or shared setting costs, and which hyperparameters matter."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from dashboards.blocks import Block, FigureBlock, Page, Scene, Table
from dashboards.flatten import flatten
from sensitivity.figures.exhibits.importance import draw_importance, draw_ridge
from sensitivity.figures.exhibits.prices import draw_prices
from sensitivity.figures.exhibits.regions import draw_regions, draw_sensitivity
from sensitivity.figures.labels import target_label
from sensitivity.study.metrics import METRICS


def _blocks(scene: Scene) -> Sequence[Block]:
    return (
        FigureBlock(
            name="prices",
            label="The price of tuning: trials and costs until a setting works",
            draw=_prices,
            table=lambda scene: flatten(scene.results.prices),
            depends=("filters", "target"),
        ),
        FigureBlock(
            name="regions",
            label="Robust regions, decades a dimension",
            draw=_regions,
            table=lambda scene: flatten(scene.results.regions),
            depends=("filters", "metric", "tolerance", "target"),
        ),
        FigureBlock(
            name="sensitivity",
            label="What a wrong learning rate, or one setting for all batch sizes, costs",
            draw=_sensitivity,
            table=lambda scene: flatten(scene.results.lr_sensitivity),
            depends=("filters", "metric"),
        ),
        FigureBlock(
            name="importance",
            label="Importance of the hyperparameters",
            draw=_importance,
            table=_importance_table,
            depends=("filters", "metric"),
        ),
        FigureBlock(
            name="ridge",
            label="Learning rate against damping: the ridge",
            draw=_ridge,
            table=lambda scene: flatten(scene.results.importance),
            depends=("filters", "metric", "tolerance"),
        ),
    )


def _prices(scene: Scene) -> go.Figure | str:
    prices, target = scene.results.prices, scene.results.target
    if target is None:
        return _NO_TARGET
    if not any(price.trials.known or price.trials.interval for price in prices):
        return " ".join(dict.fromkeys(price.refused.text for price in prices if price.refused)) or _NOTHING
    return draw_prices(prices, target_label(METRICS[target[0]], target[1]), theme=scene.theme)


def _regions(scene: Scene) -> go.Figure | str:
    regions = scene.results.regions
    if not any(region.decades.known for region in regions):
        return " ".join(dict.fromkeys(r.decades.refused.text for r in regions if r.decades.refused)) or _NOTHING
    return draw_regions(regions, theme=scene.theme)


def _sensitivity(scene: Scene) -> go.Figure | str:
    lr, tunings = scene.results.lr_sensitivity, scene.results.tuning
    return draw_sensitivity(lr, tunings, theme=scene.theme) if lr and tunings else _NOTHING


def _importance(scene: Scene) -> go.Figure | str:
    found = scene.results.importance
    if not any(i.refused is None and i.shares for i in found):
        return " ".join(dict.fromkeys(i.refused.text for i in found if i.refused is not None)) or _NOTHING
    return draw_importance(found, theme=scene.theme)


def _importance_table(scene: Scene) -> Table:
    return flatten([i for i in scene.results.importance if i.refused is None], parts="shares")


def _ridge(scene: Scene) -> go.Figure | str:
    maps = [m for m in scene.results.maps if (m.x_name, m.y_name) == ("lr", "damping") and m.best is not None]
    if not maps:
        return "No optimizer here has measured maps over learning rate and damping."
    return draw_ridge(maps, scene.results.importance, theme=scene.theme)


_NO_TARGET = "The study declares no target; choose one in the address, such as target=test_accuracy:0.9."
_NOTHING = "There are too few results here for that yet."

SENSITIVITY = Page(
    name="sensitivity",
    title="Sensitivity",
    lead="What does it take to find a setting that works, and which hyperparameters matter?",
    blocks=_blocks,
)
