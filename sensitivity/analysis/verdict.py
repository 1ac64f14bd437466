"""The verdict on two optimizers: which scales further with batch size, and which is less sensitive.

Each question has one primary test, pooled over batch sizes and paired by seed (docs/statistics.md, section 8):

* scaling (``verdict_scaling``): the log ratio of critical batch sizes (``size_ratio``); batch by batch, with Holm's
  correction, that of times to the target; and, without a model of S(B), that of the speed-ups from the smallest to the
  largest batch size;
* sensitivity (``verdict_sensitivity``): the ratio of the trials that are expected until a setting works, drawn from
  each optimizer's declared prior, averaged over batch sizes (``price``).

One interval decides: better or worse where it lies beyond the margin, equivalent where it lies within. For scaling it
takes six seeds that judge (``paired``; ``honest``: six that the best cells were confirmed on, or the second half of
eleven). Whatever would make the answer an artefact makes it undetermined, and says so: a best cell on the grid's edge,
runs still waiting, targets that the budget can't reach, evaluations too far apart, adaptive samples, a KL clip that
binds. All of these, and all that would settle the question, are given at once.
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
    """Differences that don't matter, for the tests of equivalence."""

    scaling_ratio: float = 1.25
    """Two critical batch sizes, or times to a target, within this factor are as good as equal; above 1."""
    tuning_ratio: float = 1.5
    """Two expected numbers of trials within this factor are as good as equal; above 1."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer to one question, with its reasons and what would settle it."""

    question: Question
    candidate: str
    reference: str
    answer: Answer
    """Of the candidate: better is a larger critical batch size, or fewer expected trials."""
    effect: Estimate
    """scaling: ratio of critical batch sizes; sensitivity: ratio of expected trials. Candidate's over reference's."""
    primary: PairedComparison | None
    """None where it can't be made."""
    by_batch: tuple[PairedComparison, ...]
    """Batch by batch, with Holm's correction."""
    reasons: tuple[Caution, ...]
    """Why the answer is what it is, gravest first."""
    blocks: tuple[Caution, ...]
    """Of the reasons, those that allow no claim whatever the tests say."""
    remedies: tuple[Remedy, ...]
    """What would settle it, or make it surer."""
    alpha: float = ALPHA
    """Level of a claim; intervals are at 1 less this."""
    model_free: PairedComparison | None = None
    """scaling: of the speed-ups from the smallest to the largest batch size, log of the candidate's over the
    reference's; needs no critical batch size. None where it can't be made."""
    anytime: Anytime | None = None
    """sensitivity: what may be claimed however often one looked; None where it can't be made."""

    @property
    def settle(self) -> tuple[Remedy, ...]:
        """What would settle it; empty where it is settled."""
        return self.remedies if self.answer == "undetermined" else ()

    @property
    def p(self) -> float:
        """Two-sided p-value of a claim beyond the margin; NaN without a test, and with fewer seeds than it needs."""
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
    """Put the answer together: the primary test's, unless something blocks it; `remarks` change nothing."""
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
    """Return the runs of both, with the device-seconds of each in a column ``seconds``."""
    own = runs[runs["optimizer"].isin([candidate, reference])]
    return own.assign(seconds=own["train_seconds"] + own["eval_seconds"].fillna(0.0))


def unfinished(priced: pd.DataFrame) -> tuple[list[Caution], list[Remedy]]:
    """Return that runs wait, and the remedy, where they do."""
    remedy = finish(priced)
    return ([], []) if remedy is None else ([Caution(code="incomplete", text=remedy.text)], [remedy])
