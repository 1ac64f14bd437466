"""Scaling and cost: time to the target, the critical batch size, what it all cost, and what tuning costs."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from dashboards.blocks import Block, FigureBlock, Page, Scene, Table
from dashboards.filters import target_words
from dashboards.flatten import flatten
from sensitivity.analysis.scaling import ScalingCurve
from sensitivity.analysis.times import TimeUnit
from sensitivity.figures.exhibits.best_of_k import draw_best_of_k
from sensitivity.figures.exhibits.comparison import draw_profiles
from sensitivity.figures.exhibits.cost import draw_cost, draw_time_split
from sensitivity.figures.exhibits.critical import draw_critical
from sensitivity.figures.exhibits.scaling import draw_efficiency, draw_scaling

_NO_TARGET = "The study declares no target, so there is no time to it. Add one to the study file under [targets]."
_NO_RESULT = "No run has a result yet."


def _blocks(scene: Scene) -> Sequence[Block]:
    here = ("filters", "target", "unit")
    return (
        FigureBlock(
            name="scaling", label="Time to the target by batch size", draw=_scaling, table=_points, depends=here
        ),
        FigureBlock(
            name="efficiency",
            label="Efficiency of scaling",
            draw=_efficiency,
            table=_points,
            depends=here,
        ),
        FigureBlock(
            name="critical",
            label="Critical batch sizes",
            draw=_critical,
            table=_critical_table,
            depends=("filters", "target"),
        ),
        FigureBlock(
            name="cost",
            label="What the runs cost",
            draw=_cost,
            table=lambda scene: flatten(scene.results.cost),
            depends=("filters",),
        ),
        FigureBlock(
            name="best-of-k",
            label="Expected best of k trials",
            draw=_best_of_k,
            table=lambda scene: flatten(scene.results.best_of_k, columns=("k", "seconds", "expected", "low", "high")),
            depends=("filters", "metric", "unit"),
        ),
        FigureBlock(
            name="profiles",
            label="Performance profiles over batch sizes and targets",
            draw=_profiles,
            table=lambda scene: flatten(scene.results.profiles, columns=("factors", "share")),
            depends=("filters", "unit"),
            width="half",
        ),
        FigureBlock(
            name="time-split",
            label="Where the time of a step goes",
            draw=_time_split,
            table=lambda scene: flatten(scene.results.time_split),
            depends=("filters",),
            width="half",
        ),
    )


def _groups(scene: Scene, unit: TimeUnit) -> dict[str, Sequence[ScalingCurve]]:
    target, curves = scene.results.target, scene.results.scaling(unit)
    return {target_words(*target): curves} if target is not None and curves else {}


def _scaling(scene: Scene) -> go.Figure | str:
    groups = _groups(scene, scene.view.unit)
    return draw_scaling(groups, theme=scene.theme) if groups else _NO_TARGET


def _efficiency(scene: Scene) -> go.Figure | str:
    groups = _groups(scene, scene.view.unit)
    return draw_efficiency(groups, theme=scene.theme) if groups else _NO_TARGET


def _critical(scene: Scene) -> go.Figure | str:
    groups = _groups(scene, "steps")
    return draw_critical(groups, theme=scene.theme) if groups else _NO_TARGET


def _points(scene: Scene) -> Table:
    return flatten(scene.results.scaling(scene.view.unit), parts="points")


def _critical_table(scene: Scene) -> Table:
    curves = scene.results.scaling("steps")
    sizes = flatten([curve.critical for curve in curves if curve.critical is not None])
    names = [curve.optimizer for curve in curves if curve.critical is not None]
    rows = [[name, *row] for name, row in zip(names, sizes.rows, strict=True)]
    return Table(header=("optimizer", *sizes.header), rows=rows)


def _cost(scene: Scene) -> go.Figure | str:
    costs = [cost for cost in scene.results.cost if cost.runs]
    return draw_cost(costs, theme=scene.theme) if costs else _NO_RESULT


def _best_of_k(scene: Scene) -> go.Figure | str:
    curves = scene.results.best_of_k
    if all(curve.refused is not None or not curve.k for curve in curves):
        return " ".join(dict.fromkeys(c.refused.text for c in curves if c.refused is not None)) or _NO_RESULT
    drawable = [curve for curve in curves if curve.k]
    by_time = scene.view.unit in ("seconds", "flops")
    return draw_best_of_k(drawable, by="seconds" if by_time else "trials", theme=scene.theme)


def _profiles(scene: Scene) -> go.Figure | str:
    profiles = scene.results.profiles
    if not any(profile.cases for profile in profiles):
        return "No batch size and target that all optimizers were run at has been reached yet."
    return draw_profiles(profiles, theme=scene.theme)


def _time_split(scene: Scene) -> go.Figure | str:
    splits = scene.results.time_split
    return draw_time_split(splits, theme=scene.theme) if splits else "No run measured the phases of its steps."


SCALING = Page(
    name="scaling",
    title="Scaling and cost",
    lead="How far does a larger batch buy fewer steps, and what does it cost to get there?",
    blocks=_blocks,
)
