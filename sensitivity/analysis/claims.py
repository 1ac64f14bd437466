"""Every verdict of a study, each with the error rate at which it may be claimed.

A study asks two questions of each pair of optimizers it compares, on one target. Together their claims are false with a
probability of at most ``looks.RATE``, at whichever of the possible looks they are made:

* a study that declares its ``[primary]`` claim gives that one the whole rate of the look; every other verdict is
  exploratory;
* otherwise all pairs and questions share it by Holm's procedure (1979): of m verdicts that are open each is tested at
  1/m of the rate, those that are claimed leave, and the rest is tested again;
* what was changed after results existed (targets, margins, pairs, the primary claim) makes every verdict exploratory.

Exploratory verdicts are corrected among themselves in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from sensitivity.analysis.clipping import Clipping
from sensitivity.analysis.draws import Draws
from sensitivity.analysis.estimates import Caution
from sensitivity.analysis.looks import RATE, Level, Looks
from sensitivity.analysis.remedies import Remedy
from sensitivity.analysis.scaling import ScalingCurve
from sensitivity.analysis.verdict import Margins, Verdict
from sensitivity.analysis.verdict_scaling import compute_scaling_verdict
from sensitivity.analysis.verdict_sensitivity import compute_sensitivity_verdict
from sensitivity.study.primary import Pair, Question
from sensitivity.study.spec import StudySpec

Role = Literal["primary", "confirmatory", "exploratory"]
_QUESTIONS: tuple[Question, ...] = ("scaling", "sensitivity")
Key = tuple[Pair, Question]
Compute = Callable[[float], Verdict]
"""Gives a verdict at a two-sided level: its interval, at 1 less the level, lies beyond the margin or within it."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A verdict, and what it may claim."""

    verdict: Verdict
    role: Role
    rate: float
    """One-sided error rate of this claim; 0 where nothing may be claimed."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the verdicts of a study rest on, for its primary target."""

    runs: pd.DataFrame
    """Of the study, to price what would settle a question."""
    curves: Sequence[ScalingCurve]
    """In steps."""
    draws: Sequence[Draws]
    clipping: Sequence[Clipping]


def compute_claims(
    spec: StudySpec, evidence: Evidence, looks: Looks, level: Level, *, chosen: bool = False
) -> tuple[Claim, ...]:
    """Return the verdict on every pair of `spec` that has runs, on both questions, in the order of its pairs.

    Args:
        spec: the study as it is now.
        evidence: for its primary target, or for what was chosen in its place.
        looks: at the study.
        level: of the present look (``looks.level``).
        chosen: whether runs or the target were chosen after results were seen, so that all verdicts are exploratory.
    """
    chosen = chosen or bool(looks.changed)
    pairs = compared_pairs(spec, evidence.runs)
    family = {(pair, question): _computer(spec, evidence, pair, question) for pair in pairs for question in _QUESTIONS}
    if spec.observed is not None and spec.observed.unpaired:
        family = {key: _unpaired(compute) for key, compute in family.items()}
    primary = _primary(spec)
    role: Role = "confirmatory" if primary is None and not chosen else "exploratory"
    first = {key: compute for key, compute in family.items() if key == primary}
    rest = {key: compute for key, compute in family.items() if key != primary}
    found = _holm(first, level, "exploratory" if chosen else "primary") | _holm(rest, level, role)
    return tuple(found[key] for key in family)


def compared_pairs(spec: StudySpec, runs: pd.DataFrame) -> tuple[Pair, ...]:
    """Return those pairs of optimizers that `spec` compares and that `runs` has both of."""
    there = set(runs["optimizer"])
    return tuple(pair for pair in spec.comparisons if set(pair) <= there)


def unanswered(spec: StudySpec, target: object | None, pairs: Sequence[Pair]) -> tuple[Caution, ...]:
    """Return why a study's questions have no answer at all: `target` and `pairs` are those that are looked at."""
    found = []
    if target is None:
        text = "The study declares no target, and both questions are about reaching one. Declare one."
        found.append(Caution(code="no-target", text=text))
    if len(spec.optimizers) < 2:
        text = "With one optimizer there is nothing to compare it with. Add a second one to the study file."
        found.append(Caution(code="one-optimizer", text=text))
    elif not pairs:
        text = "No two optimizers that the study compares are looked at. Widen the choice of optimizers."
        found.append(Caution(code="no-pair", text=text))
    return tuple(found)


def _unpaired(compute: Compute) -> Compute:
    """Return what computes the same verdict without its claim: runs of equal seed have nothing in common."""
    text = (
        "Seeds of these runs aren't known, so no run of one optimizer belongs to a run of the other, and every test"
        " here compares pairs. Import them with a column of seeds."
    )
    why = Caution(code="unpaired", text=text)

    def without_claim(alpha: float) -> Verdict:
        found = compute(alpha)
        return replace(found, answer="undetermined", blocks=(why, *found.blocks), reasons=(why, *found.reasons))

    return without_claim


def _primary(spec: StudySpec) -> Key | None:
    if spec.primary is None or not spec.comparisons:
        return None
    return spec.comparisons[0], spec.primary.question


def _computer(spec: StudySpec, evidence: Evidence, pair: Pair, question: Question) -> Compute:
    """Return what gives the verdict on a pair and a question at a two-sided level."""
    margins = Margins(scaling_ratio=spec.margins.scaling_ratio, tuning_ratio=spec.margins.tuning_ratio)
    if question == "scaling":
        return lambda alpha: compute_scaling_verdict(
            evidence.runs, evidence.curves, *pair, margins=margins, alpha=alpha
        )
    clipped = [c.refused for c in evidence.clipping if c.refused is not None and c.optimizer in pair]
    planned = evidence.runs[~evidence.runs["confirmation"].astype(bool)]
    return lambda alpha: compute_sensitivity_verdict(
        planned, evidence.draws, *pair, margins=margins, clipped=clipped, alpha=alpha
    )


def _holm(family: Mapping[Key, Compute], level: Level, role: Role) -> dict[Key, Claim]:
    """Return a claim for each of `family`, which share the rate of `level`."""
    found: dict[Key, Claim] = {}
    waiting = dict(family)
    while waiting:
        rate = (level.rate or RATE / 2) / len(waiting)
        claims = {key: _claim(compute, rate, level, role) for key, compute in waiting.items()}
        made = {key: claim for key, claim in claims.items() if claim.verdict.answer != "undetermined"}
        found |= made or claims
        waiting = {key: waiting[key] for key in waiting if made and key not in made}
    return found


def _claim(compute: Compute, rate: float, level: Level, role: Role) -> Claim:
    """Return a verdict at a one-sided rate: an interval at 1 - 2 x `rate` is beyond the margin, or within it."""
    verdict = compute(2 * rate)
    if not level.rate:  # the rate is only that of the interval
        # Other tests, and seeds that would do, belong to a plan of looks other than the one that was declared.
        verdict = replace(
            verdict,
            answer="undetermined",
            reasons=tuple(reason for reason in verdict.reasons if reason.code not in ("anytime", "batch-size")),
            remedies=(
                *(Remedy(code="look", text=caution.text) for caution in level.cautions),
                *(remedy for remedy in verdict.remedies if remedy.code != "seeds"),
            ),
        )
    return Claim(verdict=verdict, role=role, rate=rate if level.rate else 0.0)
