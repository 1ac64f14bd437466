"""Ranges of seeds by purpose: the study file's own, those that confirm winners, and those of `settle`.

The ranges are disjoint, so a seed tells what its run was for, and no run that a choice has seen can judge:

* below ``CONFIRMATION_SEEDS``: the design of the study file;
* from there on: winners run again on fresh seeds;
* above: the phases of `settle`. Each has ``SERIES_SIZE`` seeds for every series, which is a settling of its own under
  a new declaration, whose judging seeds no earlier one has used.
"""

from __future__ import annotations

from typing import Literal, get_args

from sensitivity.study.section import CONFIRMATION_SEEDS

SeedPurpose = Literal["design", "confirmation", "scout", "search", "candidate", "judge_scaling", "judge_sensitivity"]
"""What a run of a seed is for, in the order of their ranges."""

_RANGE_SIZE = 10**8
SERIES_SIZE = 10**6
"""Seeds of a purpose in one series of `settle`."""
MOST_SERIES = _RANGE_SIZE // SERIES_SIZE
_SETTLING = get_args(SeedPurpose)[2:]


def first_seed(purpose: SeedPurpose, series: int = 0) -> int:
    """Return the first seed of a purpose; each series of `settle` has ``SERIES_SIZE`` seeds per purpose.

    Raises:
        ValueError: a series below 0 or beyond the last.
    """
    if not 0 <= series < MOST_SERIES:
        raise ValueError(f"series must be >= 0 and < {MOST_SERIES}; got {series}")
    if purpose == "design":
        return 0
    if purpose == "confirmation":
        return CONFIRMATION_SEEDS
    return CONFIRMATION_SEEDS + _RANGE_SIZE * (1 + _SETTLING.index(purpose)) + SERIES_SIZE * series


def purpose(seed: int) -> SeedPurpose:
    """Return the purpose of a run with `seed`."""
    if seed < CONFIRMATION_SEEDS:
        return "design"
    place = (seed - CONFIRMATION_SEEDS) // _RANGE_SIZE
    return "confirmation" if place == 0 else _SETTLING[min(place, len(_SETTLING)) - 1]


def series(seed: int) -> int:
    """Return the series of `settle` that a seed belongs to; 0 if it belongs to none."""
    return 0 if purpose(seed) in ("design", "confirmation") else seed % _RANGE_SIZE // SERIES_SIZE
