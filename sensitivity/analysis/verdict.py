"""The verdict on two optimizers: which scales further with batch size, and which is less sensitive.

Each question has one primary test, pooled over batch sizes and paired by seed (STATISTICS.md, section 8):

* scaling (``verdict_scaling``): the log ratio of critical batch sizes, a seed at a time, linearised at the Bc that
  both would share (``critical.seed_log_sizes``); batch by batch, with Holm's correction, that of times to the target;
* sensitivity (``verdict_sensitivity``): the ratio of the trials that are expected until a setting works, drawn from
  each optimizer's declared prior, averaged over batch sizes (``price``).

For scaling, better or worse needs a sign-flip p of at most 5%, hence six seeds that judge (``honest``: six that the
best cells were confirmed on, or the second half of eleven); equivalent needs two one-sided t tests within a margin.
Whatever would make the answer an artefact makes it undetermined, and says so: a best cell on the grid's edge, runs
still waiting, targets that the budget can't reach, adaptive samples, a KL clip that binds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from sensitivity.analysis.betting import Anytime
from sensitivity.analysis.estimates import Caution, Estimate
from sensitivity.analysis.intervals import smallest_sign_flip_p
from sensitivity.analysis.paired import Answer, PairedComparison, fewest_seeds
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
    settle: tuple[Remedy, ...]
    """What would settle it; empty where it is settled."""
    anytime: Anytime | None = None
    """sensitivity: what may be claimed however often one looked; None where it can't be made."""


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
) -> Verdict:
    """Put the answer together: the primary test's, unless something blocks it; `remarks` change nothing."""
    answer: Answer = "undetermined" if blocks or primary is None else primary.answer
    reasons = [*blocks]
    if primary is not None:
        reasons.append(_finding(primary))
    return Verdict(
        question=question,
        candidate=candidate,
        reference=reference,
        answer=answer,
        effect=effect,
        primary=primary,
        by_batch=by_batch,
        reasons=(*reasons, *(remarks or ())),
        settle=() if answer != "undetermined" else tuple(remedies),
    )


def _finding(primary: PairedComparison) -> Caution:
    n = primary.n
    if primary.answer == "equivalent":
        text = f"Within the margin of {primary.margin:.3g} ({primary.label}): p = {primary.p_equivalence:.2g}, n = {n}."
        return Caution(code="equivalence", text=text)
    if n < fewest_seeds():
        text = (
            f"{n} seed{' judges' if n == 1 else 's judge'}: a sign-flip test has no two-sided p below"
            f" {smallest_sign_flip_p(n):g}, so it can't reach 5% whatever the difference. It takes {fewest_seeds()}."
        )
        return Caution(code="few-seeds", text=text)
    return Caution(code="test", text=f"Sign-flip test of {primary.label}: p = {primary.p:.2g}, n = {n} seeds.")


def priced_runs(runs: pd.DataFrame, candidate: str, reference: str) -> pd.DataFrame:
    """Return the runs of both, with the device-seconds of each in a column ``seconds``."""
    own = runs[runs["optimizer"].isin([candidate, reference])]
    return own.assign(seconds=own["train_seconds"].fillna(0.0) + own["eval_seconds"].fillna(0.0))


def unfinished(priced: pd.DataFrame) -> tuple[list[Caution], list[Remedy]]:
    """Return that runs wait, and the remedy, where they do."""
    remedy = finish(priced)
    return ([], []) if remedy is None else ([Caution(code="incomplete", text=remedy.text)], [remedy])


def default_pair(kinds: Mapping[str, str]) -> tuple[str, str] | None:
    """Return (candidate, reference): the first K-FAC and the first SGD of `kinds` (optimizer -> kind).

    Without both, the first two optimizers; None where there are fewer than two.
    """
    kfac = next((name for name, kind in kinds.items() if kind == "kfac"), None)
    sgd = next((name for name, kind in kinds.items() if kind == "sgd"), None)
    if kfac is not None and sgd is not None:
        return kfac, sgd
    names = list(kinds)
    return (names[0], names[1]) if len(names) > 1 else None
