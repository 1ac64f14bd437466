"""``ScalingPoint``: the best configuration of an optimizer at a batch size, and how long it takes to the target.

S(B) is the geometric mean over seeds of the honest times of the winner (``winners``), each in the middle of its
interval (``times``), with an interval that covers what the spacing of evaluations hides (``grain``). Where a judging
seed meets the target at its first evaluation, S is only bounded from above; where some don't reach it, the point has
the expected running time, without an interval.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from sensitivity.analysis.designs import (
    Axes,
    Design,
    Edge,
    Parameters,
    box_edges,
    cell_parameters,
    one_row_a_cell,
    table_edges,
    varying,
)
from sensitivity.analysis.estimates import Estimate, Floats, Interval, mean_over_seeds
from sensitivity.analysis.grain import bias_bound
from sensitivity.analysis.honest import Method
from sensitivity.analysis.intervals import exponential
from sensitivity.analysis.nested import winner_regret
from sensitivity.analysis.winners import SeedTable, Winner, choosing_seeds

PointState = Literal["reached", "left-censored", "untrained", "unreliable", "censored", "diverged", "no-result"]


@dataclass(frozen=True, kw_only=True)
class ScalingPoint:
    """The best configuration of an optimizer at a batch size."""

    batch_size: int
    state: PointState
    """reached: by every seed that timed the winner; left-censored: likewise, by some at their first evaluation;
    untrained: the untrained network meets the target; unreliable: reached by some seeds; censored: by no run of any
    cell, some of which completed; diverged: every run with a result diverged."""
    time: Estimate
    """S(B); of a left-censored point an upper bound, of a censored one the budget, which S exceeds; NaN where diverged
    or without a result."""
    bounds: Interval
    """Geometric means over seeds of the lower and the upper ends of T's intervals; NaN unless every seed reached it."""
    grain: float
    """Mean width of the intervals of log T; infinite where one has no lower end, NaN unless every seed reached it."""
    expected: float
    """Expected running time (COCO): sum of min(T, cap) over successes, of the winner; NaN without a success."""
    expected_bounds: Interval
    """The same from the lower and the upper ends of all intervals."""
    spent: float
    """Its numerator: without a success, a lower bound of the expected time."""
    restricted_mean: Estimate
    """E[min(T, cap)] of the winner."""
    efficiency: Estimate
    """Against the smallest batch size that was reached; 1 is ideal."""
    flattering: float
    """The expected running time by the very runs that chose the winner, to show the winner's curse."""
    regret: float
    """Expected, of the choice of the winner, in log time (``nested``); NaN where it can't be had."""
    method: Method
    cell_id: str | None
    parameters: Parameters
    """Of the winner."""
    edges: tuple[Edge, ...]
    """Of the grid, or of the box of draws and searches, that the winner lies on, and all cells that tie with it."""
    steepness: tuple[tuple[str, float], ...]
    """Of a grid: a hyperparameter, and the factor on the time by which the better of the winner's two neighbours along
    it is slower."""
    configurations: int
    fell_back: int
    """Runs of all cells that reached the target and ended below it."""
    stopped: int
    """Runs of all cells that were stopped early."""
    reached: int
    """Runs of all cells, as are the next four."""
    censored: int
    diverged: int
    failed: int
    waiting: int

    @property
    def planned(self) -> int:
        """Runs of all cells at this batch size."""
        return self.reached + self.censored + self.diverged + self.failed + self.waiting

    @property
    def optimism(self) -> float:
        """By how much the runs that chose the winner flatter it: its honest expected time over theirs, less 1."""
        return self.expected / self.flattering - 1 if self.flattering > 0 else math.nan


@dataclass(frozen=True, kw_only=True, eq=False)
class Configurations:
    """What an optimizer's configurations are."""

    design: Design
    parameters: pd.DataFrame
    """Of each cell, by cell_id: the hyperparameters that vary."""
    box: Axes | None
    """None of a grid."""


def configurations_of(rows: pd.DataFrame, design: Design, box: Axes) -> Configurations:
    """Return the configurations of the cells of `rows`, of one optimizer; `box` is what draws and searches are from."""
    cells = one_row_a_cell(rows)
    return Configurations(
        design=design,
        parameters=cell_parameters(cells, varying(cells)),
        box=None if design == "grid" else box,
    )


