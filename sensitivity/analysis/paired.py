"""Paired comparisons: differences by seed, and whether they are beyond a margin, or within it.

Runs that share a seed share initialisation and data order, so optimizers are compared a seed at a time. Better or worse
is claimed where the difference exceeds the margin: by a t test *and* by a sign-flip test of the differences less the
margin, at half the level on either side. The sign-flip test counts the sign patterns with a mean as large: with n seeds
its smallest two-sided p is 2^(1-n), so below six seeds it can't reach 5% and no p is computed. Equivalence is two
one-sided t tests within the margin (Schuirmann 1987), each at half the level too, never a large p. What means of
differences may be off besides, for the spacing of evaluations and for the choice of winners (``grain``, ``nested``),
is taken off the evidence of every test and added to every interval: differences that agree exactly show no more than
that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from scipy.special import chdtri, ndtri, stdtr, stdtrit

from sensitivity.analysis.estimates import Estimate, Floats, mean_over_seeds
from sensitivity.analysis.intervals import smallest_sign_flip_p
from sensitivity.analysis.rates import TINY

Answer = Literal["better", "worse", "equivalent", "undetermined"]

ALPHA = 0.05
"""Of the tests; intervals of the other analyses are at `intervals.LEVEL`, 1 less this."""
_EXACT = 14
"""Seeds up to which all sign patterns are counted; beyond, so many random ones."""
_PATTERNS = 20_000


def fewest_seeds(alpha: float = ALPHA) -> int:
    """Return the fewest seeds with which a sign-flip test can reach the level: six at 5%."""
    return next(n for n in range(1, 64) if smallest_sign_flip_p(n) <= alpha)


def sign_flip_p(differences: Floats, rng: np.random.Generator | None = None) -> float:
    """Return the two-sided p-value of a sign-flip test of mean zero; NaN with fewer than six differences.

    `rng` draws the patterns beyond fourteen differences, where there are too many to count; by default a fixed one.
    """
    if len(differences) < fewest_seeds():
        return math.nan
    sums = _flipped_sums(differences, rng)
    return float(np.mean(np.abs(sums) >= abs(differences.sum()) - 1e-12 * np.abs(differences).sum()))


def _flipped_sums(differences: Floats, rng: np.random.Generator | None = None) -> Floats:
    n = len(differences)
    if n <= _EXACT:
        signs = _patterns(n)
    else:
        signs = (rng or np.random.default_rng(0)).choice([-1.0, 1.0], size=(_PATTERNS, n))
        signs[0] = 1.0  # what was observed is one of the patterns
    return np.asarray(signs @ differences)


@cache
def _patterns(n: int) -> Floats:
    return np.asarray(1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1))


def claim_p(differences: Floats, margin: float = 0.0, *, bias: float = 0.0, widen: float = 1.0) -> float:
    """Return the two-sided p-value that the mean lies beyond `margin`, on the side where it is.

    It is twice the larger of the one-sided p-values of Student's t and of the sign-flip test, of the differences less
    the margin and less `bias`, by which their mean may be off. NaN with fewer than six differences. `widen` is a factor
    on the standard error, for seeds that aren't independent (``honest``).
    """
    n = len(differences)
    if n < fewest_seeds():
        return math.nan
    beyond = differences * (1.0 if differences.mean() >= 0 else -1.0) - margin - bias
    sums = _flipped_sums(beyond)
    flips = float(np.mean(sums >= beyond.sum() - 1e-12 * np.abs(beyond).sum()))
    return min(1.0, 2 * max(flips, one_sided_t(beyond, widen)))


def one_sided_t(differences: Floats, widen: float = 1.0) -> float:
    """Return the p-value of Student's t that the mean is above 0; without scatter 0 or 1."""
    n = len(differences)
    mean, error = float(differences.mean()), widen * float(differences.std(ddof=1)) / math.sqrt(n)
    if error <= TINY * abs(mean):
        return float(mean <= 0)
    return float(stdtr(n - 1, -mean / error))


