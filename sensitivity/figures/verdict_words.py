"""Sentences of a verdict, the same in the report, the terminal and the dashboard."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from sensitivity.analysis.claims import Claim
from sensitivity.analysis.names import merged
from sensitivity.analysis.remedies import Edit, Remedy
from sensitivity.analysis.settled import OWN_DESIGN_WAITS
from sensitivity.analysis.study_results import StudyResults
from sensitivity.analysis.verdict import Verdict
from sensitivity.analysis.view import Target
from sensitivity.figures.gauge import Gauge, gauge
from sensitivity.figures.labels import count, interval_text, level_in_words, number, optimizer_name
from sensitivity.figures.settled_words import next_look, role, settlement_summary, settling_price
from sensitivity.study import amendments
from sensitivity.study.primary import Pair
from sensitivity.study.words import duration

_QUESTIONS = {
    "scaling": "Does {one} scale further with batch size than {other}?",
    "sensitivity": "Is {one} less sensitive to its hyperparameters than {other}?",
}
_HEADLINES = {
    ("scaling", "better"): "{one} scales further with batch size than {other}.",
    ("scaling", "worse"): "{one} scales less far with batch size than {other}.",
    ("scaling", "equivalent"): "{one} and {other} scale equally far with batch size, within the margin.",
    ("sensitivity", "better"): "{one} is less sensitive than {other}: tuning it takes fewer trials.",
    ("sensitivity", "worse"): "{one} is more sensitive than {other}: tuning it takes more trials.",
    ("sensitivity", "equivalent"): "{one} and {other} are equally sensitive, within the margin.",
}
_DIRECTIONS = {
    ("scaling", True): "{one} scaling further with batch size than {other}",
    ("scaling", False): "{one} scaling less far with batch size than {other}",
    ("sensitivity", True): "{one} being cheaper to tune than {other}",
    ("sensitivity", False): "{one} being more costly to tune than {other}",
}
"""By question, and by whether the candidate is ahead."""
_NOT_COVERED = (
    "The settlement did not cover this question with this target and margin, and the design of the study file has not"
    " been run."
)
_SETTLE_HINT = "Or let `sensitivity settle` run what the questions need, on fresh seeds. {price}"
_RUNNING = "The study is running: its missing runs are in progress, and the answer may change."
_ROLES = {
    "primary": "The claim of this study, declared before it ran. Error rate {rate}.",
    "confirmatory": "One of the claims that share the study's error rate. Error rate {rate}.",
    "exploratory": "Exploratory: not the claim that was fixed before the study ran. Nominal error rate {rate}.",
}


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A step that would settle a question, in words."""

    text: str
    """Description with its cost."""
    code: str
    """Code of a ``Remedy``; "settle" for a settlement."""
    edits: tuple[Edit, ...] = ()
    """Changes to the study file for it, if they are known exactly."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A verdict in words."""

    question: str
    answer: str
    """better, worse, equivalent or undetermined; for a settlement also blocked, if no budget would suffice."""
    headline: str
    role: str
    """What may be concluded: the study's own claim, one of several, or exploratory; and its error rate."""
    effect: str
    """How large the difference is; empty if it is unknown."""
    reasons: tuple[str, ...]
    settle: tuple[Proposal, ...]
    """What would settle it, with its cost."""
    gauge: Gauge | None = None
    """The interval and the margin; None without an interval."""


def answers(results: StudyResults, pair: Pair | None = None) -> tuple[Answer, ...]:
    """Return the answers to a study's questions in words, for one pair or all.

    For a question that was settled, the answer of the settlement replaces that of the study file's own design. For a
    question that the settlement did not cover, a sentence says so while that design has no runs.
    """
    ledger = results.tables.ledger
    found = []
    for conclusion in results.conclusions:
        if pair not in (None, conclusion.pair):
            continue
        if conclusion.settled is not None:
            found.append(_settled(conclusion.settled))
            continue
        own = answer_in_words(conclusion.claim, target=results.target, running=results.tables.running)
        if OWN_DESIGN_WAITS in results.cautions:  # otherwise every reason would say that it has no runs
            own = replace(own, reasons=(_NOT_COVERED,), settle=own.settle[:1])
        further = ""
        if ledger is not None and ledger.settlement is None:
            further = f"A settlement is under way; the same command continues it. {settlement_summary(ledger)}"
        elif ledger is None and own.answer == "undetermined" and results.spec.observed is None:
            further = _SETTLE_HINT.format(price=settling_price(results))
        found.append(replace(own, settle=(*own.settle, _settle_proposal(further))) if further else own)
    return tuple(found)


def _settle_proposal(text: str) -> Proposal:
    return Proposal(text=text, code="settle")


