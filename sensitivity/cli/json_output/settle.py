"""The outputs of ``settle --json`` and ``settle --dry-run --json``; ``verdict --json`` contains a part of the first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sensitivity.cli.json_output.base import Count, Number, Output, Part
from sensitivity.study.amendments import Answer, Phase, SettledAnswer, Step
from sensitivity.study.ledger import Ledger, LedgerEntry
from sensitivity.study.primary import Question

if TYPE_CHECKING:
    from sensitivity.execution.settling import NextStep


class SettledPart(Part):
    """The settled answer to one question about one pair of optimizers."""

    question: Question = Field(description="scaling or sensitivity.")
    candidate: str = Field(description="Name of the optimizer that the answer is about.")
    reference: str = Field(description="Name of the optimizer that it is compared with.")
    answer: SettledAnswer = Field(
        description="For the candidate. undetermined: not within the budget; blocked: no budget would be enough."
    )
    direction: Literal["better", "worse", "undetermined"] = Field(
        description="Which one is ahead, whether or not by the margin."
    )
    estimate: Number = Field(
        description="Candidate over reference: of critical batch sizes, or of expected trials; null if unknown."
    )
    interval: tuple[Number, Number] = Field(description="Its two ends, valid at any look; null for an unbounded end.")
    level: float = Field(description="Level of the interval over all looks.")
    error_rate: float = Field(description="Probability of a false claim, whenever the settlement stops.")
    margin: float = Field(description="Ratio up to which the two count as equivalent, above 1.")
    looks: Count = Field(description="Looks taken.")
    observations: Count = Field(description="Number of judging seeds, or of blocks of draws, behind the answer.")
    next_look_runs: Count | None = Field(description="Runs of the next look; null if none is left or needed.")
    says: str = Field(description="The answer in words.")
    reason: str = Field(description="Why it is undetermined or blocked; empty otherwise.")


class StepPart(Part):
    """A step of the ledger."""

    number: Count = Field(description="Number of the step, from 1.")
    phase: Phase = Field(description="What the step is for.")
    why: str = Field(description="Why the step was taken.")
    shown: str = Field(description="What the step showed; empty for a step without runs.")
    runs: dict[str, Count] = Field(description="Runs by optimizer.")
    device_seconds: float = Field(description="Device-seconds of these runs.")
    flops: float = Field(description="Floating-point operations of these runs.")


class SettlementPart(Part):
    """State of a study's settlement."""

    declaration: str = Field(description="Hash of the declaration made before the first run.")
    freeze: str | None = Field(description="Hash of the choices fixed before the judging runs; null before that.")
    ended: bool = Field(description="Whether there are answers; if a budget ended, they may change.")
    stopped: str = Field(description="Why it was stopped before its end; empty if it was not.")
    answers: tuple[SettledPart, ...] = Field(description="In the order of the declared claims; empty before the end.")
    runs: Count = Field(description="Runs of all steps.")
    grid_runs: Count = Field(description="Runs of the study file's own design.")
    device_seconds: float = Field(description="Device-seconds of all steps.")
    flops: float = Field(description="Floating-point operations of all steps.")


class SettleOutput(Output):
    """State of a study's settlement at the end of `settle`."""

    study: str = Field(description="Name of the study.")
    settlement: SettlementPart = Field(description="The answers and their cost.")
    steps: tuple[StepPart, ...] = Field(description="The ledger.")
    interrupted: bool = Field(description="Whether the command was stopped; the same command resumes it.")


class NextStepOutput(Output):
    """The next step of `settle`."""

    study: str = Field(description="Name of the study.")
    number: Count | None = Field(description="Number of the step, from 1; null if the settlement has ended.")
    phase: Phase | None = Field(description="What the step is for; null if the settlement has ended.")
    why: str = Field(description="Why it would be taken; empty if the settlement has ended.")
    runs: dict[str, Count] = Field(description="Runs by optimizer.")
    device_seconds: float | None = Field(description="Device-seconds on this machine; null for a step without runs.")
    wall_seconds: float | None = Field(description="Elapsed seconds with all workers; null for a step without runs.")


def settlement_part(ledger: Ledger) -> SettlementPart:
    """Return the output for a settlement."""
    settlement, cost = ledger.settlement, ledger.cost
    return SettlementPart(
        declaration=ledger.declared.hash,
        freeze=None if ledger.freeze is None else ledger.freeze.hash,
        ended=settlement is not None,
        stopped="" if settlement is None else settlement.stopped,
        answers=() if settlement is None else tuple(map(_answer, settlement.answers)),
        runs=cost.runs,
        grid_runs=ledger.declaration.grid_runs,
        device_seconds=cost.device_seconds,
        flops=cost.flops,
    )


def settle_output(ledger: Ledger, *, interrupted: bool) -> SettleOutput:
    """Return the output of ``settle --json``."""
    return SettleOutput(
        study=ledger.declaration.study,
        settlement=settlement_part(ledger),
        steps=tuple(map(_step, ledger.entries)),
        interrupted=interrupted,
    )


def next_step_output(found: NextStep) -> NextStepOutput:
    """Return the output of ``settle --dry-run --json``."""
    step, price = found.step, found.price
    return NextStepOutput(
        study=found.ledger.declaration.study,
        number=None if step is None else step.number,
        phase=None if step is None else step.phase,
        why="" if step is None else step.why,
        runs={} if step is None else step.runs_by_arm,
        device_seconds=None if price is None else price.device_seconds,
        wall_seconds=None if price is None else price.wall_seconds,
    )


def _answer(answer: Answer) -> SettledPart:
    return SettledPart(
        question=answer.claim.question,
        candidate=answer.claim.candidate,
        reference=answer.claim.reference,
        answer=answer.answer,
        direction=answer.direction,
        estimate=answer.estimate,
        interval=(answer.low, answer.high),
        level=answer.level,
        error_rate=answer.claim.alpha,
        margin=answer.claim.margin,
        looks=answer.looks,
        observations=answer.observations,
        next_look_runs=answer.next_look_runs,
        says=answer.says,
        reason=answer.reason,
    )


def _step(entry: LedgerEntry) -> StepPart:
    step: Step = entry.step
    return StepPart(
        number=step.number,
        phase=step.phase,
        why=step.why,
        shown="" if entry.shown is None else entry.shown.says,
        runs=step.runs_by_arm,
        device_seconds=entry.cost.device_seconds,
        flops=entry.cost.flops,
    )