def equivalence_p(differences: Floats, margin: float, *, widen: float = 1.0, bias: float = 0.0) -> float:
    """Return the larger p-value of the two one-sided t tests of |mean| < `margin`.

    `widen` is a factor on the standard error (``honest``), `bias` how far the mean may be off besides. Without scatter
    that is all there is to judge by, and without either the p-value is NaN.
    """
    if len(differences) < 2 or (np.ptp(differences) == 0 and bias == 0):
        return math.nan
    return max(one_sided_t(margin - bias - sign * differences, widen) for sign in (1.0, -1.0))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return Holm's adjusted p-values (1979), in the order given; a NaN stays and doesn't count as a test.

    >>> holm([0.01, 0.04, 0.03])
    (0.03, 0.06, 0.06)
    """
    tested = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(tested) - rank)))
        adjusted[place] = largest
    return tuple(adjusted)


def seeds_needed(
    differences: Floats, margin: float = 0.0, *, bias: float = 0.0, alpha: float = ALPHA, power: float = 0.8
) -> tuple[int, int | None] | None:
    """Return with how many seeds the answer that `differences` point to would be reached with `power`: from, to.

    "From" takes mean and scatter as they are. That is post-hoc power, and falls short half of the time: a pilot that
    looks better than the truth asks for too few. "To" takes the mean at the unfavourable end of its 80% interval, and
    the scatter at the upper end of its own; None where such a difference would need more than a thousand. The whole
    is None with one difference, and where no number would do because the distance from the margin is within `bias`.
    """
    n = len(differences)
    if n < 2:
        return None
    mean, deviation = abs(float(differences.mean())), float(differences.std(ddof=1))
    beyond = mean > margin
    distance = abs(mean - margin) - bias
    fewest = fewest_seeds(alpha) if beyond else 2
    tail = 1 - alpha / 2
    if distance <= 0:
        return None
    few = _seeds_for(distance, deviation, tail, power, fewest)
    upper = deviation * math.sqrt((n - 1) / float(chdtri(n - 1, power)))
    shrunk = distance - float(stdtrit(n - 1, power)) * deviation / math.sqrt(n)
    many = _seeds_for(shrunk, upper, tail, power, fewest) if shrunk > 0 else None
    return None if few is None else (few, many)


def _seeds_for(distance: float, deviation: float, tail: float, power: float, fewest: int) -> int | None:
    for n in range(fewest, 1001):
        if distance * math.sqrt(n) >= deviation * (float(stdtrit(n - 1, tail)) + float(ndtri(power))):
            return n
    return None


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """`candidate` minus `reference`, a seed at a time."""

    candidate: str
    reference: str
    label: str
    """What is compared, such as "log steps at batch size 512"."""
    batch_size: int | None
    """None where batch sizes are pooled."""
    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    """Of each of `seeds`."""
    effect: Estimate
    """Their mean."""
    p: float
    """That it lies beyond the margin, two-sided (`claim_p`); NaN with fewer seeds than it needs."""
    p_holm: float
    """Adjusted for the batch sizes; NaN where there is nothing to adjust."""
    margin: float
    """Differences within +- this don't matter."""
    p_equivalence: float
    """Of two one-sided t tests."""
    answer: Answer
    bias: float = 0.0
    """How far the mean may be off besides: for the spacing of evaluations and the choice of winners."""

    @property
    def n(self) -> int:
        """Seeds."""
        return len(self.seeds)


def compare(
    differences: Floats,
    seeds: Sequence[int],
    *,
    candidate: str,
    reference: str,
    label: str,
    margin: float,
    larger_is_better: bool,
    batch_size: int | None = None,
    adjusted_p: float | None = None,
    widen: float = 1.0,
    widen_equivalence: float = 1.0,
    bias: float = 0.0,
    alpha: float = ALPHA,
) -> PairedComparison:
    """Return what `differences` [seeds] say at the level `alpha`, with an interval at 1 - `alpha`.

    `adjusted_p` replaces the p-value in the answer. `widen` is the factor on intervals over seeds that chose each
    other's winners (``honest``), `widen_equivalence` that on the standard error of the test of equivalence. `bias` is
    how far the mean may be off besides.
    """
    p = claim_p(differences, margin, bias=bias, widen=widen)
    equal = equivalence_p(differences, margin, widen=widen_equivalence, bias=bias)
    return PairedComparison(
        candidate=candidate,
        reference=reference,
        label=label,
        batch_size=batch_size,
        seeds=tuple(seeds),
        differences=tuple(float(value) for value in differences),
        effect=mean_over_seeds(differences, widen=widen, bias=bias, level=1 - alpha),
        p=p,
        p_holm=math.nan if adjusted_p is None else adjusted_p,
        margin=margin,
        p_equivalence=equal,
        answer=decide(
            p if adjusted_p is None else adjusted_p, equal, (differences.mean() > 0) == larger_is_better, alpha
        ),
        bias=bias,
    )


def decide(p: float, p_equivalence: float, better: bool, alpha: float) -> Answer:
    """Return the answer at the level `alpha`; `better` tells on which side of zero the difference is.

    Equivalence is tested at half of it, as a claim is on either side: at the margin itself both would be false, and
    together they are so in `alpha` of studies. So the answer is what an interval at 1 - `alpha` says, which lies beyond
    the margin, or within it.
    """
    if p_equivalence <= alpha / 2:
        return "equivalent"
    if p <= alpha:
        return "better" if better else "worse"
    return "undetermined"
