"""Robustness maps: a metric over an optimizer's hyperparameter plane, one map per batch size.

The value of a cell is the median over its observed seeds; diverged runs count with the untrained network's value
(``outcomes``). The best cell has the best median. The tolerance region contains the cells whose value is within
`epsilon` of the best (docs/statistics.md, section 4, the first rule). A cell is indistinguishable from the best if the
95% Student's t interval of its difference from the best, paired by seed, contains zero (section 8); this is assessed
per cell, without correction for the number of cells or for the selection of the best.

The plane is that of the learning rate and one further hyperparameter. If more vary, the map is the slice through the
best cell, which consists of configurations that were run. A projection would show the best of several configurations
in each cell and hide divergence.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from sensitivity.analysis.designs import Axes, Edge, box_edges, design_of, levels, table_edges, varying
from sensitivity.analysis.intervals import t_half_width
from sensitivity.analysis.outcomes import SOUND, WAITING, counted_values, untrained_values
from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.metrics import Metric
from sensitivity.study.results import Status

_COLUMNS = frozenset({"optimizer", "batch_size", "cell_id", "seed", "status", "design"})
"""Columns of runs, besides hyperparameters, that a map is computed from; grouping copies all that a table has."""

CellState = Literal["measured", "diverged", "failed", "waiting"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A configuration at a batch size, over its seeds."""

    cell_id: str
    x: float
    y: float
    """NaN if only one hyperparameter varies."""
    planned: int
    completed: int
    diverged: int
    failed: int
    waiting: int
    median: float
    """Median over completed and diverged runs; NaN without any."""
    low: float
    """Smallest value over these runs."""
    high: float
    """Largest value over these runs."""
    in_region: bool
    """Whether the median is within the tolerance of the best cell's."""
    like_best: bool
    """Whether the cell is indistinguishable from the best; False if that can't be assessed."""

    @property
    def state(self) -> CellState:
        """Whether the cell has a value, or why it has none."""
        if self.completed:
            return "measured"
        if self.diverged:
            return "diverged"
        return "waiting" if self.waiting else "failed"


@dataclass(frozen=True, kw_only=True)
class RobustnessMap:
    """A metric over the plane of hyperparameters `x` and `y` of an optimizer at a batch size."""

    metric: Metric
    optimizer: str
    batch_size: int
    x_name: str
    y_name: str | None
    """None if only one hyperparameter varies."""
    x_values: tuple[float, ...]
    """Columns of the grid, ascending; empty without a grid."""
    y_values: tuple[float, ...]
    """Rows of the grid, ascending; empty without `y_name` or without a grid."""
    cells: tuple[Cell, ...]
    """Cells of the plane, sorted by y and then x."""
    best: int | None
    """Index of the best cell in `cells`; None while no run of the map has completed."""
    epsilon: float
    """Tolerance of the region, in units of the metric."""
    untrained: float
    """The metric of the untrained network, median over runs; NaN if unknown."""
    edges: tuple[Edge, ...]
    """Edges of the grid, or of the box of draws and searches, that the best cell lies on (``designs``). A smallest
    possible value, such as zero, is not an edge."""
    slice_at: tuple[tuple[str, float], ...]
    """Values of the further varying hyperparameters in this slice."""
    cells_outside: int
    """Number of configurations planned at this batch size outside the slice."""
    paired_seeds: int
    """Number of completed seeds of the best cell, with which other cells are paired."""

    @property
    def best_cell(self) -> Cell | None:
        """The best cell."""
        return None if self.best is None else self.cells[self.best]

    @property
    def is_grid(self) -> bool:
        """Whether the configurations form a grid rather than scattered points."""
        return bool(self.x_values)

    def count(self, state: CellState) -> int:
        """Return the number of cells in `state`."""
        return sum(cell.state == state for cell in self.cells)


def default_epsilon(metric: Metric, untrained: float) -> float:
    """Return the default tolerance: one percentage point of accuracy, or 2% of the untrained network's loss.

    For other metrics, see ``Quantity.tolerance``.
    """
    return metric.quantity.tolerance(metric.quantity.usual_tolerance, untrained)


def compute_maps(
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    metric: Metric,
    *,
    designs: Mapping[str, str] | None = None,
    axes: Mapping[str, Axes] | None = None,
    epsilon: float | None = None,
) -> tuple[RobustnessMap, ...]:
    """Return a map per optimizer, in the order of the plan, and batch size, ascending.

    Args:
        runs: planned runs, one row each.
        curves: evaluations; those at step 0 are enough.
        metric: metric of the map.
        designs: design of each optimizer (grid, random, sobol); without it, inferred from the configurations.
        axes: box of each optimizer; without it, draws and searches have no edges.
        epsilon: tolerance in units of the metric; by default `default_epsilon`.
    """
    untrained = float(untrained_values(runs, curves, metric).median())
    tolerance = default_epsilon(metric, untrained) if epsilon is None else epsilon
    columns = [name for name in runs if name in _COLUMNS or str(name).startswith(PARAM_PREFIX)]
    valued = runs[columns].assign(value=counted_values(runs, curves, metric))
    maps = []
    for optimizer, of_optimizer in valued.groupby("optimizer", sort=False):
        names = varying(of_optimizer)
        grid = design_of(of_optimizer, str(optimizer), designs) == "grid"
        box = (axes or {}).get(str(optimizer), {})
        maps += [
            _map(rows, metric, names, grid, box, tolerance, untrained) for _, rows in of_optimizer.groupby("batch_size")
        ]
    return tuple(maps)


