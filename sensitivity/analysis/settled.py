"""What a settlement says of what is looked at: its answers, and what each planned look showed."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from sensitivity.analysis.estimates import Caution
from sensitivity.analysis.view import Target
from sensitivity.study.amendments import Answer, Claim, Phase
from sensitivity.study.ledger import Ledger
from sensitivity.study.primary import Pair, Question
from sensitivity.study.spec import MarginsSpec

OWN_DESIGN_WAITS = Caution(
    code="own-design-waits",
    text="The design of the study file has not been run, so there are no maps, curves or success rates. The answers are"
    " those of the settlement, which has runs of its own.",
)
PHASES: dict[Question, Phase] = {"scaling": "judge_scaling", "sensitivity": "judge_sensitivity"}


@dataclass(frozen=True, kw_only=True)
class ScalingLook:
    """What a look at the scaling question showed."""

    seeds: int
    """Judging seeds so far."""
    ratio: float
    """Of the candidate's critical batch size to the reference's."""
    low: float
    high: float
    """The interval at the look's level; 0 or infinite without that end."""
    answer: str


@dataclass(frozen=True, kw_only=True)
class SensitivityLook:
    """What a look at the sensitivity question showed."""

    blocks: int
    """Blocks of draws so far."""
    better: float
    worse: float
    equivalent: float
    """E-values of each claim: large ones speak for it, and stay valid whenever one stops."""
    candidate: float
    reference: float
    """Shares of draws that reached the target."""


@dataclass(frozen=True, kw_only=True)
class SettledLooks:
    """Every look at the claims on a pair."""

    pair: Pair
    scaling: tuple[ScalingLook, ...]
    sensitivity: tuple[SensitivityLook, ...]
    claims: dict[Question, Claim]
    thresholds: tuple[float, float] | None
    """E-values from which "better or worse" and "equivalent" are claimed; None before the freeze."""


def settled_answers(
    ledger: Ledger | None, target: Target | None, margins: MarginsSpec, optimizers: Collection[str]
) -> tuple[Answer, ...]:
    """Return the answers of a settlement that hold for what is looked at.

    A study is settled for its declared target and margins, and for the optimizers of a pair as a whole.
    """
    if ledger is None or ledger.settlement is None or ledger.declaration.target != target:
        return ()
    ratios = {"scaling": margins.scaling_ratio, "sensitivity": margins.tuning_ratio}
    return tuple(
        answer
        for answer in ledger.settlement.answers
        if answer.claim.margin == ratios[answer.claim.question]
        and {answer.claim.candidate, answer.claim.reference} <= set(optimizers)
    )


def settled_looks(ledger: Ledger, pair: Pair) -> SettledLooks:
    """Return the looks at the claims on a pair; empty before the first."""
    name = " against ".join(pair)
    scaling, sensitivity = [], []
    for entry in ledger.entries:
        facts = (entry.shown.facts if entry.shown is not None else {}).get(name)
        if facts is None:
            continue
        if entry.step.phase == PHASES["scaling"]:
            low, high = facts["interval"]
            scaling.append(
                ScalingLook(
                    seeds=facts["seeds"],
                    ratio=math.nan if facts["ratio"] is None else facts["ratio"],
                    low=0.0 if low is None else low,
                    high=math.inf if high is None else high,
                    answer=facts["answer"],
                )
            )
        elif entry.step.phase == PHASES["sensitivity"]:
            values = facts["e_values"]
            sensitivity.append(
                SensitivityLook(
                    blocks=facts["blocks"],
                    better=values["better"],
                    worse=values["worse"],
                    equivalent=min(values["not_better"], values["not_worse"]),
                    candidate=facts["success"][0],
                    reference=facts["success"][1],
                )
            )
    frozen = () if ledger.freeze is None else ledger.freeze.claims
    thresholds = (one.thresholds for one in frozen if (one.claim.candidate, one.claim.reference) == pair)
    claims = [claim for claim in ledger.declaration.claims if (claim.candidate, claim.reference) == pair]
    return SettledLooks(
        pair=pair,
        scaling=tuple(scaling),
        sensitivity=tuple(sensitivity),
        claims={claim.question: claim for claim in claims},
        thresholds=next((each for each in thresholds if each is not None), None),
    )
