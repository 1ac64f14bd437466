"""Expected regret of selecting a winner among noisy cells, by a bootstrap that repeats the selection.

The cell with the best score on the selecting seeds need not be the best, and the evaluating seeds don't reveal that.
The selecting seeds are therefore resampled, each resample selects its own winner, and the winner's score on all
selecting seeds is compared with the best score there. The mean of the logarithm of that ratio is the expected regret R.
The time of the truly best cell is taken to lie between S exp(-R) and S, and intervals over the evaluating seeds are
widened by R / 2 at each batch size (``scaling``): a regret common to all batch sizes cancels in a critical batch size.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import partial

import numpy as np

from sensitivity.analysis.winners import SeedTable, Winner, choosing_seeds, expected

_RESAMPLES = 300


def winner_regret(
    table: SeedTable,
    winner: Winner,
    confirmation_seeds: Collection[int] = (),
    rng: np.random.Generator | None = None,
) -> float:
    """Return the expected regret of selecting `winner` from `table`, in log time.

    It is NaN if there is no winner, or if the untrained network meets the target, and 0 if there is a single cell.
    `rng` draws the resamples; by default it has a fixed seed.
    """
    choosing = table.keep(choosing_seeds(table.seeds, confirmation_seeds))
    score = choosing.scores()
    if winner.cell is None or not np.isfinite(score[winner.cell]) or score.min() == 0:
        return math.nan
    n = len(choosing.seeds)
    if len(score) == 1 or n < 2:
        return 0.0 if len(score) == 1 else math.nan
    weights = (rng or np.random.default_rng(0)).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES).astype(float)
    sums = partial(np.einsum, "ns,sc->nc", weights)  # so small that the threads of a product of matrices cost more
    again = expected(sums(np.nan_to_num(choosing.spent)), sums(choosing.reached))
    best = again.argmin(axis=1)
    found = np.isfinite(again[np.arange(len(best)), best])
    least = float(np.log(score.min()))
    resampled = float(np.log(score[best[found]]).mean()) - least if found.any() else 0.0
    return max(resampled, float(np.log(score[winner.cell])) - least)
