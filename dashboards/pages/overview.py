"""Overview of a study: the verdict and its evidence, the denominators, the best cells, the cost so far."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import plotly.graph_objects as go
from dash import html

from dashboards.blocks import Block, FigureBlock, Page, Scene, Table, TextBlock, html_table
from dashboards.flatten import flatten
from dashboards.pages.verdicts import verdict_text
from sensitivity.analysis.maps import RobustnessMap
from sensitivity.analysis.summary import Tally
from sensitivity.analysis.verdict import Verdict
from sensitivity.figures.exhibits.comparison import draw_verdict
from sensitivity.figures.exhibits.targets import draw_targets
from sensitivity.figures.labels import metric_value, number, optimizer_name, parameter_name
from sensitivity.study.words import duration

_QUESTIONS = ("scaling", "sensitivity")


def _blocks(scene: Scene) -> Sequence[Block]:
    return (
        TextBlock(name="verdict", content=_verdict, depends=("filters", "metric", "tolerance", "target")),
        *(
            FigureBlock(
                name=f"evidence-{question}",
                label=f"Evidence on {question}, seed by seed",
                draw=partial(_evidence, question),
                table=partial(_evidence_table, question),
                depends=("filters", "metric", "tolerance", "target"),
            )
            for question in _QUESTIONS
        ),
        TextBlock(name="best", content=_best, depends=("filters", "metric", "tolerance")),
        FigureBlock(
            name="targets",
            label="Runs that reach each target",
            draw=_draw_targets,
            table=lambda scene: flatten(scene.results.targets),
            depends=("filters", "target"),
        ),
        TextBlock(name="counts", content=_counts, depends=("filters",)),
    )


def _verdict(scene: Scene) -> Any:
    results = scene.results
    shown = verdict_text(results.claims)
    if not shown:
        shown = [html.P("A verdict compares two optimizers; there is one here.", className="note")]
    looks, level = results.looks
    beware = [html.Li(caution.text) for caution in (*level.cautions, *looks.changed, *results.cautions)]
    return html.Section(
        [html.H2("Verdict"), *shown, *([html.H2("Before you conclude"), html.Ul(beware)] if beware else [])],
        className="card verdict",
    )


def _found(question: str, scene: Scene) -> Verdict | None:
    verdicts = [claim.verdict for claim in scene.results.claims]
    return next((verdict for verdict in verdicts if verdict.question == question), None)


def _evidence(question: str, scene: Scene) -> go.Figure | str:
    verdict = _found(question, scene)
    if verdict is None or (verdict.primary is None and not verdict.by_batch):
        return f"On {question} there is nothing to compare yet: it takes two optimizers with results by shared seeds."
    figure: go.Figure = draw_verdict(verdict, theme=scene.theme)
    return figure


def _evidence_table(question: str, scene: Scene) -> Table:
    verdict = _found(question, scene)
    if verdict is None:
        return Table(header=(), rows=())
    pooled = (verdict.primary,) if verdict.primary else ()
    return flatten((*pooled, *verdict.by_batch))


def _best(scene: Scene) -> Any:
    metric = scene.results.metric
    header = ("optimizer", "batch size", "best configuration", f"median {metric.label}", "seeds from–to", "completed")
    rows = [_best_row(map_) for map_ in scene.results.maps]
    if not rows:
        return html.Section([html.H2("Best cells"), html.P("No run has a result yet.")], className="card")
    table = Table(header=header, rows=rows)
    said = "The best of many noisy cells flatters itself; the verdict judges winners on other seeds."
    return html.Section(
        [html.H2("Best cells"), html.P(said, className="note"), html_table(table, f"Best cells by {metric.label}.")],
        className="card",
    )


def _best_row(map_: RobustnessMap) -> list[object]:
    best = map_.best_cell
    if best is None:
        return [optimizer_name(map_.optimizer), map_.batch_size, "nothing completed", "–", "–", "–"]
    pairs = [(map_.x_name, best.x), *([(map_.y_name, best.y)] if map_.y_name else []), *map_.slice_at]
    return [
        optimizer_name(map_.optimizer),
        map_.batch_size,
        ", ".join(f"{parameter_name(name)} {number(value, 3)}" for name, value in pairs),
        metric_value(map_.metric, best.median),
        f"{metric_value(map_.metric, best.low)} – {metric_value(map_.metric, best.high)}",
        f"{best.completed} of {best.planned}",
    ]


def _draw_targets(scene: Scene) -> go.Figure | str:
    outcomes = scene.results.targets
    if not outcomes:
        return "The study declares no target. Add one to the study file, such as test_accuracy = [0.95] in [targets]."
    figure: go.Figure = draw_targets(outcomes, theme=scene.theme)
    return figure


def _counts(scene: Scene) -> Any:
    summary = scene.results.summary
    header = (
        "optimizer", "batch size", "cells", "seeds", "planned", "completed", "diverged", "stopped", "failed",
        "interrupted", "pending", "steps", "device time", "FLOPs",
    )  # fmt: skip
    rows: list[list[object]] = [
        [optimizer_name(g.optimizer), g.batch_size, g.cells, g.seeds, *_tally(g.tally)] for g in summary.groups
    ]
    rows.append(["all", "", "", "", *_tally(summary.total)])
    spent = duration(summary.total.train_seconds + summary.total.eval_seconds)
    said = (
        f"{spent} of device time so far, evaluations included; {duration(summary.elapsed_seconds)} from the first start"
        " to the last result."
    )
    return html.Section(
        [
            html.H2("Every planned run, and its cost"),
            html.P(said, className="note"),
            html_table(Table(header=header, rows=rows), "Planned runs by status. No run leaves a count."),
        ],
        className="card",
    )


def _tally(tally: Tally) -> list[object]:
    ended = (tally.completed, tally.diverged, tally.stopped, tally.failed, tally.interrupted, tally.pending)
    return [tally.planned, *ended, tally.steps, duration(tally.train_seconds), number(tally.flops, 3)]


OVERVIEW = Page(name="overview", title="Overview", lead="What was found, and from how much.", blocks=_blocks)
