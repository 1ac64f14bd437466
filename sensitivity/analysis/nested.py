"""What the choice of a winner among noisy cells may cost: its regret, by a bootstrap that chooses anew.

The cell that looks best on the seeds that choose need not be the best, and the seeds that judge it don't see that. So
the choosing seeds are resampled, every resample chooses its own winner, and its score on all choosing seeds is compared
with the best score there. The mean of the logarithm of that ratio is the expected regret R of the choice. The time of
the truly best cell then lies between S exp(-R) and S, and intervals over the judging seeds are widened by R / 2 at each
batch size (``scaling``): what all batch sizes share cancels in a critical batch size.
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
    """Return the expected regret of choosing `winner` from `table`, in log time.

    It is NaN where nothing was chosen, and where the untrained network meets the target. `rng` draws the resamples, by
    default a fixed one. Of one cell there is no regret.
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
    chosen_anew = float(np.log(score[best[found]]).mean()) - least if found.any() else 0.0
    return max(chosen_anew, float(np.log(score[winner.cell])) - least)
