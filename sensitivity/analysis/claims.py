"""All verdicts of a study, each with the error rate at which it may be claimed.

A study has two questions about each pair of optimizers that it compares, for one target. The probability that any of
the claims is false is at most ``looks.RATE``, at whichever of the possible looks they are made:

* if the study declares a ``[primary]`` claim, that claim is tested at the whole rate of the look, and every other
  verdict is exploratory;
* otherwise all pairs and questions share the rate by Holm's procedure (1979): each of the m open verdicts is tested at
  1/m of the rate, those that are claimed are removed, and the others are tested again;
* a change of the targets, margins, pairs or primary claim after results existed makes every verdict exploratory.

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
"""Computes a verdict at a two-sided level alpha: its interval at 1 - alpha lies beyond the margin or within it."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A verdict, with its role and the error rate at which it may be claimed."""

    verdict: Verdict
    role: Role
    rate: float
    """One-sided error rate of this claim; 0 if nothing may be claimed."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Data that the verdicts of a study are computed from, for its primary target."""

    runs: pd.DataFrame
    """Runs of the study, which the prices of remedies are based on."""
    curves: Sequence[ScalingCurve]
    """Scaling curves in steps."""
    draws: Sequence[Draws]
    clipping: Sequence[Clipping]


def compute_claims(
    spec: StudySpec, evidence: Evidence, looks: Looks, level: Level, *, chosen: bool = False
) -> tuple[Claim, ...]:
    """Return the verdicts on both questions for every pair of `spec` that has runs, in the order of the pairs.

    Args:
        spec: the study as it is now.
        evidence: data for the primary target, or for a target chosen instead.
        looks: possible looks at the study so far.
        level: error rate of the present look (``looks.level``).
        chosen: whether runs or the target were selected after results were known; all verdicts are then exploratory.
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
    """Return the pairs of optimizers that `spec` compares and that both have runs."""
    present = set(runs["optimizer"].unique())
    return tuple(pair for pair in spec.comparisons if set(pair) <= present)


def unanswered(spec: StudySpec, target: object | None, pairs: Sequence[Pair]) -> tuple[Caution, ...]:
    """Return the reasons why a study's questions have no answer, for the selected `target` and `pairs`."""
    found = []
    if target is None:
        text = "The study declares no target, and both questions are about reaching one. Declare one under [targets]."
        found.append(Caution(code="no-target", text=text))
    if len(spec.optimizers) < 2:
        text = "With one optimizer there is nothing to compare it with. Add a second one to the study file."
        found.append(Caution(code="one-optimizer", text=text))
    elif not pairs:
        text = "No two optimizers that the study compares are selected. Select both optimizers of a pair."
        found.append(Caution(code="no-pair", text=text))
    return tuple(found)


def _unpaired(compute: Compute) -> Compute:
    """Return a function that computes the same verdict without its claim, because runs can't be paired by seed."""
    text = (
        "The seeds of these runs aren't known, so runs of two optimizers can't be paired, and every test here"
        " compares pairs. Import the runs with a column of seeds."
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
    """Return a function that computes the verdict on a pair and a question at a two-sided level."""
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
    """Return the claims of a family of verdicts that share the rate of `level`, by Holm's procedure."""
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
    """Return the claim at a one-sided rate: an interval at 1 - 2 x `rate` lies beyond the margin, or within it."""
    verdict = compute(2 * rate)
    if not level.rate:  # nothing may be claimed at this look; `rate` only sets the level of the interval
        # Drop the anytime tests and the number of seeds needed: they assume other looks than the declared ones.
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
