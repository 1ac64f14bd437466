"""``ScalingPoint``: the best configuration of an optimizer at a batch size, and its time to the target.

S(B) is the geometric mean over seeds of the winner's times on seeds that did not select it (``winners``), each at the
middle of its interval (``times``); its confidence interval includes the bias from the spacing of evaluations
(``grain``). If an evaluating seed meets the target at its first evaluation, S is only bounded from above; if some seeds
don't reach the target, the point has the expected running time, without an interval.
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
    """reached: every seed that timed the winner reached the target; left-censored: likewise, some at their first
    evaluation; untrained: the untrained network meets the target; unreliable: some seeds reached it; censored: no run
    of any cell reached it, and some completed; diverged: every run with a result diverged."""
    time: Estimate
    """S(B). An upper bound of it if left-censored; the budget, a lower bound, if censored; NaN if diverged or without a
    result."""
    bounds: Interval
    """Geometric means over seeds of the lower and the upper ends of T's intervals; NaN unless every seed reached it."""
    grain: float
    """Mean width of the intervals of log T; infinite if one has no lower end, NaN unless every seed reached it."""
    expected: float
    """Expected running time (COCO) of the winner: sum of min(T, cap) over successes; NaN without a success."""
    expected_bounds: Interval
    """Expected running times from the lower and from the upper ends of all intervals."""
    spent: float
    """Numerator of the expected running time; without a success, a lower bound of that time."""
    restricted_mean: Estimate
    """E[min(T, cap)] of the winner."""
    efficiency: Estimate
    """Scaling efficiency relative to the smallest batch size that reached the target; 1 is ideal."""
    flattering: float
    """Expected running time on the runs that selected the winner, which the winner's curse makes too small."""
    regret: float
    """Expected regret of the selection of the winner, in log time (``nested``); NaN if it can't be estimated."""
    method: Method
    cell_id: str | None
    """Cell of the winner; None without one."""
    parameters: Parameters
    """Hyperparameters of the winner."""
    edges: tuple[Edge, ...]
    """Edges of the grid, or of the box of draws and searches, that the winner and all cells tied with it lie on."""
    steepness: tuple[tuple[str, float], ...]
    """For a grid: hyperparameter, and the ratio of the time of the faster of its two neighbouring values to the
    winner's."""
    configurations: int
    """Number of cells."""
    fell_back: int
    """Number of runs, of all cells, that reached the target and ended below it."""
    stopped: int
    """Number of runs, of all cells, that were stopped early."""
    reached: int
    """Number of runs, of all cells, that reached the target; the next four count the other outcomes."""
    censored: int
    diverged: int
    failed: int
    waiting: int

    @property
    def planned(self) -> int:
        """Number of runs of all cells at this batch size."""
        return self.reached + self.censored + self.diverged + self.failed + self.waiting

    @property
    def optimism(self) -> float:
        """Winner's curse: expected time on evaluating seeds over that on the selecting runs, minus 1."""
        return self.expected / self.flattering - 1 if self.flattering > 0 else math.nan


@dataclass(frozen=True, kw_only=True, eq=False)
class Configurations:
    """Configurations of an optimizer, with their design."""

    design: Design
    parameters: pd.DataFrame
    """Hyperparameters that vary, one row per cell, indexed by cell_id."""
    box: Axes | None
    """Box of draws or a search; None for a grid."""


def configurations_of(rows: pd.DataFrame, design: Design, box: Axes) -> Configurations:
    """Return the configurations of the cells of one optimizer's `rows`; `box` is that of draws and searches."""
    cells = one_row_a_cell(rows)
    return Configurations(
        design=design,
        parameters=cell_parameters(cells, varying(cells)),
        box=None if design == "grid" else box,
    )


def scaling_point(
    table: SeedTable, winner: Winner, configurations: Configurations, confirmation_seeds: Collection[int]
) -> ScalingPoint:
    """Return the point of the scaling curve for the `winner` of `table`."""
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
        return Estimate(value=bound, interval=(0.0, bound), n=n, covers="all times up to the first evaluation")
    if state == "censored":
        return Estimate(value=budget, n=0, interval=(budget, math.inf))
    if state == "untrained":
        return Estimate(value=0.0, n=n)
    successes = int(winner.reached.sum())
    return Estimate(value=float(winner.spent.sum()) / successes if successes else math.nan, n=n)


def _edges(parameters: pd.DataFrame, tied: list[str], names: tuple[str, ...], box: Axes | None) -> tuple[Edge, ...]:
    """Return the edges that all of the cells `tied` lie on: if one of them is interior, the optimum may be interior."""
    shared: list[Edge] | None = None
    for cell in tied:
        best = {name: float(parameters[name][cell]) for name in names}
        found = table_edges(parameters, best, names) if box is None else box_edges(box, best, names)
        shared = list(found) if shared is None else [edge for edge in shared if edge in found]
        if not shared:  # where no run reaches the target, all cells are tied
            break
    return tuple(shared or ())


def _steepness(
    table: SeedTable,
    cell: int,
    parameters: pd.DataFrame,
    names: tuple[str, ...],
    confirmation_seeds: Collection[int],
) -> tuple[tuple[str, float], ...]:
    """Return the time ratio of the faster neighbour along each hyperparameter with neighbours on both sides."""
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
    """Return the middles and the widths of the winner's intervals of log T, [seeds] each; all seeds reached it."""
    low, high = winner.logs()
    return (low + high) / 2, high - low
