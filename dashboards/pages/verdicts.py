"""A verdict in words: the answer, its evidence, and what would settle it."""

from __future__ import annotations

from collections.abc import Sequence

from dash import html
from dash.development.base_component import Component

from sensitivity.analysis.claims import Claim
from sensitivity.figures.verdict_words import answer_in_words

_MOST = 6


def verdict_text(claims: Sequence[Claim]) -> list[Component]:
    """Return each verdict with its reasons."""
    return [_verdict(claim) for claim in claims]


def _verdict(claim: Claim) -> Component:
    answer = answer_in_words(claim)
    return html.Div(
        [
            html.P(answer.question, className="note"),
            html.H3(f"{answer.answer.capitalize()}: {answer.headline}", className=f"answer {answer.answer}"),
            html.P(answer.effect) if answer.effect else None,
            html.P(answer.role, className="note"),
            _listed("Why", answer.reasons),
            _listed("What would settle it", answer.settle),
        ],
        className="verdict",
    )


def _listed(title: str, items: Sequence[str]) -> Component | None:
    if not items:
        return None
    kept = [html.Li(text) for text in items[:_MOST]]
    rest = [html.Li(text) for text in items[_MOST:]]
    more = [html.Details([html.Summary(f"{len(rest):,} more"), html.Ul(rest)])] if rest else []
    return html.Div([html.H4(title), html.Ul(kept), *more])
