"""The best configuration of an optimizer at a batch size, and how long it takes when judged honestly.

The best of many noisy configurations flatters itself (STATISTICS.md, section 2). So the winner is chosen by some
seeds and timed by others: on fresh seeds where the study has confirmation runs, otherwise cross-fitted, each seed
being timed in the cell that the other seeds choose. With one seed neither can be done, and the result says so.

Cells are ranked by expected running time, so that seeds that don't reach the target count against a cell.
Arrays are [seeds, cells].
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sensitivity.analysis.estimates import Floats
from sensitivity.analysis.times import CAP, TimeUnit

Method = Literal["confirmed", "cross-fitted", "same-runs"]


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

    def scores(self, weights: Floats) -> Floats:
        """Return the expected running time of every cell, with `weights` [replicates, seeds] on the seeds.

        Result: [replicates, cells]; infinite without a success.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            score = (weights @ np.nan_to_num(self.spent)) / (weights @ self.reached.astype(float))
        return np.where(np.isnan(score), np.inf, score)

    def keep(self, rows: NDArray[np.bool_]) -> SeedTable:
        """Return the table of the seeds marked in `rows`."""
        seeds = tuple(seed for seed, kept in zip(self.seeds, rows, strict=True) if kept)
        return SeedTable(
            self.optimizer, self.batch_size, seeds, self.cells, self.time[rows], self.spent[rows], self.reached[rows]
        )


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


def find_winner(table: SeedTable, confirmation_seeds: Collection[int] = ()) -> Winner:
    """Choose and time the best cell of `table`."""
    fresh = np.isin(table.seeds, list(confirmation_seeds))
    choosing = table.keep(~fresh) if fresh.any() and not fresh.all() else table
    score = choosing.scores(np.ones((1, len(choosing.seeds))))[0]
    confirmed = ~np.isnan(table.time[fresh]).all(axis=0) if fresh.any() and not fresh.all() else np.zeros(0, bool)
    if confirmed.any() and np.isfinite(score[confirmed]).any():
        best = int(np.where(confirmed, score, np.inf).argmin())
        return _timed(table.keep(fresh), np.full(int(fresh.sum()), best), best, "confirmed", float(score[best]))
    best_or_none = int(score.argmin()) if np.isfinite(score).any() else None
    flattering = float(score.min()) if len(score) else np.inf
    n = len(choosing.seeds)
    if n < 2:
        chosen = np.full(n, best_or_none or 0)
        return _timed(choosing, chosen, best_or_none, "same-runs", flattering)
    others = choosing.scores(1.0 - np.eye(n))
    # Where the others reach it nowhere they have no choice to make: the best of all stands in.
    chosen = np.where(np.isfinite(others).any(axis=1), others.argmin(axis=1), best_or_none or 0)
    return _timed(choosing, chosen, best_or_none, "cross-fitted", flattering)


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
