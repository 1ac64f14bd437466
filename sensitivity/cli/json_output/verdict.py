"""The output of ``verdict --json``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sensitivity.analysis.claims import Role
from sensitivity.analysis.conclusions import Conclusion
from sensitivity.analysis.study_results import StudyResults
from sensitivity.cli.json_output.base import Count, Number, Output, Part
from sensitivity.cli.json_output.settle import SettlementPart, settlement_part
from sensitivity.figures.settled_words import next_look
from sensitivity.study.amendments import SettledAnswer
from sensitivity.study.primary import Question


class TargetPart(Part):
    """A metric and the value that a run must reach."""

    metric: str = Field(description="Name of the metric, such as train_loss.")
    level: float = Field(description="The value to reach, in the metric's unit; accuracies are fractions.")


class EffectPart(Part):
    """A ratio of the candidate to the reference, with its interval."""

    value: Number = Field(
        description="scaling: ratio of critical batch sizes; sensitivity: ratio of the expected numbers of trials until"
        " a setting works. Null without an estimate."
    )
    interval: tuple[Number, Number] | None = Field(
        description="Its two ends, null for an unbounded end; null if there is no interval."
    )
    level: float = Field(description="Level of the interval, such as 0.975; for a settlement it holds at any look.")
    n: Count = Field(description="Number of the units named by `of`.")
    of: str = Field(description="What n counts, such as seeds.")


class ReasonPart(Part):
    """A reason in words."""

    code: str = Field(description="Stable name of the kind of reason, such as few-seeds.")
    text: str = Field(description="The reason in words.")


class RemedyPart(Part):
    """A step that would settle a question, with its cost."""

    code: str = Field(description="Stable name of the kind of remedy, such as seeds.")
    text: str = Field(description="The remedy in words.")
    runs: Count = Field(description="Runs that it needs.")
    device_seconds: Number = Field(description="Device-seconds of these runs; null if unknown.")


class AnswerPart(Part):
    """The answer to one question about one pair of optimizers."""

    question: Question = Field(
        description="scaling: which scales further with batch size; sensitivity: which is less sensitive to its"
        " hyperparameters."
    )
    candidate: str = Field(description="Name of the optimizer that the answer is about.")
    reference: str = Field(description="Name of the optimizer that it is compared with.")
    answer: SettledAnswer = Field(
        description="For the candidate; better means that it scales further, or is less sensitive. blocked: no budget"
        " would settle the study as declared."
    )
    source: Literal["design", "settlement"] = Field(
        description="Runs behind the answer: those of the study file's own design, or those of `settle`, whose answer"
        " takes precedence if it covered the question."
    )
    role: Role = Field(
        description="primary: the claim that the study declares; confirmatory: one of several that share the error"
        " rate; exploratory: neither of these."
    )
    error_rate: float = Field(
        description="Probability of a false claim: one-sided, or for a settlement whenever it stops; 0 if nothing may"
        " be claimed."
    )
    effect: EffectPart = Field(description="Size of the difference between the two, as a ratio.")
    p: Number = Field(
        description="Two-sided p-value of a difference beyond the margin; null without a test, with too few seeds and"
        " for a settlement."
    )
    p_equivalence: Number = Field(
        description="p-value of a difference within the margin; null without a test and for a settlement."
    )
    margin: Number = Field(description="Ratio up to which the two count as equivalent, above 1; null without a test.")
    reasons: tuple[ReasonPart, ...] = Field(description="Reasons for the answer, the most serious first.")
    settle: tuple[RemedyPart, ...] = Field(description="What would settle the question; empty if it is settled.")


class VerdictOutput(Output):
    """The answers to a study's questions."""

    study: str = Field(description="Name of the study.")
    target: TargetPart | None = Field(description="The study's primary target; null without one.")
    answers: tuple[AnswerPart, ...] = Field(description="One per compared pair and question.")
    looks: tuple[ReasonPart, ...] = Field(
        description="Number of earlier looks at the answers, their effect on the error rate, and what was changed."
    )
    why_not: tuple[ReasonPart, ...] = Field(description="Why a question has no answer at all.")
    settlement: SettlementPart | None = Field(
        description="State of the settlement, and its answers in full. Null if it has not begun."
    )


def verdict_output(results: StudyResults) -> VerdictOutput:
    """Return the output of ``verdict --json``."""
    target = results.target
    return VerdictOutput(
        study=results.spec.name,
        target=None if target is None else TargetPart(metric=target[0], level=target[1]),
        answers=tuple(map(_answer, results.conclusions)),
        looks=tuple(ReasonPart.model_validate(look) for look in results.look_cautions),
        why_not=tuple(ReasonPart.model_validate(why) for why in results.why_not),
        settlement=None if results.tables.ledger is None else settlement_part(results.tables.ledger),
    )


def _answer(one: Conclusion) -> AnswerPart:
    verdict = one.claim.verdict
    primary = verdict.primary if one.settled is None else None
    return AnswerPart(
        question=one.question,
        candidate=verdict.candidate,
        reference=verdict.reference,
        answer=one.answer,
        source=one.source,
        role=one.role,
        error_rate=one.error_rate,
        effect=EffectPart(
            value=one.effect.value, interval=one.effect.interval, level=one.level, n=one.effect.n, of=one.effect.of
        ),
        p=None if primary is None else primary.p,
        p_equivalence=None if primary is None else primary.p_equivalence,
        margin=one.margin,
        reasons=_reasons(one),
        settle=_remedies(one),
    )


def _reasons(one: Conclusion) -> tuple[ReasonPart, ...]:
    if one.settled is None:
        return tuple(map(ReasonPart.model_validate, one.claim.verdict.reasons))
    return (ReasonPart(code=one.settled.answer, text=one.settled.reason),) if one.settled.reason else ()


def _remedies(one: Conclusion) -> tuple[RemedyPart, ...]:
    if one.settled is None:
        return tuple(map(RemedyPart.model_validate, one.claim.verdict.settle))
    runs = one.settled.next_look_runs
    text = next_look(one.settled)
    return (RemedyPart(code="next-look", text=text, runs=runs, device_seconds=None),) if runs else ()
