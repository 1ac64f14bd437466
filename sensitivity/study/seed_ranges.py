"""Seed ranges by purpose: the study file's design, the confirmation of winners, and the phases of `settle`.

The ranges are disjoint, so a seed identifies the purpose of its run, and no run is used both to choose and to judge:

* below ``CONFIRMATION_SEEDS``: the design of the study file;
* from there on: winners run again on new seeds;
* above: the phases of `settle`. Each has ``SERIES_SIZE`` seeds per series. A series is a separate settlement
  under a new declaration, with judging seeds that no earlier settlement used.
"""

from __future__ import annotations

from typing import Literal, get_args

from sensitivity.study.section import CONFIRMATION_SEEDS

SeedPurpose = Literal["design", "confirmation", "scout", "search", "candidate", "judge_scaling", "judge_sensitivity"]
"""Purpose of a run, in the order of the seed ranges."""

_RANGE_SIZE = 10**8
SERIES_SIZE = 10**6
"""Number of seeds per purpose in one series of `settle`."""
MOST_SERIES = _RANGE_SIZE // SERIES_SIZE
_SETTLING = get_args(SeedPurpose)[2:]


def first_seed(purpose: SeedPurpose, series: int = 0) -> int:
    """Return the first seed of a purpose; each series of `settle` has ``SERIES_SIZE`` seeds per purpose.

    Raises:
        ValueError: the series is out of range.
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
