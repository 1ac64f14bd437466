"""The ledger of a settlement: each step, its reason, its cost and its result."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field

from sensitivity.study.amendments import Amendment, Declaration, Freeze, Observation, Point, Settlement, Shown, Step

Standing = Literal["under_way", "stopped", "settled", "open"]
"""State of a settlement: in progress; stopped by a budget; finished with every question answered; finished with an
open question."""


class StepCost(Amendment):
    """The cost of a step's runs."""

    runs: Annotated[int, Field(ge=0)] = 0
    device_seconds: Annotated[float, Field(ge=0)] = 0.0
    """Time of training and evaluation; each run counts its share of its pack."""
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
    """Summary of its runs; None for the last step before a stop."""
    cost: StepCost


class Declared(Amendment):
    """The declaration, written before the first run and never changed."""

    declaration: Declaration
    hash: str
    known: tuple[tuple[Point, Observation], ...] = ()
    """Results of the study's own design, which the scout phase does not repeat."""


class Ledger(Amendment):
    """All completed steps of a settlement."""

    declared: Declared
    entries: tuple[LedgerEntry, ...] = ()
    settlement: Settlement | None = None
    """The answers, if there are any; those of a stopped settlement may change when it resumes."""

    @property
    def declaration(self) -> Declaration:
        """The declaration made before the first run."""
        return self.declared.declaration

    @cached_property
    def cost(self) -> StepCost:
        """Total cost of all steps."""
        return StepCost.total(entry.cost for entry in self.entries)

    @property
    def standing(self) -> Standing:
        """State of the settlement."""
        if self.settlement is None:
            return "under_way"
        if self.settlement.stopped:
            return "stopped"
        return "settled" if self.settlement.settled else "open"

    @property
    def freeze(self) -> Freeze | None:
        """Configurations and criteria fixed before the judging runs; None before the freeze."""
        return next((entry.step.freeze for entry in self.entries if entry.step.freeze is not None), None)
