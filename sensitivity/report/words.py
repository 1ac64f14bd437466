"""The verdict in words: the same sentences in the report and in the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from sensitivity.analysis.estimates import Caution
from sensitivity.analysis.names import merged
from sensitivity.analysis.verdict import Verdict
from sensitivity.figures.labels import count, interval_text, number, optimizer_name, target_label
from sensitivity.report.results import Verdicts
from sensitivity.report.story import duration
from sensitivity.study.metrics import METRICS

QUESTIONS = {
    "scaling": "Does {one} scale further with batch size than {other}?",
    "sensitivity": "Is {one} less sensitive to its hyperparameters than {other}?",
}
_HEADLINES = {
    ("scaling", "better"): "{one} scales further with batch size than {other}.",
    ("scaling", "worse"): "{one} scales less far with batch size than {other}.",
    ("scaling", "equivalent"): "{one} and {other} scale equally far with batch size, within the margin.",
    (
        "sensitivity",
        "better",
    ): "{one} is less sensitive to its hyperparameters than {other}: tuning it takes fewer trials.",
    (
        "sensitivity",
        "worse",
    ): "{one} is more sensitive to its hyperparameters than {other}: tuning it takes more trials.",
    ("sensitivity", "equivalent"): "{one} and {other} are equally sensitive, within the margin.",
}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer to one of the two questions, as it is read."""

    question: str
    answer: str
    """better, worse, equivalent or undetermined."""
    headline: str
    effect: str
    """How large the difference is; empty where it is unknown."""
    reasons: tuple[str, ...]
    settle: tuple[str, ...]
    """What would settle it, with its cost."""


def answer_in_words(verdict: Verdict) -> Answer:
    """Return a verdict as it is read."""
    names = {"one": optimizer_name(verdict.candidate), "other": optimizer_name(verdict.reference)}
    question = QUESTIONS[verdict.question].format(**names)
    headline = _HEADLINES.get((verdict.question, verdict.answer))
    return Answer(
        question=question,
        answer=verdict.answer,
        headline=headline.format(**names) if headline else "This study can't tell.",
        effect=_effect(verdict, names),
        reasons=merged(reason.text for reason in verdict.reasons),
        settle=tuple(
            remedy.text + _price(remedy.runs, remedy.device_seconds) for remedy in dict.fromkeys(verdict.settle)
        ),
    )


def target_in_words(verdicts: Verdicts) -> str:
    """Return the primary target in words; empty without one."""
    return "" if verdicts.target is None else target_label(METRICS[verdicts.target[0]], verdicts.target[1])


def refusals(cautions: Iterable[Caution | None]) -> tuple[str, ...]:
    """Return why estimates were refused, each reason once."""
    return merged(caution.text for caution in cautions if caution is not None)


def _effect(verdict: Verdict, names: dict[str, str]) -> str:
    effect = verdict.effect
    n = f"n = {count(effect.n, effect.of.removesuffix('s'))}"
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
        f" ({n}, on average over batch sizes)."
    )


def _price(runs: int, seconds: float) -> str:
    if not runs:
        return ""
    cost = "" if math.isnan(seconds) else f", about {duration(seconds)} of device time"
    return f" That is {count(runs, 'run')}{cost}."
