"""The best configuration of an optimizer at a batch size, and how long it takes when judged honestly.

The winner is chosen by some seeds and timed by others (``honest``): on fresh seeds where the study has runs that
confirm its winners, otherwise by a split of the seeds, or cross-fitted where they are few.

Cells are ranked by expected running time, so that seeds that don't reach the target count against a cell.
Arrays are [seeds, cells].
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sensitivity.analysis.estimates import Floats
from sensitivity.analysis.honest import Method, equivalence_widening, first_half, method_for, widening
from sensitivity.analysis.times import CAP, TimeUnit


@dataclass(frozen=True, eq=False)
class SeedTable:
    """The times to a target of an optimizer's cells at a batch size."""

    optimizer: str
    batch_size: int
    seeds: tuple[int, ...]
    cells: tuple[str, ...]
    time: Floats
    """[seeds, cells]: T; infinite where diverged, the budget where censored, NaN without a result."""
    spent: Floats
    """[seeds, cells]: min(T, budget); NaN without a result."""
    reached: NDArray[np.bool_]
    """[seeds, cells]"""

    def scores(self) -> Floats:
        """Return the expected running time of every cell [cells]; infinite without a success."""
        return _expected(np.nansum(self.spent, axis=0), self.reached.sum(axis=0))

    def scores_without(self) -> Floats:
        """Return the same from all seeds but one, for each that is left out: [seeds, cells]."""
        spent, reached = np.nan_to_num(self.spent), self.reached.astype(float)
        return _expected(spent.sum(axis=0) - spent, reached.sum(axis=0) - reached)

    def keep(self, rows: NDArray[np.bool_]) -> SeedTable:
        """Return the table of the seeds marked in `rows`."""
        seeds = tuple(seed for seed, kept in zip(self.seeds, rows, strict=True) if kept)
        return SeedTable(
            self.optimizer, self.batch_size, seeds, self.cells, self.time[rows], self.spent[rows], self.reached[rows]
        )


def _expected(spent: Floats, successes: Floats) -> Floats:
    return np.where(successes > 0, spent / np.maximum(successes, 1.0), np.inf)


def seed_tables(times: pd.DataFrame, unit: TimeUnit) -> Iterator[SeedTable]:
    """Yield a table for each optimizer, in the order of the plan, and batch size, rising."""
    for optimizer, of_optimizer in times.groupby("optimizer", sort=False):
        for batch_size, rows in of_optimizer.groupby("batch_size"):
            cell, cells = pd.factorize(rows["cell_id"])
            seed, seeds = pd.factorize(rows["seed"], sort=True)
            time, spent = np.full((2, len(seeds), len(cells)), np.nan)
            reached = np.zeros((len(seeds), len(cells)), dtype=bool)
            values = rows[unit].to_numpy(dtype=float)
            time[seed, cell] = values
            spent[seed, cell] = np.minimum(values, rows[CAP + unit].to_numpy(dtype=float))
            reached[seed, cell] = (rows["outcome"] == "reached").to_numpy()
            names = tuple(str(name) for name in cells)
            yield SeedTable(
                str(optimizer), int(str(batch_size)), tuple(int(s) for s in seeds), names, time, spent, reached
            )


@dataclass(frozen=True, eq=False)
class Winner:
    """The best cell of a `SeedTable`, and its honest times."""

    cell: int | None
    """Position of the best by all selecting seeds; None where no run reached the target."""
    method: Method
    seeds: tuple[int, ...]
    """That it was timed on."""
    time: Floats
    """[seeds]: T of each of them; infinite where diverged, the budget where censored."""
    spent: Floats
    """[seeds]: min(T, budget)."""
    reached: NDArray[np.bool_]
    """[seeds]"""
    flattering: float
    """Expected running time of the best cell by the very runs that chose it."""

    @property
    def widen(self) -> float:
        """Factor on the width of intervals over these seeds."""
        return widening(self.method)

    @property
    def widen_equivalence(self) -> float:
        """Factor on their standard error in a test of equivalence."""
        return equivalence_widening(self.method)


def find_winner(table: SeedTable, confirmation_seeds: Collection[int] = ()) -> Winner:
    """Choose and time the best cell of `table`."""
    fresh = np.isin(table.seeds, list(confirmation_seeds))
    if fresh.any() and not fresh.all():
        winner = _confirmed(table.keep(~fresh), table.keep(fresh), "confirmed")
        if winner is not None:
            return winner
    choosing = table.keep(~fresh) if not fresh.all() else table
    n = len(choosing.seeds)
    score = choosing.scores()
    best_or_none = int(score.argmin()) if np.isfinite(score).any() else None
    flattering = float(score.min()) if len(score) else np.inf
    if n < 2 or (~np.isnan(choosing.time)).sum(axis=0).max(initial=0) < 2:  # draws with a seed of their own each
        return _timed(choosing, np.full(n, best_or_none or 0), best_or_none, "same-runs", flattering)
    if method_for(n) == "split":
        first = first_half(n)
        winner = _confirmed(choosing.keep(first), choosing.keep(~first), "split")
        if winner is not None:
            return winner
    others = choosing.scores_without()
    # Where the others reach it nowhere they have no choice to make: the best of all stands in.
    chosen = np.where(np.isfinite(others).any(axis=1), others.argmin(axis=1), best_or_none or 0)
    return _timed(choosing, chosen, best_or_none, "cross-fitted", flattering)


def _confirmed(choosing: SeedTable, timing: SeedTable, method: Method) -> Winner | None:
    """Choose by one table and time by the other, among the cells that it has; None where that can't be done."""
    there = ~np.isnan(timing.time).all(axis=0)
    score = np.where(there, choosing.scores(), np.inf)
    if not np.isfinite(score).any():
        return None
    best = int(score.argmin())
    return _timed(timing, np.full(len(timing.seeds), best), best, method, float(score[best]))


def _timed(table: SeedTable, chosen: NDArray[np.int_], cell: int | None, method: Method, flattering: float) -> Winner:
    rows = np.arange(len(table.seeds))
    there = ~np.isnan(table.time[rows, chosen])
    rows, chosen = rows[there], chosen[there]
    return Winner(
        cell=cell,
        method=method,
        seeds=tuple(table.seeds[row] for row in rows),
        time=table.time[rows, chosen],
        spent=table.spent[rows, chosen],
        reached=table.reached[rows, chosen],
        flattering=flattering,
    )