def _settled(answer: amendments.Answer) -> Answer:
    """Return an answer of a settlement in words."""
    names = {"one": optimizer_name(answer.claim.candidate), "other": optimizer_name(answer.claim.reference)}
    headline = _HEADLINES.get((answer.claim.question, answer.answer))
    more = next_look(answer)
    return Answer(
        question=_QUESTIONS[answer.claim.question].format(**names),
        answer=answer.answer,
        headline=headline.format(**names) if headline else _unsettled_headline(answer, names),
        role=role(answer),
        effect=answer.says,
        reasons=merged(text for text in (answer.reason,) if text and text not in answer.says),
        settle=(_settle_proposal(more),) if more else (),
        gauge=gauge(
            ratio=answer.estimate,
            ends=(answer.low, answer.high),
            margin=answer.claim.margin,
            flipped=answer.claim.question == "sensitivity",
            **names,
        ),
    )


def answer_in_words(claim: Claim, *, target: Target | None = None, running: bool = False) -> Answer:
    """Return a verdict in words; if the study is running, the text says so instead of proposing to run it."""
    verdict = claim.verdict
    names = {"one": optimizer_name(verdict.candidate), "other": optimizer_name(verdict.reference)}
    headline = _HEADLINES.get((verdict.question, verdict.answer), _open_headline(verdict, running=running))
    rate = f"{claim.rate:.2%}" if claim.rate else "0: nothing is claimed at this look"
    return Answer(
        question=_QUESTIONS[verdict.question].format(**names),
        answer=verdict.answer,
        headline=headline.format(**names),
        role=_ROLES[claim.role].format(rate=rate),
        effect=_effect(verdict, names),
        reasons=merged(
            _RUNNING if running and reason.code == "incomplete" else reason.text for reason in verdict.reasons
        ),
        settle=tuple(
            _proposal(remedy, target)
            for remedy in dict.fromkeys(verdict.settle)
            if not (running and remedy.code == "finish")
        ),
        gauge=_gauge(verdict, names),
    )


def _proposal(remedy: Remedy, target: Target | None) -> Proposal:
    edits = remedy.edits
    if remedy.code == "confirm" and target is not None:
        edits = (*edits, (("search", "target"), f"{{ {target[0]} = {target[1]:g} }}"))
    text = remedy.text + _price(remedy.runs, remedy.device_seconds)
    return Proposal(text=text, code=remedy.code, edits=edits)


def _gauge(verdict: Verdict, names: dict[str, str]) -> Gauge | None:
    if verdict.primary is None or verdict.effect.interval is None:
        return None
    return gauge(
        ratio=verdict.effect.value,
        ends=verdict.effect.interval,
        margin=math.exp(verdict.primary.margin),
        flipped=verdict.question == "sensitivity",
        **names,
    )


def _open_headline(verdict: Verdict, *, running: bool) -> str:
    """Return the headline of a question without an answer, with name fields: which way it points, if any."""
    low, high = verdict.effect.interval or (math.nan, math.nan)
    if math.isnan(low) and math.isnan(high):
        return "Still running: no conclusion yet." if running else "This study can't answer it."
    begun = "Still running. So far it" if running else "Not settled. It"
    if low <= 1 <= high:
        return f"{begun} may be either way."
    return f"{begun} points to {_DIRECTIONS[verdict.question, (low > 1) == (verdict.question == 'scaling')]}."


def _unsettled_headline(answer: amendments.Answer, names: dict[str, str]) -> str:
    """Return the headline of a question that a settlement has left open."""
    if answer.answer == "blocked":
        return "More runs would not settle this study as declared."
    if answer.direction not in ("better", "worse"):
        return "Not settled."
    direction = _DIRECTIONS[answer.claim.question, answer.direction == "better"]
    return f"Not settled. It points to {direction.format(**names)}."


def _effect(verdict: Verdict, names: dict[str, str]) -> str:
    effect = verdict.effect
    n = f"{level_in_words(verdict.alpha)} interval, n = {count(effect.n, effect.of.removesuffix('s'))}"
    if verdict.question == "scaling":
        if effect.known:
            return f"{names['one']}'s critical batch size is {interval_text(effect)} times {names['other']}'s ({n})."
        if effect.interval is None:
            return ""
        low, high = effect.interval
        bounds = f"between {number(low, 3)} and {number(high, 3)}" if math.isfinite(high) else f"above {number(low, 3)}"
        return f"The ratio of critical batch sizes lies {bounds} ({n})."
    if not effect.known:
        return ""
    return (
        f"{names['one']} takes {interval_text(effect)} times as many trials as {names['other']} until a setting works"
        f" ({n}; mean over batch sizes)."
    )


def _price(runs: int, seconds: float) -> str:
    if not runs:
        return ""
    cost = "" if math.isnan(seconds) else f", about {duration(seconds)} of device time"
    return f" That is {count(runs, 'run')}{cost}."
