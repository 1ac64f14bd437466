"""Conclusions of a study: the final answer to each question, from its settlement or from its own design."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from sensitivity.analysis.claims import Claim, Role
from sensitivity.analysis.estimates import Estimate
from sensitivity.study.amendments import Answer, SettledAnswer
from sensitivity.study.primary import Pair, Question

_COUNTED: dict[Question, str] = {"scaling": "judging seeds", "sensitivity": "blocks of draws"}


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """The answer to one question about one pair of optimizers.

    It is the settlement's answer if the settlement covers the question, otherwise that of the study file's own design.
    """

    claim: Claim
    """Answer of the study file's own design, with its statistics."""
    settled: Answer | None
    """Answer of the settlement; None if it does not cover the question."""

    @property
    def question(self) -> Question:
        """Question about batch sizes ("scaling") or about hyperparameters ("sensitivity")."""
        return self.claim.verdict.question

    @property
    def pair(self) -> Pair:
        """The candidate, which the answer describes, and the reference."""
        return self.claim.verdict.candidate, self.claim.verdict.reference

    @property
    def source(self) -> Literal["design", "settlement"]:
        """Source of the runs that the answer is based on."""
        return "design" if self.settled is None else "settlement"

    @property
    def answer(self) -> SettledAnswer:
        """Answer about the candidate: "better" means that it scales further, or is less sensitive.

        Only a settlement answers "blocked": no budget would settle the study in its present form.
        """
        return self.claim.verdict.answer if self.settled is None else self.settled.answer

    @property
    def effect(self) -> Estimate:
        """Ratio, candidate over reference, of critical batch sizes, or of expected trials until a setting succeeds."""
        if self.settled is None:
            return self.claim.verdict.effect
        found = self.settled
        value = math.nan if found.estimate is None else found.estimate
        low, high = found.low, found.high
        unknown = low is None and high is None
        return Estimate(
            value=value,
            interval=None if unknown else (0.0 if low is None else low, math.inf if high is None else high),
            n=found.observations,
            of=_COUNTED[self.question],
        )

    @property
    def margin(self) -> float | None:
        """Ratio, above 1, up to which two optimizers are considered equivalent; None without a test."""
        if self.settled is not None:
            return self.settled.claim.margin
        primary = self.claim.verdict.primary
        return None if primary is None else math.exp(primary.margin)

    @property
    def level(self) -> float:
        """Confidence level of the effect's interval; a settlement's interval is valid at any look."""
        return 1 - self.claim.verdict.alpha if self.settled is None else self.settled.level

    @property
    def role(self) -> Role:
        """Role of the answer: primary, confirmatory or exploratory."""
        if self.settled is None:
            return self.claim.role
        if not self.settled.claim.confirmatory:
            return "exploratory"
        return "primary" if self.claim.role == "primary" else "confirmatory"

    @property
    def error_rate(self) -> float:
        """Probability of a false claim: one-sided for a design; for a settlement, at any stopping time."""
        return self.claim.rate if self.settled is None else self.settled.claim.alpha
