"""A verdict in words: the answer, its evidence, and what would settle it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dash import html
from dash.development.base_component import Component

from dashboards.words import duration
from sensitivity.analysis.verdict import Verdict
from sensitivity.figures.labels import number, optimizer_name

_ANSWERS = {
    ("scaling", "better"): "{a} scales further than {b}.",
    ("scaling", "worse"): "{a} scales less far than {b}.",
    ("scaling", "equivalent"): "{a} and {b} scale equally far, within the margin.",
    ("scaling", "undetermined"): "Which of {a} and {b} scales further is undetermined.",
    ("sensitivity", "better"): "{a} is less sensitive than {b}.",
    ("sensitivity", "worse"): "{a} is more sensitive than {b}.",
    ("sensitivity", "equivalent"): "{a} and {b} are equally sensitive, within the margin.",
    ("sensitivity", "undetermined"): "Which of {a} and {b} is less sensitive is undetermined.",
}
_EFFECTS = {
    "scaling": "ratio of critical batch sizes",
    "sensitivity": "ratio of the trials expected until a setting works",
}
_MOST = 6


def verdict_text(verdicts: Sequence[Verdict]) -> list[Component]:
    """Return each verdict with its reasons."""
    return [_verdict(verdict) for verdict in verdicts]


def _verdict(verdict: Verdict) -> Component:
    names = {"a": optimizer_name(verdict.candidate), "b": optimizer_name(verdict.reference)}
    effect = verdict.effect
    evidence = []
    if effect.known:
        interval = (
            ""
            if effect.interval is None
            else f" (95% {number(effect.interval[0], 3)} to {number(effect.interval[1], 3)})"
        )
        evidence.append(
            f"{_EFFECTS[verdict.question]}: {number(effect.value, 3)}{interval}, n = {effect.n} {effect.of}"
        )
    reasons = list(dict.fromkeys(reason.text for reason in verdict.reasons))  # one holds at every batch size, say
    settle = [
        remedy.text + (f" ({_price(remedy.runs, remedy.device_seconds)})" if remedy.runs else "")
        for remedy in verdict.settle
    ]
    return html.Div(
        [
            html.H3(_ANSWERS[verdict.question, verdict.answer].format(**names), className=f"answer {verdict.answer}"),
            html.P(" ".join(evidence)) if evidence else None,
            _listed("Why", reasons),
            _listed("What would settle it", settle),
        ],
        className="verdict",
    )


def _price(runs: int, seconds: float) -> str:
    return f"{runs:,} runs" + ("" if math.isnan(seconds) else f", about {duration(seconds)} of device time")


def _listed(title: str, items: Sequence[str]) -> Component | None:
    if not items:
        return None
    kept = [html.Li(text) for text in items[:_MOST]]
    if len(items) > _MOST:
        kept.append(html.Li(f"… and {len(items) - _MOST:,} more."))
    return html.Div([html.H4(title), html.Ul(kept)])
