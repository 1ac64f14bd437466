"""The output of ``verdict --json``."""

from __future__ import annotations

import math

from pydantic import Field

from sensitivity.analysis.claims import Claim, Role
from sensitivity.analysis.paired import Answer
from sensitivity.analysis.study_results import StudyResults
from sensitivity.cli.json_output.base import Count, Number, Output, Part
from sensitivity.cli.json_output.settle import SettlementPart, settlement_part
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
        description="Its two ends, null for an end without a bound; null without an interval."
    )
    level: float = Field(description="Level of the interval, such as 0.975.")
    n: Count = Field(description="Number of what `of` names.")
    of: str = Field(description="What n counts: seeds, runs or configurations.")


class ReasonPart(Part):
    """A reason in words."""

    code: str = Field(description="Stable name of the kind of reason, such as few-seeds.")
    text: str = Field(description="The reason in words.")


class RemedyPart(Part):
    """What would settle a question, with its cost."""

    code: str = Field(description="Stable name of the kind of remedy, such as seeds.")
    text: str = Field(description="The remedy in words.")
    runs: Count = Field(description="Runs that it takes.")
    device_seconds: Number = Field(description="Device-seconds that they take; null where the study can't tell.")


class AnswerPart(Part):
    """The answer to one question about one pair of optimizers."""

    question: Question = Field(
        description="scaling: which scales further with batch size; sensitivity: which is less sensitive to its"
        " hyperparameters."
    )
    candidate: str = Field(description="Name of the optimizer that the answer is about.")
    reference: str = Field(description="Name of the optimizer that it is compared with.")
    answer: Answer = Field(description="Of the candidate; better means that it scales further, or is less sensitive.")
    role: Role = Field(
        description="primary: the claim that the study declares; confirmatory: one of several that share the error"
        " rate; exploratory: outside of it."
    )
    error_rate: float = Field(description="One-sided error rate of this claim; 0 where nothing may be claimed.")
    effect: EffectPart = Field(description="Size of the difference between the two, as a ratio.")
    p: Number = Field(
        description="Two-sided p-value of a difference beyond the margin; null without a test and with too few seeds."
    )
    p_equivalence: Number = Field(description="p-value of a difference within the margin; null without a test.")
    margin: Number = Field(description="Ratio up to which the two are as good as equal, above 1; null without a test.")
    reasons: tuple[ReasonPart, ...] = Field(description="Why the answer is what it is, the gravest first.")
    settle: tuple[RemedyPart, ...] = Field(
        description="What would settle the question; empty where it is settled, and where `settlement` has its answer."
    )


class VerdictOutput(Output):
    """The answers to a study's questions."""

    study: str = Field(description="Name of the study.")
    target: TargetPart | None = Field(description="The study's primary target; null without one.")
    answers: tuple[AnswerPart, ...] = Field(description="Of each compared pair to each question.")
    looks: tuple[ReasonPart, ...] = Field(
        description="How often the answers may have been looked at before, what that costs, and what was changed."
    )
    why_not: tuple[ReasonPart, ...] = Field(description="Why a question has no answer at all.")
    settlement: SettlementPart | None = Field(
        description="How far `settle` has come; its answers stand above those of the study file's own design. Null"
        " where nobody has begun."
    )


def verdict_output(results: StudyResults) -> VerdictOutput:
    """Return the output of ``verdict --json``."""
    target = results.target
    return VerdictOutput(
        study=results.spec.name,
        target=None if target is None else TargetPart(metric=target[0], level=target[1]),
        answers=tuple(
            _answer(claim, settled=results.settled_answer(claim.verdict) is not None) for claim in results.claims
        ),
        looks=tuple(ReasonPart.model_validate(look) for look in results.look_cautions),
        why_not=tuple(ReasonPart.model_validate(why) for why in results.why_not),
        settlement=None if results.tables.ledger is None else settlement_part(results.tables.ledger),
    )


def _answer(claim: Claim, *, settled: bool) -> AnswerPart:
    verdict = claim.verdict
    effect, primary = verdict.effect, verdict.primary
    return AnswerPart(
        question=verdict.question,
        candidate=verdict.candidate,
        reference=verdict.reference,
        answer=verdict.answer,
        role=claim.role,
        error_rate=claim.rate,
        effect=EffectPart(
            value=effect.value, interval=effect.interval, level=1 - verdict.alpha, n=effect.n, of=effect.of
        ),
        p=None if primary is None else primary.p,
        p_equivalence=None if primary is None else primary.p_equivalence,
        margin=None if primary is None else math.exp(primary.margin),
        reasons=tuple(ReasonPart.model_validate(reason) for reason in verdict.reasons),
        settle=() if settled else tuple(RemedyPart.model_validate(remedy) for remedy in verdict.settle),
    )
