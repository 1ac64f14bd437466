"""The choice of the winners: the optimum of each response surface, unless fresh runs contradict it.

The optimum runs on fresh seeds at every batch size. Where these runs disagree with the surface (they take longer than
it predicts, or miss the target), the best two configurations that were observed run on the same seeds, for every arm
alike, and one of them is frozen if it is clearly faster. The fastest of all candidates would be too easily one that was
lucky: that rule covers the true ratio in 72% of studies (SETTLE.md).
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
"""Fresh seeds of every candidate."""
_DECISIVE = 2
"""Runs that one candidate must miss the target with more than another for that to decide."""
_SURPRISE = 3.0
"""Standard errors by which runs may exceed the prediction."""
_CLEARLY = 1.2 * math.sqrt(2)
"""Times twice the standard error of a mean: by how much another candidate must be faster."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A configuration of an arm at a batch size, with its fresh runs."""

    hyperparameters: Hyperparameters
    chosen: Literal["model", "observed", "only"]
    runs: tuple[Observation, ...] = ()

    @property
    def mean(self) -> float:
        """Mean log T of the runs that weren't lost; infinite without any."""
        scores = [score(run)[0] for run in self.runs]
        known = [one for one in scores if math.isfinite(one)]
        return float(np.mean(known)) if known else math.inf

    @property
    def missed(self) -> int:
        """Runs that missed the target."""
        return sum(not run.success for run in self.runs)


def contradicted(candidate: Candidate, predicted: float, noise: float) -> bool:
    """Return whether fresh runs of an optimum disagree with the fitted surface that predicted it.

    One lost run is chance; two are the setting.
    """
    if candidate.missed >= _DECISIVE:
        return True
    return candidate.mean - predicted > _SURPRISE * noise / math.sqrt(len(candidate.runs))


def choose(candidates: Sequence[Candidate], noise: float) -> Candidate:
    """Return the first candidate, unless it missed the target more often, or is clearly slower, than another."""
    first = candidates[0]
    rest = [one for one in candidates[1:] if one.runs]
    if not rest:
        return first
    best = min(rest, key=lambda one: (one.missed, one.mean))
    if abs(best.missed - first.missed) >= _DECISIVE:
        return best if best.missed < first.missed else first
    faster = first.mean - best.mean > _CLEARLY * 2 * noise / math.sqrt(SEEDS)
    return best if faster else first


def budget_blocks(candidate: Candidate) -> bool:
    """Tell whether the budget is too short to judge: half of the fresh runs or more missed the target."""
    return 2 * candidate.missed >= len(candidate.runs) > 0