def _map(
    rows: pd.DataFrame,
    metric: Metric,
    names: tuple[str, ...],
    grid: bool,
    box: Axes,
    epsilon: float,
    untrained: float,
) -> RobustnessMap:
    table = _cell_table(rows, names)
    sign = 1.0 if metric.lower_is_better else -1.0
    score = (sign * table["median"]).where(table["completed"] > 0)
    best_id = str(score.idxmin()) if score.notna().any() else None
    like_best, pairs = _like_best(rows, metric, best_id)
    table["like_best"] = table.index.isin(like_best) & (table["diverged"] == 0)
    limit = float(score.min()) + epsilon
    table["in_region"] = (score <= limit).fillna(False)
    x_name, y_name, hidden = names[0], names[1] if len(names) > 1 else None, names[2:]
    position = list(table.index).index(best_id) if best_id is not None else 0
    anchor = {name: float(table[name].iloc[position]) for name in names}
    shown = table[np.logical_and.reduce([table[name] == anchor[name] for name in hidden])] if hidden else table
    shown = shown.sort_values([y_name, x_name] if y_name else [x_name])
    cells = tuple(_cell(row, x_name, y_name) for row in shown.reset_index().to_dict("records"))
    best = list(shown.index).index(best_id) if best_id is not None else None
    edges: tuple[Edge, ...] = ()
    if best_id is not None:
        edges = table_edges(table, anchor, names) if grid else box_edges(box, anchor, names)
    return RobustnessMap(
        metric=metric,
        optimizer=str(rows["optimizer"].iloc[0]),
        batch_size=int(rows["batch_size"].iloc[0]),
        x_name=x_name,
        y_name=y_name,
        x_values=levels(shown[x_name]) if grid else (),
        y_values=levels(shown[y_name]) if grid and y_name else (),
        cells=cells,
        best=best,
        epsilon=epsilon,
        untrained=untrained,
        edges=edges,
        slice_at=tuple((name, anchor[name]) for name in hidden),
        cells_outside=len(table) - len(shown),
        paired_seeds=pairs,
    )


def _cell_table(rows: pd.DataFrame, names: tuple[str, ...]) -> pd.DataFrame:
    """Return one row per cell, indexed by cell_id: hyperparameters, counts by status, median and range."""
    status = rows["status"]
    marked = rows.assign(
        completed=status.isin(SOUND),
        diverged=(status == Status.DIVERGED.value),
        failed=(status == Status.FAILED.value),
        waiting=status.isin(WAITING),
    )
    cells = marked.groupby("cell_id", sort=False)
    value = cells["value"]
    return pd.DataFrame(  # a column at a time, for `agg` with names takes longer than all of them
        {name: cells[PARAM_PREFIX + name].first() for name in names}
        | {"planned": cells.size()}
        | {name: cells[name].sum() for name in ("completed", "diverged", "failed", "waiting")}
        | {"median": value.median(), "low": value.min(), "high": value.max()}
    )


def _like_best(rows: pd.DataFrame, metric: Metric, best_id: str | None) -> tuple[frozenset[str], int]:
    """Return the cells that are indistinguishable from the best, and the number of seeds of the best.

    Losses are compared by the logarithm of their ratio if all are positive.
    """
    done = rows.loc[rows["status"].isin(SOUND), ["cell_id", "seed", "value"]].dropna()
    if best_id is None:
        return frozenset(), 0
    if metric.quantity.scale == "log" and (done["value"] > 0).all():
        done = done.assign(value=np.log(done["value"]))
    of_best = done[done["cell_id"] == best_id].set_index("seed")["value"]
    done = done.assign(difference=done["value"] - done["seed"].map(of_best))
    stats = done.groupby("cell_id")["difference"].agg(["mean", "std", "count"])
    half = t_half_width(stats["std"].to_numpy(), stats["count"].to_numpy())
    alike = stats.index[np.abs(stats["mean"].to_numpy()) <= half]
    return frozenset(str(name) for name in alike) - {best_id}, len(of_best)


def _cell(row: Mapping[Hashable, Any], x_name: str, y_name: str | None) -> Cell:
    counts = {name: int(row[name]) for name in ("planned", "completed", "diverged", "failed", "waiting")}
    return Cell(
        cell_id=str(row["cell_id"]),
        x=float(row[x_name]),
        y=float(row[y_name]) if y_name else math.nan,
        **counts,
        median=float(row["median"]),
        low=float(row["low"]),
        high=float(row["high"]),
        in_region=bool(row["in_region"]),
        like_best=bool(row["like_best"]),
    )
