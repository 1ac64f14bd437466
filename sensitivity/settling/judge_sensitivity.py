"""Bets on the sensitivity question: the ratio of success probabilities, by draws from the declared priors.

A block is one draw at each batch size, with a point and a seed of its own, mapped into the declared box of either arm:
hyperparameters of one name get the same quantile, and both runs the same seed. The tests are exact and hold at any stop
(``analysis.betting``), so blocks may come in steps of any size.

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

FIRST = 8
"""Blocks of the first step."""
FEWEST = 4
"""Of a later one."""
HOPELESS = 128
"""Draws of either optimizer none of which has worked, from which no further ones are asked for: less than 2.4% of them
work (at 95%), and to tell two such shares apart takes tens of thousands of runs."""


def next_blocks(blocks: int, most: int) -> int:
    """Return how many blocks the next step has: an eighth of those before it, and after the first 4 at least."""
    return min(max(FEWEST, blocks // 8) if blocks else FIRST, most - blocks)


def draw(arm: DeclaredArm, seed: int) -> Hyperparameters:
    """Return the configuration that a seed draws from an arm's declared prior."""
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
    """One list of observations a block, by batch size."""

    def success(self) -> Floats:
        """Return which draws reached the target within their budget."""
        return np.array([[float(one.success) for one in row] for row in self.rows])


@dataclass(frozen=True, kw_only=True)
class Wager:
    """The betting result on a pair from the blocks drawn so far."""

    anytime: Anytime
    shares: tuple[float, float]
    """Success rates of the candidate and the reference, over all blocks and batch sizes."""
    stakes: dict[str, float]
    """On the next block, by bet."""

    def facts(self) -> dict[str, object]:
        """Return it for the ledger."""
        names = ("better", "worse", "not_better", "not_worse", "easier", "harder")
        return {
            "blocks": self.anytime.blocks,
            "success": list(self.shares),
            "e_values": {name: getattr(self.anytime, name) for name in names},
            "next_stakes": self.stakes,
        }


def wager(claim: Claim, one: Draws, other: Draws) -> Wager:
    """Bet on the blocks so far."""
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


def hopeless(one: Draws, other: Draws) -> str:
    """Return why further draws can't settle the question; empty if they can."""
    a, b = one.success(), other.success()
    if a.any() or b.any() or a.size < HOPELESS:
        return ""
    return (
        f"none of {a.size:,} draws of either reaches the target within its budget: raise the budget, choose a target"
        " that is easier to reach, or declare ranges in which it is"
    )


def trials_bounds(claim: Claim, one: Draws, other: Draws) -> tuple[float, float]:
    """Return the interval, valid at any stop, of the candidate's expected trials over the reference's."""
    low, high = ratio_bounds(one.success(), other.success(), claim.alpha, independent=True)
    return (1 / high if high > 0 else np.inf), (1 / low if low > 0 else np.inf)
