"""The whole verdict on a study as text, the same in the terminal and in Python."""

from __future__ import annotations

import textwrap

from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.labels import target_in_words
from sensitivity.figures.settled_words import settlement_summary
from sensitivity.figures.verdict_words import answers

_WIDTH = 100


def verdict_text(results: StudyResults) -> str:
    """Return the answers to a study's questions, with their reasons and with what would settle them."""
    lines = [", ".join(part for part in (results.spec.name, target_in_words(results.target)) if part)]
    cautions = (*results.source_cautions, *results.choice_cautions, *results.why_not, *results.look_cautions)
    lines += [_wrapped(caution.text) for caution in cautions]
    for answer in answers(results):
        lines += ["", answer.question, f"  {answer.answer.upper()}: {answer.headline}"]
        lines += [_wrapped(text, "  ") for text in (answer.effect, answer.role) if text]
        lines += ["  why:"] * bool(answer.reasons)
        lines += [_wrapped(text, "  - ") for text in answer.reasons]
        lines += ["  what would settle it:"] * bool(answer.settle)
        lines += [_wrapped(one.text, "  - ") for one in answer.settle]
    if results.settled and results.tables.ledger is not None:
        lines += ["", _wrapped(settlement_summary(results.tables.ledger))]
    return "\n".join(lines)


def _wrapped(text: str, mark: str = "") -> str:
    return textwrap.fill(text, _WIDTH, initial_indent=mark, subsequent_indent=" " * len(mark))
