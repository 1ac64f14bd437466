"""Paired comparisons: differences by seed, what a sign-flip test and two one-sided tests say of them.

Runs that share a seed share initialisation and data order, so optimizers are compared a seed at a time. If they are
equal, the sign of each difference is a coin's; the test counts the sign patterns with a mean as far from zero. With
n seeds its smallest two-sided p is 2^(1-n), so below six seeds it can't reach 5% and is not computed: the result says
so. "No difference" is shown by two one-sided t tests against a margin (Schuirmann 1987), never by a large p. Where
winners were chosen, resamples that choose them anew (``nested``) have to lie within the margin as well, each side in
95%: the seeds that judge a winner don't see that it might have been another, and without this arms that differ by the
margin would be called equivalent in up to 8% of studies with near-ties (``benchmarks/coverage.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

from sensitivity.analysis.estimates import Estimate, Floats, mean_over_seeds
from sensitivity.analysis.intervals import LEVEL, smallest_sign_flip_p

Answer = Literal["better", "worse", "equivalent", "undetermined"]

ALPHA = 1 - LEVEL
_EXACT = 14
"""Seeds up to which all sign patterns are counted; beyond, so many random ones."""
_PATTERNS = 20_000


def fewest_seeds() -> int:
    """Return the fewest seeds with which a sign-flip test can reach the level: six at 5%."""
    return next(n for n in range(1, 64) if smallest_sign_flip_p(n) <= ALPHA)


def sign_flip_p(differences: Floats, rng: np.random.Generator | None = None) -> float:
    """Return the two-sided p-value of a sign-flip test of mean zero; NaN with fewer seeds than it needs.

    `rng` draws the patterns beyond fourteen differences, where there are too many to count; by default a fixed one.
    """
    n = len(differences)
    if n < fewest_seeds():
        return math.nan
    if n <= _EXACT:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        generator = rng or np.random.default_rng(0)
        signs = generator.choice([-1.0, 1.0], size=(_PATTERNS, n))
        signs[0] = 1.0  # what was observed is one of the patterns
    scale = np.abs(differences).sum()
    return float(np.mean(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12 * scale))


def equivalence_p(differences: Floats, margin: float, *, widen: float = 1.0) -> float:
    """Return the larger p-value of the two one-sided t tests of |mean| < `margin`; NaN without scatter to judge by.

    `widen` is a factor on the standard error, for seeds that aren't independent (``honest``).
    """
    n = len(differences)
    if n < 2:
        return math.nan
    error = widen * float(differences.std(ddof=1)) / math.sqrt(n)
    if error == 0:
        return math.nan
    mean = float(differences.mean())
    return float(max(stdtr(n - 1, (mean - margin) / error), stdtr(n - 1, (-mean - margin) / error)))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return Holm's adjusted p-values (1979), in the order given; a NaN stays and doesn't count as a test."""
    tested = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(tested) - rank)))
        adjusted[place] = largest
    return tuple(adjusted)


def seeds_needed(differences: Floats, power: float = 0.8) -> int | None:
    """Return how many seeds would show a difference as large as the one seen with `power`, and at least six.

    None where no number would be sensible: no scatter or no difference, or above 1,000.
    """
    if len(differences) < 2:
        return fewest_seeds()
    effect, deviation = abs(float(differences.mean())), float(differences.std(ddof=1))
    if effect == 0 or deviation == 0:
        return None if effect == 0 else fewest_seeds()
    for n in range(fewest_seeds(), 1001):
        if effect * math.sqrt(n) / deviation >= float(stdtrit(n - 1, 1 - ALPHA / 2)) + float(ndtri(power)):
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
    """Sign-flip; NaN with fewer seeds than it needs."""
    p_holm: float
    """Adjusted for the batch sizes; NaN where there is nothing to adjust."""
    margin: float
    """Differences within +- this don't matter."""
    p_equivalence: float
    """Of two one-sided t tests, or the share of resamples outside the margin, whichever is larger."""
    answer: Answer

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
    resampled: Floats | None = None,
) -> PairedComparison:
    """Return what `differences` [seeds] say.

    Equivalence comes first: a difference that is real and smaller than the margin doesn't matter. `adjusted_p`
    replaces the p-value in the answer. `widen` is the factor on intervals over seeds that chose each other's winners
    (``honest``), `widen_equivalence` that on the standard error of the test of equivalence. `resampled` [resamples]
    are differences whose winners were chosen anew.
    """
    p, equal = sign_flip_p(differences), equivalence_p(differences, margin, widen=widen_equivalence)
    if resampled is not None:
        equal = max(equal, float(np.mean(resampled >= margin)), float(np.mean(resampled <= -margin)))
    decisive = p if adjusted_p is None else adjusted_p
    answer: Answer = "undetermined"
    if equal <= ALPHA:
        answer = "equivalent"
    elif decisive <= ALPHA:
        answer = "better" if (differences.mean() > 0) == larger_is_better else "worse"
    return PairedComparison(
        candidate=candidate,
        reference=reference,
        label=label,
        batch_size=batch_size,
        seeds=tuple(seeds),
        differences=tuple(float(value) for value in differences),
        effect=mean_over_seeds(differences, widen=widen),
        p=p,
        p_holm=math.nan if adjusted_p is None else adjusted_p,
        margin=margin,
        p_equivalence=equal,
        answer=answer,
    )
