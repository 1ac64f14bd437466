"""The best configuration of an optimizer at a batch size, and its time to target on seeds that did not select it.

Some seeds select the winner and others time it (``honest``): fresh seeds if the study has confirmation runs, otherwise
a split of the seeds, or cross-fitting if there are few.

Cells are ranked by expected running time, so that seeds that don't reach the target count against a cell. Because
evaluations are spaced, cells often tie. The best of tied cells is the one that crosses the target earliest within its
intervals (``times``: share), independent of the order of the plan.

Arrays are [seeds, cells].
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sensitivity.analysis.estimates import Floats
from sensitivity.analysis.honest import Method, equivalence_widening, first_half, method_for, widening
from sensitivity.analysis.times import AFTER, CAP, TimeUnit
from sensitivity.study.results import Status


@dataclass(frozen=True, eq=False, kw_only=True)
class SeedTable:
    """The times to a target of an optimizer's cells at a batch size."""

    optimizer: str
    batch_size: int
    seeds: tuple[int, ...]
    cells: tuple[str, ...]
    time: Floats
    """[seeds, cells] T, the upper end of its interval; infinite if diverged, the budget if censored, NaN without a
    result."""
    after: Floats
    """[seeds, cells] lower end of the interval."""
    cap: Floats
    """[seeds, cells] budget; NaN without a result."""
    reached: NDArray[np.bool_]
    """[seeds, cells] whether the run reached the target."""
    share: Floats
    """[seeds, cells] position within the interval at which the target is crossed (``times``); NaN if it isn't."""
    counts: Mapping[str, int]
    """Number of runs, over seeds and cells, by outcome, and of those that fell back or were stopped early."""

    @property
    def spent(self) -> Floats:
        """[seeds, cells] min(T, budget), with T at the middle of its interval; NaN without a result."""
        return self._spent((self.after + self.time) / 2)

    def _spent(self, time: Floats) -> Floats:
        return np.asarray(np.where(np.isnan(self.time), np.nan, np.fmin(time, self.cap)), dtype=float)

    def scores(self) -> Floats:
        """Return the expected running time of every cell [cells]; infinite without a success."""
        return self._expected(self.spent)

    def score_bounds(self) -> tuple[Floats, Floats]:
        """Return the scores from the lower and from the upper ends of all intervals, [cells] each."""
        return self._expected(self._spent(self.after)), self._expected(self._spent(self.time))

    def _expected(self, spent: Floats) -> Floats:
        return expected(np.asarray(np.nansum(spent, axis=0)), np.asarray(self.reached.sum(axis=0)))

    def scores_without(self) -> Floats:
        """Return the scores from all seeds but one, for each seed left out: [seeds, cells]."""
        spent, reached = np.nan_to_num(self.spent), self.reached.astype(float)
        return expected(spent.sum(axis=0) - spent, reached.sum(axis=0) - reached)

    def tie_breaks(self) -> Floats:
        """Return the mean share of each cell [cells], by which cells of equal scores are ranked, smallest first."""
        crossed = np.where(self.reached, self.share, 0.0).sum(axis=0)
        return np.asarray(crossed / np.maximum(self.reached.sum(axis=0), 1))

    def keep(self, rows: NDArray[np.bool_]) -> SeedTable:
        """Return the table of the seeds marked in `rows`."""
        return SeedTable(
            optimizer=self.optimizer,
            batch_size=self.batch_size,
            seeds=tuple(seed for seed, kept in zip(self.seeds, rows, strict=True) if kept),
            cells=self.cells,
            counts=self.counts,
            **{name: getattr(self, name)[rows] for name in _ARRAYS},
        )


_ARRAYS = ("time", "after", "cap", "reached", "share")


def expected(spent: Floats, successes: Floats) -> Floats:
    """Return expected running times; infinite without a success."""
    return np.where(successes > 0, spent / np.maximum(successes, 1.0), np.inf)


