"""Declaration of a settlement, derived from a study file: claims, error rates, boxes and extension limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sensitivity.analysis.looks import RATE
from sensitivity.study.amendments import Claim, Declaration, DeclaredArm, Side
from sensitivity.study.arms import Arm
from sensitivity.study.axes import Axis, round_significant
from sensitivity.study.errors import UserError
from sensitivity.study.hyperparameters import Hyperparameter, hyperparameter
from sensitivity.study.primary import Pair, Question
from sensitivity.study.spec import StudySpec

QUESTIONS: tuple[Question, ...] = ("scaling", "sensitivity")
LOOKS = (8, 11, 16, 22, 32, 45, 64, 90, 128, 181)
"""Cumulative numbers of judging seeds, each about 1.4 times the previous one."""
MAX_BLOCKS = 4096
EXTENSION = 2.0
"""Largest extension beyond each side of the declared box, in decades."""
_MIN_DECAY = 0.01
"""Smallest value that a search uses for the decay of a running average, if 0 is not declared."""


def declare(
    spec: StudySpec,
    spec_hash: str,
    caps: Sequence[int],
    *,
    questions: Sequence[Question] = QUESTIONS,
    series: int = 0,
    grid_runs: int = 0,
) -> Declaration:
    """Return the declaration of a settlement of `spec`.

    Without `[primary]`, the error rate is split evenly over all pairs and `questions`, so that at most 5% of studies
    have any false claim. With it, the primary claim has the whole error rate and the others are exploratory.

    Args:
        spec: the study.
        spec_hash: hash of the study in the study directory.
        caps: step budget of a run at each batch size.
        questions: questions to settle, in any order; the primary one comes first.
        series: number of the settlement of this study (``study.seed_ranges``).
        grid_runs: number of runs of the study file's own design, for comparison; 0 if unknown.

    Raises:
        UserError: a question is unknown, or the study has no target, no pair, or, for the scaling question, fewer than
            two batch sizes.
    """
    if unknown := [question for question in questions if question not in QUESTIONS]:
        raise UserError(f"questions: allowed are {', '.join(QUESTIONS)}; got {', '.join(map(str, unknown))}")
    target = spec.primary_target
    if target is None:
        raise UserError(
            f"{spec.name}: nothing to settle without a target: add one, such as [targets] test_accuracy = [0.95]"
        )
    if not spec.comparisons:
        raise UserError(
            f"{spec.name}: nothing to settle with one optimizer: add another, or `pairs`, to compare it with"
        )
    if "scaling" in questions and len(spec.batch_sizes) < 2:
        raise UserError(
            f"{spec.name}: the scaling question needs two batch sizes or more; add batch sizes, or settle the other"
            " question alone: --question sensitivity"
        )
    looks = spec.primary.looks if spec.primary is not None and spec.primary.question == "scaling" else ()
    return Declaration(
        study=spec.name,
        spec_hash=spec_hash,
        series=series,
        batch_sizes=spec.batch_sizes,
        caps=tuple(caps),
        target=target,
        arms=tuple(_declared(name, arm) for name, arm in spec.optimizers.items() if _compared(name, spec)),
        claims=_claims(spec, questions),
        looks=looks or LOOKS,
        most_blocks=MAX_BLOCKS,
        grid_runs=grid_runs,
    )


def _compared(name: str, spec: StudySpec) -> bool:
    return any(name in pair for pair in spec.comparisons)


def _claims(spec: StudySpec, questions: Sequence[Question]) -> tuple[Claim, ...]:
    """Return the claims, with the primary one first."""
    margins = {"scaling": spec.margins.scaling_ratio, "sensitivity": spec.margins.tuning_ratio}
    asked: list[tuple[Question, Pair]] = [(q, pair) for q in QUESTIONS if q in questions for pair in spec.comparisons]
    primary = None
    if spec.primary is not None and spec.primary.question in questions:
        primary = (spec.primary.question, spec.comparisons[0])
        asked.sort(key=lambda one: one != primary)
    return tuple(
        Claim(
            question=question,
            candidate=pair[0],
            reference=pair[1],
            margin=margins[question],
            alpha=RATE if primary else RATE / len(asked),
            confirmatory=primary in (None, (question, pair)),
        )
        for question, pair in asked
    )


def _declared(name: str, arm: Arm) -> DeclaredArm:
    return DeclaredArm(name=name, sides=tuple(_side(each, axis) for each, axis in arm.axes().items()))


def _side(name: str, axis: Axis) -> Side:
    number = hyperparameter(name)
    low, high = axis.bounds()
    scale = _scale(number, axis)
    least, most = _limits(number, low, high, scale)
    return Side(name=name, axis=axis, scale=scale, low=low, high=high, least=min(least, low), most=max(most, high))


def _scale(number: Hyperparameter, axis: Axis) -> Literal["decades", "linear", "levels"]:
    """Return the scale on which an axis is searched.

    Structural and integer hyperparameters are limited to their declared values, as are lists with values that have no
    logarithm, such as a weight decay of 0.
    """
    low, high = axis.bounds()
    if low == high or number.structural or number.whole:
        return "levels"
    if low > 0 or (number.scale == "one_minus" and high < 1):
        return "decades"
    return "linear" if axis.scale == "linear" else "levels"


def _limits(number: Hyperparameter, low: float, high: float, scale: str) -> tuple[float, float]:
    """Return the extension limits: two decades, or the declared width, beyond each side and within the valid range."""
    if scale == "levels":
        return low, high
    if scale == "linear":
        width = high - low
        most = high + width if high + width < number.high else high
        return max(low - width, number.low), most
    ends = (float(number.decades(end)) for end in (low, high))
    least, most = (
        round_significant(number.from_decades(end + way * EXTENSION)) for end, way in zip(ends, (-1, 1), strict=True)
    )
    if number.scale == "one_minus":
        least = max(least, 0.0 if low == 0 else min(low, _MIN_DECAY))
    return least, most
