"""The ledger of a settlement: each step, its reason, its cost and its result."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field

from sensitivity.study.amendments import Amendment, Declaration, Freeze, Observation, Point, Settlement, Shown, Step

Standing = Literal["under_way", "stopped", "settled", "open"]
"""Of a settlement: not at its end; ended by a budget; every question answered; at its end with a question open."""


class StepCost(Amendment):
    """The cost of a step's runs."""

    runs: Annotated[int, Field(ge=0)] = 0
    device_seconds: Annotated[float, Field(ge=0)] = 0.0
    """Of training and evaluation, each run's share of its pack."""
    flops: Annotated[float, Field(ge=0)] = 0.0

    @classmethod
    def total(cls, costs: Iterable[StepCost]) -> Self:
        """Return the sum of several costs."""
        every = tuple(costs)
        return cls(
            runs=sum(cost.runs for cost in every),
            device_seconds=sum(cost.device_seconds for cost in every),
            flops=sum(cost.flops for cost in every),
        )


class LedgerEntry(Amendment):
    """A completed step."""

    step: Step
    shown: Shown | None
    """What its runs showed; None of a step that was the last before a stop."""
    cost: StepCost


class Declared(Amendment):
    """The declaration, written before the first run and never changed."""

    declaration: Declaration
    hash: str
    known: tuple[tuple[Point, Observation], ...] = ()
    """Runs of the study's own design that had a result, which the scout need not repeat."""


class Ledger(Amendment):
    """All completed steps of a settlement."""

    declared: Declared
    entries: tuple[LedgerEntry, ...] = ()
    settlement: Settlement | None = None
    """The answers, once there are any; those of a settlement that was stopped may change when it goes on."""

    @property
    def declaration(self) -> Declaration:
        """What was declared before the first run."""
        return self.declared.declaration

    @cached_property
    def cost(self) -> StepCost:
        """The cost of all steps."""
        return StepCost.total(entry.cost for entry in self.entries)

    @property
    def standing(self) -> Standing:
        """How far it has come."""
        if self.settlement is None:
            return "under_way"
        if self.settlement.stopped:
            return "stopped"
        return "settled" if self.settlement.settled else "open"

    @property
    def freeze(self) -> Freeze | None:
        """What is fixed before the judging runs; None until then."""
        return next((entry.step.freeze for entry in self.entries if entry.step.freeze is not None), None)
