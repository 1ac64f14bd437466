"""Paired comparisons of two optimizers: tests whether differences by seed lie beyond a margin, or within it.

Runs that share a seed share initialisation and data order, so optimizers are compared seed by seed. "Better" or "worse"
requires that the difference exceeds the margin in a t test *and* in a sign-flip test of the differences minus the
margin, each at half the level per side. The sign-flip test counts the sign patterns with a mean at least as large: with
n seeds its smallest two-sided p-value is 2^(1-n), so below six seeds it can't reach 5% and no p-value is computed.
"Equivalent" requires two one-sided t tests within the margin (Schuirmann 1987), each at half the level too; a large
p-value is never evidence of equivalence. A bound on the bias of the mean difference, from the spacing of evaluations
and the selection of winners (``grain``, ``nested``), is subtracted from the evidence in every test and added to every
interval. Differences that agree exactly are therefore known up to that bound.
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
"""Default level of the tests; intervals of the other analyses are at `intervals.LEVEL`, 1 - `ALPHA`."""
_EXACT = 14
"""Largest number of seeds for which all sign patterns are counted."""
_PATTERNS = 20_000
"""Number of random sign patterns for more seeds."""


def fewest_seeds(alpha: float = ALPHA) -> int:
    """Return the smallest number of seeds with which a sign-flip test can reach the level: six at 5%."""
    return next(n for n in range(1, 64) if smallest_sign_flip_p(n) <= alpha)


def sign_flip_p(differences: Floats, rng: np.random.Generator | None = None) -> float:
    """Return the two-sided p-value of a sign-flip test of mean zero; NaN with fewer than six differences.

    With more than fourteen differences, `rng` draws random sign patterns; by default it has a fixed seed.
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
        signs[0] = 1.0  # the observed pattern is one of them
    return np.asarray(signs @ differences)


@cache
def _patterns(n: int) -> Floats:
    return np.asarray(1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1))


def claim_p(differences: Floats, margin: float = 0.0, *, bias: float = 0.0, widen: float = 1.0) -> float:
    """Return the two-sided p-value of the claim that the mean lies beyond `margin`, on its side of zero.

    It is twice the larger of the one-sided p-values of Student's t and the sign-flip test, for the differences minus
    the margin and minus `bias`, a bound on the bias of their mean. It is NaN with fewer than six differences. `widen`
    is a factor on the standard error, for seeds that aren't independent (``honest``).
    """
    n = len(differences)
    if n < fewest_seeds():
        return math.nan
    beyond = differences * (1.0 if differences.mean() >= 0 else -1.0) - margin - bias
    sums = _flipped_sums(beyond)
    flips = float(np.mean(sums >= beyond.sum() - 1e-12 * np.abs(beyond).sum()))
    return min(1.0, 2 * max(flips, one_sided_t(beyond, widen)))


def one_sided_t(differences: Floats, widen: float = 1.0) -> float:
    """Return the p-value of Student's t test that the mean is above 0; without scatter it is 0 or 1."""
    n = len(differences)
    mean, error = float(differences.mean()), widen * float(differences.std(ddof=1)) / math.sqrt(n)
    if error <= TINY * abs(mean):
        return float(mean <= 0)
    return float(stdtr(n - 1, -mean / error))


def equivalence_p(differences: Floats, margin: float, *, widen: float = 1.0, bias: float = 0.0) -> float:
    """Return the larger p-value of the two one-sided t tests of |mean| < `margin`.

    `widen` is a factor on the standard error (``honest``); `bias` bounds the bias of the mean. Without scatter and
    without bias, or with one difference, the p-value is NaN.
    """
    if len(differences) < 2 or (np.ptp(differences) == 0 and bias == 0):
        return math.nan
    return max(one_sided_t(margin - bias - sign * differences, widen) for sign in (1.0, -1.0))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return Holm's adjusted p-values (1979), in the order of `p_values`; NaN stays and doesn't count as a test.

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
    """Return a range of the number of seeds that would settle a comparison with probability `power`.

    The first number assumes that mean and scatter are as observed. This is post-hoc power, and too small half of the
    time, when the observed effect exceeds the true one. The second number assumes the mean at the unfavourable end of
    its 80% interval, and the scatter at the upper end of its own; it is None if it exceeds a thousand. The result is
    None with one difference, or if no number would be enough because the distance from the margin is within `bias`.
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
    """Comparison of `candidate` minus `reference`, paired by seed."""

    candidate: str
    reference: str
    label: str
    """Compared quantity, such as "log steps at batch size 512"."""
    batch_size: int | None
    """None if batch sizes are pooled."""
    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    """One difference per seed."""
    effect: Estimate
    """Mean difference."""
    p: float
    """Two-sided p-value of a difference beyond the margin (`claim_p`); NaN with too few seeds."""
    p_holm: float
    """The p-value with Holm's correction over batch sizes; NaN without a correction."""
    margin: float
    """Differences within plus or minus this value are negligible."""
    p_equivalence: float
    """p-value of the two one-sided t tests of equivalence."""
    answer: Answer
    bias: float = 0.0
    """Bound on the bias of the mean, from the spacing of evaluations and the selection of winners."""

    @property
    def n(self) -> int:
        """Number of seeds."""
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
    """Test `differences` [seeds] at the level `alpha`; the interval of the effect is at 1 - `alpha`.

    Args:
        differences: candidate minus reference, one per seed.
        seeds: seeds of the differences.
        candidate: optimizer that the answer is about.
        reference: optimizer that it is compared with.
        label: compared quantity.
        margin: differences within plus or minus this value are negligible.
        larger_is_better: whether a positive difference favours the candidate.
        batch_size: batch size of the comparison; None if pooled.
        adjusted_p: corrected p-value, which then decides the answer.
        widen: factor on the width of intervals, for cross-fitted seeds (``honest``).
        widen_equivalence: factor on the standard error in the test of equivalence.
        bias: bound on the bias of the mean difference.
        alpha: two-sided level of the tests.
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
    """Return the answer at the level `alpha`; `better` is whether the difference favours the candidate.

    Equivalence is tested at `alpha` / 2, as is each side of a claim: for a true effect at the margin, both answers are
    false, with a total probability of `alpha`. The answer therefore corresponds to an interval at 1 - `alpha`, which
    lies beyond the margin or within it.
    """
    if p_equivalence <= alpha / 2:
        return "equivalent"
    if p <= alpha:
        return "better" if better else "worse"
    return "undetermined"
