"""How far results move with the choice of winners: a bootstrap that chooses anew in every resample.

Seeds are resampled whole, the same draw for every batch size and optimizer: those that choose and those that judge,
each among themselves (``honest``). Every resample chooses its best cell at each batch size, times it on its judging
seeds, and fits Bc. Percentiles of so few seeds fall short by themselves (90% where 95% is meant with ten, 72% with
three: STATISTICS.md, section 8), so they only ever widen the interval of ``critical``, from ten seeds on, and only
ever take back a claim of equivalence (``paired``).

Arrays are [resamples, seeds] or [resamples, cells].
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from sensitivity.analysis.critical import fit_log_size
from sensitivity.analysis.estimates import Floats, Interval
from sensitivity.analysis.honest import first_half, method_for
from sensitivity.analysis.intervals import LEVEL
from sensitivity.analysis.winners import SeedTable

FEWEST = 10
"""Seeds, below which there is no interval."""
_RESAMPLES = 300


def resample_winners(
    tables: Sequence[SeedTable], confirmation_seeds: Collection[int] = (), rng: np.random.Generator | None = None
) -> Floats | None:
    """Return log S [resamples, batches] of winners chosen anew, from tables of one optimizer.

    None where seeds are too few to be split, where batch sizes have other seeds, and where resamples don't reach the
    target. `rng` draws the resamples; by default a fixed one, so that optimizers of the same seeds are paired.
    """
    seeds = tables[0].seeds if tables else ()
    if any(table.seeds != seeds for table in tables):
        return None
    fresh = np.isin(seeds, list(confirmation_seeds))
    confirmed = bool(fresh.any() and not fresh.all())
    if not confirmed and method_for(len(seeds)) != "split":
        return None
    choosing = ~fresh if confirmed else first_half(len(seeds))
    generator = rng or np.random.default_rng(0)
    chosen_by, judged_by = (_weights(int(some.sum()), generator) for some in (choosing, ~choosing))
    times = np.stack([_log_times(table, choosing, chosen_by, judged_by) for table in tables], axis=1)
    return times if np.isfinite(times).all() else None


def nested_interval(tables: Sequence[SeedTable], resampled: Floats | None) -> Interval | None:
    """Return the interval of Bc over the resamples of `tables` (of `resample_winners`).

    None below ten seeds or two batch sizes, and without resamples.
    """
    if resampled is None or len(tables) < 2 or len(tables[0].seeds) < FEWEST:
        return None
    sizes = fit_log_size(resampled, np.array([table.batch_size for table in tables], dtype=float))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(sizes, [tail, 1 - tail], method="nearest")
    return math.exp(low), math.exp(high)


def _weights(n: int, rng: np.random.Generator) -> Floats:
    """Return how often each of `n` seeds is in each resample."""
    return rng.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES).astype(float)


def _log_times(table: SeedTable, choosing: np.ndarray, chosen_by: Floats, judged_by: Floats) -> Floats:
    """Return the mean log time of each resample's winner: [resamples]; NaN where it isn't always reached."""
    first, rest = table.keep(choosing), table.keep(~choosing)
    successes = chosen_by @ first.reached
    with np.errstate(divide="ignore", invalid="ignore"):
        score = (chosen_by @ np.nan_to_num(first.spent)) / successes
    there = np.asarray(rest.reached.all(axis=0))  # cells that were judged, and reach the target on every seed
    score = np.where((successes > 0) & ~np.isnan(rest.time).all(axis=0), score, np.inf)
    logs = np.log(np.where(rest.reached, rest.time, 1.0))
    means = (judged_by @ logs) / judged_by.sum(axis=1, keepdims=True)
    best = score.argmin(axis=1)
    rows = np.arange(len(best))
    return np.where(there[best] & np.isfinite(score[rows, best]), means[rows, best], np.nan)
