"""Tests by betting of the sensitivity question: the ratio of success probabilities of draws from the declared priors.

A block has one draw at each batch size, with its own point and seed, mapped into the declared box of each arm:
hyperparameters with the same name have the same quantile, and both runs have the same seed. The tests are exact and
valid at any stopping time (``analysis.betting``), so steps may have any number of blocks.

Arrays are [blocks, batches] of 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sensitivity.analysis.betting import Anytime, bet, next_stake, ratio_bounds
from sensitivity.analysis.estimates import Floats
from sensitivity.study.amendments import Claim, DeclaredArm, Hyperparameters, Observation, Point
from sensitivity.study.designs import quantiles

FIRST_BLOCKS = 8
"""Number of blocks of the first step."""
MIN_BLOCKS = 4
"""Smallest number of blocks of a later step."""
FUTILE_DRAWS = 128
"""Number of draws per optimizer without any success after which the test stops for futility. The success rate is then
below 2.4% (at 95% confidence), and tens of thousands of runs would be needed to distinguish two such rates."""


def next_blocks(blocks: int, most: int) -> int:
    """Return the number of blocks of the next step: an eighth of the earlier ones, but at least `MIN_BLOCKS`."""
    return min(max(MIN_BLOCKS, blocks // 8) if blocks else FIRST_BLOCKS, most - blocks)


def draw(arm: DeclaredArm, seed: int) -> Hyperparameters:
    """Return the configuration drawn from an arm's declared prior with a seed."""
    varying = [side.name for side in arm.sides if side.axis.varies]
    at = dict(zip(varying, quantiles(varying, [side.name for side in arm.sides], seed), strict=True))
    return tuple((side.name, side.axis.quantile(at.get(side.name, 0.0))) for side in arm.sides)


def block_points(arms: Sequence[DeclaredArm], batch_sizes: Sequence[int], block: int, first: int) -> list[Point]:
    """Return the runs of a block; `first` is the first seed of all blocks."""
    return [
        Point(
            arm=arm.name,
            batch_size=size,
            hyperparameters=draw(arm, seed),
            seed=seed,
            phase="judge_sensitivity",
        )
        for seed, size in enumerate(batch_sizes, start=first + block * len(batch_sizes))
        for arm in arms
    ]


@dataclass
class Draws:
    """The draws of an arm."""

    rows: list[list[Observation]] = field(default_factory=list)
    """One list of observations per block, by batch size."""

    def success(self) -> Floats:
        """Return which draws reached the target within their budget, [blocks, batches]."""
        return np.array([[float(one.success) for one in row] for row in self.rows])


@dataclass(frozen=True, kw_only=True)
class Wager:
    """Result of the tests by betting on a pair, from the blocks so far."""

    anytime: Anytime
    shares: tuple[float, float]
    """Success rates of the candidate and the reference, over all blocks and batch sizes."""
    stakes: dict[str, float]
    """Stakes on the next block, by bet."""

    def facts(self) -> dict[str, object]:
        """Return the result for the ledger."""
        names = ("better", "worse", "not_better", "not_worse", "easier", "harder")
        return {
            "blocks": self.anytime.blocks,
            "success": list(self.shares),
            "e_values": {name: getattr(self.anytime, name) for name in names},
            "next_stakes": self.stakes,
        }


def wager(claim: Claim, one: Draws, other: Draws) -> Wager:
    """Return the result of the tests by betting on the blocks so far."""
    a, b = one.success(), other.success()
    sides = {
        "better": (claim.margin, True),
        "worse": (1 / claim.margin, False),
        "not_better": (claim.margin, False),
        "not_worse": (1 / claim.margin, True),
    }
    return Wager(
        anytime=bet(a, b, claim.margin, "blocks", independent=True),
        shares=(float(a.mean()), float(b.mean())),
        stakes={name: next_stake(a, b, ratio, above=above, independent=True) for name, (ratio, above) in sides.items()},
    )


def futility(one: Draws, other: Draws) -> str:
    """Return the reason why further draws are futile; empty if they are not."""
    a, b = one.success(), other.success()
    if a.any() or b.any() or a.size < FUTILE_DRAWS:
        return ""
    return (
        f"none of {a.size:,} draws of either reaches the target within its budget: raise the budget, choose a target"
        " that is easier to reach, or declare ranges in which it is"
    )


def trials_bounds(claim: Claim, one: Draws, other: Draws) -> tuple[float, float]:
    """Return the interval, valid at any stopping time, of the candidate's expected trials over the reference's."""
    low, high = ratio_bounds(one.success(), other.success(), claim.alpha, independent=True)
    return (1 / high if high > 0 else np.inf), (1 / low if low > 0 else np.inf)
