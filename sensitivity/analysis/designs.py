"""What the configurations of an optimizer are: a grid, independent draws, an adaptive search's choices, or unknown.

Of draws, shares are probabilities. A grid is a quadrature of its box. What an adaptive search chose is biased
toward success, and success rates, importance and best-of-k curves are refused for it (docs/statistics.md, section 3).
So they are for settings of which nobody has declared how they were chosen: those of runs that were made elsewhere.

A best cell at the edge of what was looked at may be no optimum: one with a grid's first or last value, or, of draws and
searches, within `NEAR_BOUND` of a bound of their box.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sensitivity.analysis.estimates import Caution
from sensitivity.analysis.names import optimizer_name, parameter_name
from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.axes import Axis
from sensitivity.study.hyperparameters import LEARNING_RATE, hyperparameter, rank
from sensitivity.study.observed import OBSERVED

Axes = Mapping[str, Axis]
"""Name of a hyperparameter -> what its values are drawn from."""
Parameters = tuple[tuple[str, float], ...]
"""Names and values of hyperparameters."""

Design = Literal["grid", "drawn", "adaptive", "observed"]
CHOSEN: tuple[Design, ...] = ("adaptive", "observed")
"""Designs whose settings are no draws and no grid: what is common among them says nothing of a box."""

_DRAWN = ("random", "sobol")

NEAR_BOUND = 0.05
"""Of a box's side, in the scale that it is drawn in (logarithms of a log interval): so near a bound a best cell is at
it. A grid of 11 points can tell an optimum from its edge no closer. Simulated with a bowl of two dimensions centred on
a bound or beyond it, the best of 64 trials of TPE was that near in 90 of 90 searches, of random draws in 58; with the
centre 20% inside in none."""


@dataclass(frozen=True, kw_only=True)
class Edge:
    """The best cell has the smallest or largest value of a hyperparameter that was looked at."""

    parameter: str
    side: Literal["low", "high"]
    value: float
    """The smallest or largest value of a grid; the bound of a box."""
    of: Literal["grid", "box"] = "grid"
    axis: Axis | None = field(default=None, compare=False, repr=False)
    """Of a box: its side; None of a grid."""


def varying(runs: pd.DataFrame) -> tuple[str, ...]:
    """Return the names of the hyperparameters that vary, lr first; lr if none does."""
    present = [str(name).removeprefix(PARAM_PREFIX) for name in runs if str(name).startswith(PARAM_PREFIX)]
    found = [name for name in present if len(levels(runs[PARAM_PREFIX + name])) > 1]
    return tuple(sorted(found, key=rank)) or (LEARNING_RATE,)


def levels(values: pd.Series[float]) -> tuple[float, ...]:
    """Return the distinct values, rising."""
    return tuple(sorted(float(value) for value in values.dropna().unique()))


def is_grid(runs: pd.DataFrame, names: tuple[str, ...]) -> bool:
    """Tell a grid, whose configurations fill most of the product of their values, from draws."""
    columns = [PARAM_PREFIX + name for name in names]
    product = math.prod(runs[column].nunique() for column in columns)
    return len(runs[columns].drop_duplicates()) > product / 2


def is_crossed(runs: pd.DataFrame, names: tuple[str, ...]) -> bool:
    """Tell configurations that run with most seeds each from draws, of which every seed has its own."""
    columns = [PARAM_PREFIX + name for name in names]
    cells, seeds = len(runs[columns].drop_duplicates()), runs["seed"].nunique()
    pairs = len(runs[[*columns, "seed"]].drop_duplicates())
    return cells < pairs > cells * seeds / 2


def design_of(runs: pd.DataFrame, optimizer: str, designs: Mapping[str, str] | None) -> Design:
    """Return what the configurations of `optimizer`, whose rows are `runs`, are.

    `designs` names each optimizer's design, as the study file does; else a column ``design`` does; else the
    configurations tell. A name other than grid, random, sobol and observed is an adaptive search.
    """
    name = (designs or {}).get(optimizer)
    if name is None and "design" in runs and len(runs):
        names = set(runs["design"].dropna())
        name = "grid" if not names else (names.pop() if len(names) == 1 else "mixed")
    if name is None:
        return "grid" if is_grid(runs, varying(runs)) else "drawn"
    if name == OBSERVED:
        return "observed"
    return "grid" if name == "grid" else "drawn" if name in _DRAWN else "adaptive"


def refusal(optimizer: str, what: str, design: str) -> Caution:
    """Return why `what` of the configurations of one of the designs `CHOSEN` is refused."""
    if design == OBSERVED:
        return Caution(
            code="unknown-prior",
            text=f"{optimizer_name(optimizer)}: its runs were made elsewhere, and how their settings were chosen isn't"
            f" known, so {what} of them would say nothing of any box. Declare the design and the box in the import's"
            " mapping, if settings were drawn at random or are a grid.",
        )
    return Caution(
        code="adaptive",
        text=f"{optimizer_name(optimizer)}: its configurations were chosen by a search that seeks success, so {what} of"
        ' them would flatter it. Run design = "random", "sobol" or "grid" to have it.',
    )


def one_row_a_cell(rows: pd.DataFrame) -> pd.DataFrame:
    """Return cell_id and hyperparameters of each cell of `rows`."""
    columns = [name for name in rows if name == "cell_id" or str(name).startswith(PARAM_PREFIX)]
    return rows.loc[(~rows["cell_id"].duplicated()).to_numpy(), columns]


def cell_parameters(cells: pd.DataFrame, names: tuple[str, ...]) -> pd.DataFrame:
    """Return the hyperparameters `names` of each of `cells` (of `one_row_a_cell`), indexed by cell_id."""
    table = cells.set_index("cell_id")
    return table[[PARAM_PREFIX + name for name in names]].rename(columns=lambda name: name.removeprefix(PARAM_PREFIX))


def table_edges(table: pd.DataFrame, best: Mapping[str, float], names: tuple[str, ...]) -> tuple[Edge, ...]:
    """Return the edges of the grid in `table` that `best` lies on, but for the least value that there can be."""
    edges = []
    for name in names:
        values = levels(table[name])
        if len(values) > 1 and best[name] == values[0] and not _least(name, values[0]):
            edges.append(Edge(parameter=name, side="low", value=values[0]))
        if len(values) > 1 and best[name] == values[-1]:
            edges.append(Edge(parameter=name, side="high", value=values[-1]))
    return tuple(edges)


def box_edges(axes: Axes, best: Mapping[str, float], names: tuple[str, ...]) -> tuple[Edge, ...]:
    """Return the bounds of the box `axes` that `best` lies at, but for the least value that there can be.

    On an interval that is within `NEAR_BOUND` of a bound; of a list, its smallest or largest value.
    """
    edges = []
    for name in names:
        axis = axes.get(name)
        if axis is None or not axis.varies or math.isnan(best[name]):
            continue
        low, high = axis.bounds()
        share = _share(axis, best[name])
        if share <= NEAR_BOUND and not _least(name, low):
            edges.append(Edge(parameter=name, side="low", value=low, of="box", axis=axis))
        if share >= 1 - NEAR_BOUND:
            edges.append(Edge(parameter=name, side="high", value=high, of="box", axis=axis))
    return tuple(edges)


def _least(name: str, value: float) -> bool:
    """Whether there is nothing below: 0, or the smallest value that a hyperparameter may have, as an interval of 1."""
    declared = hyperparameter(name)
    return value == 0 or (declared.low_allowed and value <= declared.low)


def at_edge(edge: Edge, values: pd.Series[float]) -> NDArray[np.bool_]:
    """Return which of `values` of the edge's hyperparameter lie at it."""
    if edge.axis is None:
        return (values == edge.value).to_numpy(dtype=bool)
    share = np.array([_share(edge.axis, value) for value in values], dtype=float)
    return share <= NEAR_BOUND if edge.side == "low" else share >= 1 - NEAR_BOUND


def _share(axis: Axis, value: float) -> float:
    """Return the share of an axis below `value`, in its scale; of a list 0 and 1 at its ends, a half between them."""
    low, high = axis.bounds()
    if axis.scale == "values":
        return 0.0 if value <= low else 1.0 if value >= high else 0.5
    if axis.scale == "log":
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def edge_words(edges: Sequence[Edge]) -> tuple[str, str]:
    """Return what a best cell on `edges` has, and where to look for a better one, as a sentence would have it."""
    if edges[0].of == "grid":
        has = [
            f"the {'smallest' if edge.side == 'low' else 'largest'} {parameter_name(edge.parameter)} ({edge.value:.3g})"
            for edge in edges
        ]
    else:
        has = [
            f"a {parameter_name(edge.parameter)} at the {'lower' if edge.side == 'low' else 'upper'} bound"
            f" ({edge.value:.3g})"
            for edge in edges
        ]
    more = [f"{'smaller' if edge.side == 'low' else 'larger'} {parameter_name(edge.parameter)}" for edge in edges]
    whose = "the grid" if edges[0].of == "grid" else "its search box"
    return f"{' and '.join(has)} of {whose}", f"{whose} to {' and '.join(more)}"
