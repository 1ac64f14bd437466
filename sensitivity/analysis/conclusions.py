"""What a study concludes: to each question the answer that counts, whether its settlement gave it or its own design."""

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

    That of the settlement where it was asked the question; otherwise that of the study file's own design.
    """

    claim: Claim
    """What the study file's own design says, with the statistics behind it."""
    settled: Answer | None
    """What the settlement says; None where it wasn't asked this."""

    @property
    def question(self) -> Question:
        """Which optimizer scales further with batch size, or which is less sensitive to its hyperparameters."""
        return self.claim.verdict.question

    @property
    def pair(self) -> Pair:
        """The candidate, which the answer is about, and the reference."""
        return self.claim.verdict.candidate, self.claim.verdict.reference

    @property
    def source(self) -> Literal["design", "settlement"]:
        """Which runs the answer rests on."""
        return "design" if self.settled is None else "settlement"

    @property
    def answer(self) -> SettledAnswer:
        """Of the candidate; better means that it scales further, or is less sensitive.

        Only a settlement answers "blocked": no budget would settle the study as it is.
        """
        return self.claim.verdict.answer if self.settled is None else self.settled.answer

    @property
    def effect(self) -> Estimate:
        """Candidate over reference: of critical batch sizes, or of expected numbers of trials until a setting works."""
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
        """Ratio up to which the two are as good as equal, above 1; None without a test."""
        if self.settled is not None:
            return self.settled.claim.margin
        primary = self.claim.verdict.primary
        return None if primary is None else math.exp(primary.margin)

    @property
    def level(self) -> float:
        """Level of the effect's interval; that of a settlement holds at any look."""
        return 1 - self.claim.verdict.alpha if self.settled is None else self.settled.level

    @property
    def role(self) -> Role:
        """What the answer may claim."""
        if self.settled is None:
            return self.claim.role
        if not self.settled.claim.confirmatory:
            return "exploratory"
        return "primary" if self.claim.role == "primary" else "confirmatory"

    @property
    def error_rate(self) -> float:
        """Probability of a false claim: one-sided, or of a settlement at any moment at which it may stop."""
        return self.claim.rate if self.settled is None else self.settled.claim.alpha
