"""Choice of the winners: the optimum of each response surface, unless fresh runs contradict it.

The optimum runs on fresh seeds at every batch size. If these runs disagree with the surface, because they take longer
than predicted or miss the target, the best two observed configurations of every arm run on the same seeds, and one of
them is frozen if it is clearly faster. Choosing the fastest of all candidates would favour lucky ones: with that rule,
intervals cover the true ratio in 72% of studies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sensitivity.settling.search import score
from sensitivity.study.amendments import Hyperparameters, Observation

SEEDS = 4
"""Number of fresh seeds of every candidate."""
_DECISIVE_MISSES = 2
"""Difference in the number of runs that missed the target that decides between two candidates."""
_MAX_EXCESS = 3.0
"""Largest accepted excess of runs over the prediction, in standard errors."""
_MIN_ADVANTAGE = 1.2 * math.sqrt(2)
"""Advantage that another candidate needs, in units of twice the standard error of a mean."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A configuration of an arm at a batch size, with its fresh runs."""

    hyperparameters: Hyperparameters
    chosen: Literal["model", "observed", "only"]
    runs: tuple[Observation, ...] = ()

    @property
    def mean(self) -> float:
        """Mean log T of the runs with a finite score; infinity if there are none."""
        scores = [score(run)[0] for run in self.runs]
        known = [one for one in scores if math.isfinite(one)]
        return float(np.mean(known)) if known else math.inf

    @property
    def missed(self) -> int:
        """Number of runs that missed the target."""
        return sum(not run.success for run in self.runs)


def contradicted(candidate: Candidate, predicted: float, noise: float) -> bool:
    """Return whether fresh runs of an optimum disagree with the fitted surface.

    A single miss of the target is attributed to chance, two to the setting.
    """
    if candidate.missed >= _DECISIVE_MISSES:
        return True
    return candidate.mean - predicted > _MAX_EXCESS * noise / math.sqrt(len(candidate.runs))


def choose(candidates: Sequence[Candidate], noise: float) -> Candidate:
    """Return the first candidate, unless it missed the target more often than another or is clearly slower."""
    first = candidates[0]
    rest = [one for one in candidates[1:] if one.runs]
    if not rest:
        return first
    best = min(rest, key=lambda one: (one.missed, one.mean))
    if abs(best.missed - first.missed) >= _DECISIVE_MISSES:
        return best if best.missed < first.missed else first
    faster = first.mean - best.mean > _MIN_ADVANTAGE * 2 * noise / math.sqrt(SEEDS)
    return best if faster else first


def budget_blocks(candidate: Candidate) -> bool:
    """Return whether the budget is too short to judge: at least half of the fresh runs missed the target."""
    return 2 * candidate.missed >= len(candidate.runs) > 0
