"""Results of a settlement under a view: its answers, and the statistics of each planned look."""

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
    """Statistics of a look at the scaling question."""

    seeds: int
    """Number of evaluating seeds so far."""
    ratio: float
    """Ratio of the candidate's critical batch size to the reference's."""
    low: float
    """Lower end of the ratio's interval at the level of the look; 0 if unbounded."""
    high: float
    """Upper end; infinite if unbounded."""
    answer: str


@dataclass(frozen=True, kw_only=True)
class SensitivityLook:
    """Statistics of a look at the sensitivity question.

    `better`, `worse` and `equivalent` are the e-values of the three claims: large values are evidence for a claim, and
    are valid at any stopping time.
    """

    blocks: int
    """Number of blocks of draws so far."""
    better: float
    worse: float
    equivalent: float
    candidate: float
    """Fraction of the candidate's draws that reached the target."""
    reference: float
    """Fraction of the reference's draws that reached the target."""


@dataclass(frozen=True, kw_only=True)
class SettledLooks:
    """All looks at the claims on a pair."""

    pair: Pair
    scaling: tuple[ScalingLook, ...]
    sensitivity: tuple[SensitivityLook, ...]
    claims: dict[Question, Claim]
    thresholds: tuple[float, float] | None
    """Smallest e-values for the claims "better" or "worse", and "equivalent"; None before the freeze."""


def settled_answers(
    ledger: Ledger | None, target: Target | None, margins: MarginsSpec, optimizers: Collection[str]
) -> tuple[Answer, ...]:
    """Return the answers of a settlement that are valid for the selected target, margins and optimizers.

    A study is settled for its declared target and margins, so there are none for others. Both optimizers of a pair must
    be selected.
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