def scaling_point(
    table: SeedTable, winner: Winner, configurations: Configurations, confirmation_seeds: Collection[int]
) -> ScalingPoint:
    """Return the point of `winner` of `table`."""
    counts = {name: table.counts.get(name, 0) for name in ("reached", "censored", "diverged", "failed", "waiting")}
    cell = table.cells[winner.cell] if winner.cell is not None else None
    state = _state(winner, counts)
    successes, spent = int(winner.reached.sum()), float(winner.spent.sum())
    ends = [float(np.fmin(time, winner.cap).sum()) for time in (winner.after, winner.time)]
    low, high = winner.logs()
    whole = state in ("reached", "left-censored")
    parameters, box = configurations.parameters.loc[list(table.cells)], configurations.box
    names = tuple(str(name) for name in parameters)
    best = {name: float(parameters[name][cell]) for name in names} if cell is not None else {}
    return ScalingPoint(
        batch_size=table.batch_size,
        state=state,
        time=_time(state, winner, float(np.nanmax(table.cap)) if state == "censored" else math.nan),
        bounds=(math.exp(low.mean()), math.exp(high.mean())) if whole else (math.nan, math.nan),
        grain=float((high - low).mean()) if whole else math.nan,
        expected=spent / successes if successes else math.nan,
        expected_bounds=(ends[0] / successes, ends[1] / successes) if successes else (math.nan, math.nan),
        spent=spent,
        restricted_mean=mean_over_seeds(
            winner.spent,
            widen=winner.widen,
            bias=bias_bound(winner.spent, np.fmin(winner.time, winner.cap) - np.fmin(winner.after, winner.cap)),
        ),
        efficiency=Estimate(value=math.nan),
        flattering=winner.flattering,
        regret=winner_regret(table, winner, confirmation_seeds),
        method=winner.method,
        cell_id=cell,
        parameters=tuple(best.items()),
        edges=_edges(parameters, [table.cells[place] for place in winner.tied], names, box) if best else (),
        steepness=_steepness(table, winner.cell, parameters, names, confirmation_seeds)
        if winner.cell is not None and box is None
        else (),
        configurations=len(table.cells),
        fell_back=table.counts.get("fell_back", 0),
        stopped=table.counts.get("stopped", 0),
        **counts,
    )


def _state(winner: Winner, counts: dict[str, int]) -> PointState:
    if winner.cell is not None:
        if not winner.reached.all() or not len(winner.reached):
            return "unreliable"
        if (winner.time == 0).any():
            return "untrained"
        return "left-censored" if (winner.after == 0).any() else "reached"
    if counts["censored"]:
        return "censored"
    return "diverged" if counts["diverged"] else "no-result"


def _time(state: PointState, winner: Winner, budget: float) -> Estimate:
    n = len(winner.seeds)
    if state == "reached":
        low, high = winner.logs()
        middle = (low + high) / 2
        return mean_over_seeds(middle, exponential, widen=winner.widen, bias=bias_bound(middle, high - low))
    if state == "left-censored":
        bound = math.exp(float(np.log(winner.time).mean()))
        return Estimate(value=bound, interval=(0.0, bound), n=n, covers="all that the first evaluation leaves open")
    if state == "censored":
        return Estimate(value=budget, n=0, interval=(budget, math.inf))
    if state == "untrained":
        return Estimate(value=0.0, n=n)
    successes = int(winner.reached.sum())
    return Estimate(value=float(winner.spent.sum()) / successes if successes else math.nan, n=n)


def _edges(parameters: pd.DataFrame, tied: list[str], names: tuple[str, ...], box: Axes | None) -> tuple[Edge, ...]:
    """Return the edges that all of the cells `tied` lie on: where one is interior, the optimum may be there."""
    shared: list[Edge] | None = None
    for cell in tied:
        best = {name: float(parameters[name][cell]) for name in names}
        found = table_edges(parameters, best, names) if box is None else box_edges(box, best, names)
        shared = list(found) if shared is None else [edge for edge in shared if edge in found]
    return tuple(shared or ())


def _steepness(
    table: SeedTable,
    cell: int,
    parameters: pd.DataFrame,
    names: tuple[str, ...],
    confirmation_seeds: Collection[int],
) -> tuple[tuple[str, float], ...]:
    """Return the factor of the better neighbour along each hyperparameter that has neighbours on both sides."""
    scores = table.keep(choosing_seeds(table.seeds, confirmation_seeds)).scores()
    values = parameters[list(names)].to_numpy(dtype=float)
    found = []
    for column, name in enumerate(names):
        grid = np.unique(values[:, column])
        place = int(np.searchsorted(grid, values[cell, column]))
        others = np.delete(np.arange(len(names)), column)
        line = (values[:, others] == values[cell, others]).all(axis=1)
        if 0 < place < len(grid) - 1 and math.isfinite(scores[cell]):
            beside = [scores[line & (values[:, column] == grid[place + side])] for side in (-1, 1)]
            if all(len(of_side) == 1 for of_side in beside):
                found.append((name, float(min(of_side[0] for of_side in beside) / scores[cell])))
    return tuple(found)


def log_middles(winner: Winner) -> tuple[Floats, Floats]:
    """Return the middles and the widths of the winner's intervals of log T, [seeds] each, all of which reached."""
    low, high = winner.logs()
    return (low + high) / 2, high - low