def seed_tables(times: pd.DataFrame, unit: TimeUnit) -> Iterator[SeedTable]:
    """Yield a table per optimizer, in the order of the plan, and batch size, ascending."""
    columns = {"time": unit, "after": AFTER + unit, "cap": CAP + unit, "share": "share"}
    for optimizer, of_optimizer in times.groupby("optimizer", sort=False):
        for batch_size, rows in of_optimizer.groupby("batch_size"):
            cell, cells = pd.factorize(rows["cell_id"])
            seed, seeds = pd.factorize(rows["seed"], sort=True)
            shape = (len(seeds), len(cells))
            arrays = {name: np.full(shape, np.nan) for name in columns}
            for name, column in columns.items():
                arrays[name][seed, cell] = rows[column].to_numpy(dtype=float)
            reached = np.zeros(shape, dtype=bool)
            reached[seed, cell] = (rows["outcome"] == "reached").to_numpy()
            yield SeedTable(
                optimizer=str(optimizer),
                batch_size=int(str(batch_size)),
                seeds=tuple(int(s) for s in seeds),
                cells=tuple(str(name) for name in cells),
                reached=reached,
                counts={
                    **{str(name): int(count) for name, count in rows["outcome"].value_counts().items()},
                    "fell_back": int(rows["fell_back"].sum()),
                    "stopped": int((rows["status"] == Status.STOPPED.value).sum()),
                },
                **arrays,
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class Winner:
    """The best cell of a `SeedTable`, and its times; arrays are [seeds that timed it]."""

    cell: int | None
    """Index of the best cell on all selecting seeds; None if no run reached the target."""
    tied: tuple[int, ...]
    """Indices of all cells, including the best, whose scores are indistinguishable from it within the grain."""
    method: Method
    seeds: tuple[int, ...]
    """Seeds that timed the winner."""
    time: Floats
    """T, the upper end of its interval; infinite if diverged, the budget if censored."""
    after: Floats
    """Lower end of the interval."""
    cap: Floats
    """Budget."""
    reached: NDArray[np.bool_]
    flattering: float
    """Expected running time of the best cell on the runs that selected it."""

    @property
    def spent(self) -> Floats:
        """min(T, budget), with T at the middle of its interval."""
        return np.fmin((self.after + self.time) / 2, self.cap)

    def logs(self) -> tuple[Floats, Floats]:
        """Return the ends of the intervals of log T; minus infinity and infinity mark missing ends."""
        with np.errstate(divide="ignore"):
            low, high = np.log(self.after), np.log(self.time)
            bound = np.log(self.cap)
        return np.where(self.reached, low, np.fmin(low, bound)), np.where(self.reached, high, np.inf)

    @property
    def widen(self) -> float:
        """Factor on the width of intervals over these seeds."""
        return widening(self.method)

    @property
    def widen_equivalence(self) -> float:
        """Factor on the standard error over these seeds in a test of equivalence."""
        return equivalence_widening(self.method)


def choosing_seeds(seeds: Collection[int], confirmation_seeds: Collection[int]) -> NDArray[np.bool_]:
    """Return which of `seeds` select the winner [seeds]: all but fresh ones, or the first half of a split."""
    fresh = np.isin(list(seeds), list(confirmation_seeds))
    if fresh.any() and not fresh.all():
        return ~fresh
    return first_half(len(seeds)) if method_for(len(seeds)) == "split" else np.ones(len(seeds), dtype=bool)


def find_winner(table: SeedTable, confirmation_seeds: Collection[int] = ()) -> Winner:
    """Select and time the best cell of `table`."""
    fresh = np.isin(table.seeds, list(confirmation_seeds))
    if fresh.any() and not fresh.all():
        winner = _confirmed(table.keep(~fresh), table.keep(fresh), "confirmed")
        if winner is not None:
            return winner
    choosing = table.keep(~fresh) if not fresh.all() else table
    n = len(choosing.seeds)
    score, ties = choosing.scores(), choosing.tie_breaks()
    best = _best(score, ties, table.cells) if np.isfinite(score).any() else None
    if n < 2 or (~np.isnan(choosing.time)).sum(axis=0).max(initial=0) < 2:  # draws with one seed each
        return _timed(choosing, choosing, np.full(n, best or 0), best, "same-runs")
    if method_for(n) == "split":
        first = first_half(n)
        winner = _confirmed(choosing.keep(first), choosing.keep(~first), "split")
        if winner is not None:
            return winner
    # If the other seeds reach the target nowhere, they can't select a cell: use the best of all seeds.
    chosen = [
        _best(row, ties, table.cells) if np.isfinite(row).any() else best or 0 for row in choosing.scores_without()
    ]
    return _timed(choosing, choosing, np.array(chosen), best, "cross-fitted")


def _best(score: Floats, tie_breaks: Floats, cells: tuple[str, ...]) -> int:
    """Return the cell with the lowest score; ties are broken by the earliest crossing, then by cell id."""
    equal = np.flatnonzero(score <= score.min() * (1 + 1e-9))
    return int(min(equal, key=lambda cell: (round(float(tie_breaks[cell]), 9), cells[cell])))


def _confirmed(choosing: SeedTable, timing: SeedTable, method: Method) -> Winner | None:
    """Select by one table and time by the other, among the cells that the latter has; None if there is no such cell."""
    timed = ~np.isnan(timing.time).all(axis=0)
    score = np.where(timed, choosing.scores(), np.inf)
    if not np.isfinite(score).any():
        return None
    best = _best(score, choosing.tie_breaks(), choosing.cells)
    return _timed(choosing, timing, np.full(len(timing.seeds), best), best, method)


def _timed(
    choosing: SeedTable, timing: SeedTable, chosen: NDArray[np.int_], cell: int | None, method: Method
) -> Winner:
    rows = np.arange(len(timing.seeds))
    known = ~np.isnan(timing.time[rows, chosen])
    rows, chosen = rows[known], chosen[known]
    low, high = choosing.score_bounds()
    return Winner(
        cell=cell,
        tied=() if cell is None else tuple(int(place) for place in np.flatnonzero(low <= high[cell])),
        method=method,
        seeds=tuple(timing.seeds[row] for row in rows),
        time=timing.time[rows, chosen],
        after=timing.after[rows, chosen],
        cap=timing.cap[rows, chosen],
        reached=timing.reached[rows, chosen],
        flattering=np.inf if cell is None else float(choosing.scores()[cell]),
    )
