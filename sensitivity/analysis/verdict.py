"""Verdicts on two optimizers: which scales further with batch size, and which is less sensitive.

Each question has one primary test, pooled over batch sizes and paired by seed (docs/statistics.md, section 8):

* scaling (``verdict_scaling``): the log ratio of critical batch sizes (``size_ratio``). Secondary tests are on the log
  ratio of times to the target at each batch size, with Holm's correction, and on the log ratio of speed-ups from the
  smallest to the largest batch size, which needs no model of S(B);
* sensitivity (``verdict_sensitivity``): the ratio of the expected number of trials until a setting drawn from each
  optimizer's declared prior succeeds, averaged over batch sizes (``price``).

One interval decides: "better" or "worse" if it lies beyond the margin, "equivalent" if it lies within. Scaling requires
six evaluating seeds (``paired``; ``honest``: six on which the best cells were confirmed, or the second half of eleven).
Conditions that would make the answer an artefact make it undetermined, with the reason: a best cell at the edge of the
grid, waiting runs, targets that the budget can't reach, evaluations too far apart, adaptive samples, an active KL clip.
All reasons, and all remedies, are reported at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from sensitivity.analysis.betting import Anytime
from sensitivity.analysis.estimates import Caution, Estimate
from sensitivity.analysis.intervals import smallest_sign_flip_p
from sensitivity.analysis.paired import ALPHA, Answer, PairedComparison, fewest_seeds
from sensitivity.analysis.remedies import Remedy, finish

Question = Literal["scaling", "sensitivity"]


@dataclass(frozen=True, kw_only=True)
class Margins:
    """Equivalence margins: ratios, above 1, up to which a difference is negligible."""

    scaling_ratio: float = 1.25
    """Margin for critical batch sizes and times to a target."""
    tuning_ratio: float = 1.5
    """Margin for expected numbers of trials."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer to one question about a pair of optimizers, with its reasons and remedies."""

    question: Question
    candidate: str
    reference: str
    answer: Answer
    """Answer about the candidate: "better" is a larger critical batch size, or fewer expected trials."""
    effect: Estimate
    """Ratio, candidate over reference, of critical batch sizes (scaling) or of expected trials (sensitivity)."""
    primary: PairedComparison | None
    """Primary test; None if it can't be computed."""
    by_batch: tuple[PairedComparison, ...]
    """Comparisons at single batch sizes, with Holm's correction."""
    reasons: tuple[Caution, ...]
    """Reasons for the answer, most serious first."""
    blocks: tuple[Caution, ...]
    """Those of the reasons that rule out a claim, whatever the tests result in."""
    remedies: tuple[Remedy, ...]
    """Changes that would settle the question, or strengthen the answer."""
    alpha: float = ALPHA
    """Two-sided level of a claim; intervals are at 1 - `alpha`."""
    model_free: PairedComparison | None = None
    """For scaling: log ratio, candidate over reference, of the speed-ups from the smallest to the largest batch size,
    which does not use critical batch sizes. None if it can't be computed."""
    anytime: Anytime | None = None
    """For sensitivity: e-values, which are valid for any number of looks. None if they can't be computed."""

    @property
    def settle(self) -> tuple[Remedy, ...]:
        """Remedies that would settle the question; empty if it is settled."""
        return self.remedies if self.answer == "undetermined" else ()

    @property
    def p(self) -> float:
        """Two-sided p-value of a claim beyond the margin; NaN without a test, or with too few seeds."""
        return math.nan if self.primary is None else self.primary.p


def conclude(
    question: Question,
    candidate: str,
    reference: str,
    effect: Estimate,
    primary: PairedComparison | None,
    by_batch: tuple[PairedComparison, ...],
    blocks: list[Caution],
    remedies: list[Remedy],
    remarks: list[Caution] | None = None,
    *,
    alpha: float = ALPHA,
    model_free: PairedComparison | None = None,
) -> Verdict:
    """Return the verdict with the answer of the primary test, or "undetermined" if there are `blocks`.

    `remarks` are added to the reasons and don't change the answer.
    """
    answer: Answer = "undetermined" if blocks or primary is None else primary.answer
    found = [] if primary is None else [_finding(primary, alpha)]
    return Verdict(
        question=question,
        candidate=candidate,
        reference=reference,
        answer=answer,
        effect=effect,
        primary=primary,
        by_batch=by_batch,
        reasons=(*blocks, *found, *(remarks or ())),
        blocks=tuple(blocks),
        remedies=tuple(remedies),
        alpha=alpha,
        model_free=model_free,
    )


def _finding(primary: PairedComparison, alpha: float) -> Caution:
    n, ratio = primary.n, primary.label.removeprefix("log ")
    if primary.answer == "equivalent":
        text = (
            f"The {ratio} is within the margin, a factor of {math.exp(primary.margin):.3g}:"
            f" p = {primary.p_equivalence:.2g}, n = {n} seeds."
        )
        return Caution(code="equivalence", text=text)
    fewest = fewest_seeds(alpha)
    if n < fewest:
        text = (
            f"{n} seed{' judges' if n == 1 else 's judge'}: a sign-flip test has no two-sided p below"
            f" {100 * smallest_sign_flip_p(n):.3g}%, so it can't reach {100 * alpha:.3g}% whatever the difference. It"
            f" takes {fewest} seeds."
        )
        return Caution(code="few-seeds", text=text)
    text = (
        f"Test that the {ratio} is beyond the margin, a factor of {math.exp(primary.margin):.3g}: p = {primary.p:.2g}"
        f" (t and sign-flip tests), n = {n} seeds."
    )
    return Caution(code="test", text=text)


def priced_runs(runs: pd.DataFrame, candidate: str, reference: str) -> pd.DataFrame:
    """Return the runs of both optimizers, with a column ``seconds`` of device-seconds per run."""
    own = runs[runs["optimizer"].isin([candidate, reference])]
    return own.assign(seconds=own["train_seconds"] + own["eval_seconds"].fillna(0.0))


def unfinished(priced: pd.DataFrame) -> tuple[list[Caution], list[Remedy]]:
    """Return the caution and the remedy for waiting runs, if there are any."""
    remedy = finish(priced)
    return ([], []) if remedy is None else ([Caution(code="incomplete", text=remedy.text)], [remedy])
