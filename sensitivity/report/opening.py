"""The opening of a study's report: the verdict with its evidence, what was run, and cautions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sensitivity.analysis.names import merged
from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.exhibit import PAIR, pair_of
from sensitivity.figures.labels import target_in_words
from sensitivity.figures.settled_words import settlement_summary
from sensitivity.figures.verdict_words import answers
from sensitivity.report import story
from sensitivity.report.exhibits import StudyPage
from sensitivity.report.parts import Answers, Exhibited, Nothing, Paragraph, Part, View, tabs


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The first section, which answers the study's questions."""

    id: str
    description: str
    parts: Sequence[Part]
    """The answers with their evidence, followed by what was run."""
    tiles: Sequence[tuple[str, int]]
    """Labels and numbers of runs by outcome."""
    findings: Sequence[str]
    cautions: Sequence[str]


def opening(page: StudyPage) -> Opening:
    """Return the opening of a study's report."""
    results = page.results
    total = results.summary.total
    begun, ledger = results.summary.begun, results.tables.ledger
    sentences = [story.design_sentences(results.spec, begun=begun), story.status_sentences(results.summary)]
    settled_alone = ledger is not None and not begun
    if ledger is not None and settled_alone:
        sentences = [settlement_summary(ledger)]
    if results.tables.unplanned:
        sentences.append(
            f"{results.tables.unplanned:,} further runs are kept in the directory but belong to no cell of the current"
            " plan; they are not counted here."
        )
    return Opening(
        id=f"{page.prefix}summary",
        description=results.spec.description,
        parts=(*(_answers(page) if total.planned else ()), *map(Paragraph, sentences)),
        tiles=() if settled_alone else (
            ("planned", total.planned), ("completed", total.completed), ("diverged", total.diverged),
            *((("stopped early", total.stopped),) if total.stopped else ()),
            ("failed", total.failed), ("waiting", total.waiting),
        ),
        findings=story.findings(results.maps),
        cautions=merged(caution.text for caution in results.cautions),
    )  # fmt: skip


def _answers(page: StudyPage) -> tuple[Part, ...]:
    """Return every answer, one pair at a time, then the number of looks, and the evidence."""
    results = page.results
    on = f"For the target {target_in_words(results.target)}." if results.claims else ""
    looks = tuple(caution.text for caution in results.look_cautions)
    return (
        *([Paragraph(on, muted=True)] if on else []),
        *tabs(page.prefix + PAIR.name, PAIR.label, _by_pair(results)),
        *([Exhibited(notes=looks)] if looks else []),
        *_without_given_reasons(page.exhibits("answers", switched=(PAIR.name,)), results),
    )


def _without_given_reasons(parts: Sequence[Part], results: StudyResults) -> list[Part]:
    """Return parts without the reasons for missing evidence that the verdict's reasons already contain."""
    reasons = [reason.text for claim in results.claims for reason in claim.verdict.reasons]
    return [
        Nothing([text for text in part.texts if not any(reason in text for reason in reasons)])
        if isinstance(part, Nothing)
        else part
        for part in parts
    ]


def _by_pair(results: StudyResults) -> list[View]:
    views = []
    for key, label in PAIR.values(results).items():
        pair = pair_of(results, key)
        own = answers(results, pair)
        if own:
            views.append(View(key, label, (Answers(own),)))
    return views
