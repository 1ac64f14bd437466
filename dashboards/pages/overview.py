"""Overview: the study's answers, the evidence for them, and its progress."""

from __future__ import annotations

from typing import Any

from dash import html
from dash.development.base_component import Component

from dashboards.actions import can_run_here, proposal_item
from dashboards.blocks import Page, Scene, TextBlock, aria, folded_list
from dashboards.exhibits import chosen_key
from sensitivity.analysis.names import merged
from sensitivity.figures.exhibit import PAIR, pair_of
from sensitivity.figures.gauge import Gauge
from sensitivity.figures.labels import target_label
from sensitivity.figures.settled_words import settling_price
from sensitivity.figures.verdict_words import Answer, answers
from sensitivity.study.metrics import METRICS
from sensitivity.study.words import duration

_MAX_ITEMS = 3


def _verdict(scene: Scene) -> Any:
    results = scene.results
    key = chosen_key(PAIR, scene)
    found = answers(results, pair_of(results, key)) if key else ()
    on = [html.P(f"For the target {_target(scene)}.", className="note")] if found else []
    refused = [html.P(caution.text, className="notice") for caution in results.why_not]
    ledger = results.tables.ledger
    ended = ledger is not None and ledger.settlement is not None and not ledger.settlement.stopped
    settles = can_run_here(scene) and not ended and any(answer.answer == "undetermined" for answer in found)
    texts = merged(caution.text for caution in (*results.look_cautions, *results.cautions))
    cautions = [html.H2("Before you conclude"), folded_list(texts, _MAX_ITEMS)] if texts else []
    return html.Section(
        [
            *on,
            *refused,
            html.Div([_answer(scene, answer, at) for at, answer in enumerate(found)], className="answers"),
            *(_settle_button(scene) if settles else []),
            html.Div(cautions, className="card verdict") if cautions else None,
        ]
    )


def _target(scene: Scene) -> str:
    target = scene.results.target
    return "" if target is None else target_label(METRICS[target[0]], target[1])


def _answer(scene: Scene, answer: Answer, at: int) -> Component:
    ways = [proposal_item(scene, way, f"answer-{at}") for way in answer.settle]
    why = [
        html.P(answer.role, className="note"),
        *([folded_list(answer.reasons, len(answer.reasons))] if answer.reasons else []),
        *([html.H4("What would settle it"), html.Ul(ways, className="ways")] if ways else []),
    ]
    return html.Article(
        [
            html.P([answer.question, " ", html.Strong(answer.answer)], className="note"),
            html.H2(answer.headline, className=f"answer {answer.answer}"),
            html.P(answer.effect) if answer.effect else None,
            *([] if answer.gauge is None else [_gauge(answer.gauge)]),
            html.Details([html.Summary("Why, and what would settle it" if ways else "Why"), *why]),
        ],
        className="card verdict",
    )


def _gauge(found: Gauge) -> Component:
    def span(kind: str, ends: tuple[float, float]) -> Component:
        return html.Span(className=kind, style={"left": f"{ends[0]}%", "width": f"{ends[1] - ends[0]}%"})

    value = [] if found.value is None else [html.Span(className="value", style={"left": f"{found.value}%"})]
    line = html.Div(
        [span("band", found.band), html.Span(className="equal"), span("interval", found.interval), *value],
        className="line",
        role="img",
        **aria(label=found.alt_text),
    )
    ends = html.Div([html.Span(found.left), html.Span("equal"), html.Span(found.right)], className="ends")
    return html.Div([line, ends], className="gauge")


def _settle_button(scene: Scene) -> list[Component]:
    return [
        html.Div(
            [
                html.Button("Settle it", id="settle", className="main-button"),
                html.Span(
                    "Runs what these questions need until each has an answer, separate from the study's own runs."
                    f" {settling_price(scene.results)}",
                    className="note",
                ),
            ],
            className="settle",
        ),
        html.Div(id="settling", role="status"),
    ]


def _spent(scene: Scene) -> Any:
    summary = scene.results.summary
    spent = duration(summary.total.train_seconds + summary.total.eval_seconds)
    sentence = (
        f"{spent} of device time so far, evaluations included; {duration(summary.elapsed_seconds)} from the first start"
        " to the last result."
    )
    return html.P(sentence, className="note")


_VERDICT = TextBlock(
    name="answers",
    content=_verdict,
    depends=("filters", "metric", "tolerance", "target", "margins"),
    options=(PAIR.name,),
)
_SPENT = TextBlock(name="spent", content=_spent, depends=("filters",))
OVERVIEW = Page(
    name="overview",
    title="Overview",
    lead="What was found, and on how much evidence.",
    parts=("answers", "settling", "best-cells", "targets", "status"),
    before={"verdict": (_VERDICT,), "status": (_SPENT,)},
)
