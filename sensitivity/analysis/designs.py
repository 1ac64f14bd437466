"""The design of an optimizer's configurations: a grid, independent draws, an adaptive search, or unknown.

For independent draws, fractions of runs estimate probabilities. A grid is a quadrature of its box. The configurations
of an adaptive search are biased toward success, so success rates, importance and best-of-k curves are refused for them
(docs/statistics.md, section 3), and also for runs made elsewhere whose design nobody has declared.

A best cell at the edge of the searched range may not be an optimum: a cell with the first or last value of a grid, or,
for draws and searches, within `NEAR_BOUND` of a bound of the box.
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
from sensitivity.study.hyperparameters import LEARNING_RATE, MODEL_ARGUMENT, hyperparameter, rank
from sensitivity.study.observed import OBSERVED

Axes = Mapping[str, Axis]
"""Hyperparameter name -> range that its values are drawn from."""
Parameters = tuple[tuple[str, float], ...]
"""Names and values of hyperparameters."""

Design = Literal["grid", "drawn", "adaptive", "observed"]
CHOSEN: tuple[Design, ...] = ("adaptive", "observed")
"""Designs that are neither draws nor a grid: frequencies among their settings don't estimate those of a box."""

_DRAWN = ("random", "sobol")

NEAR_BOUND = 0.05
"""Fraction of a box's side, on the scale that it is drawn on, within which a best cell counts as at the bound. It is
half the resolution of a grid of 11 points. In simulations of a two-dimensional bowl centred on a bound or beyond it,
the best of 64 trials was this close in 90 of 90 searches by TPE and in 58 of 90 by random draws; with the centre 20%
inside, in none."""


@dataclass(frozen=True, kw_only=True)
class Edge:
    """An edge of the searched range that the best cell lies on."""

    parameter: str
    side: Literal["low", "high"]
    value: float
    """Smallest or largest value of the grid; bound of the box."""
    of: Literal["grid", "box"] = "grid"
    axis: Axis | None = field(default=None, compare=False, repr=False)
    """Range of the hyperparameter in a box; None for a grid."""


def varying(runs: pd.DataFrame) -> tuple[str, ...]:
    """Return the names of the hyperparameters that vary, lr first; lr alone if none varies."""
    present = [str(name).removeprefix(PARAM_PREFIX) for name in runs if str(name).startswith(PARAM_PREFIX)]
    found = [name for name in present if len(levels(runs[PARAM_PREFIX + name])) > 1]
    return tuple(sorted(found, key=rank)) or (LEARNING_RATE,)


def levels(values: pd.Series[float]) -> tuple[float, ...]:
    """Return the distinct values, ascending."""
    return tuple(sorted(float(value) for value in values.dropna().unique()))


def is_grid(runs: pd.DataFrame, names: tuple[str, ...]) -> bool:
    """Whether the configurations fill most of the product of their values, as a grid does and draws don't."""
    columns = [PARAM_PREFIX + name for name in names]
    product = math.prod(runs[column].nunique() for column in columns)
    return len(runs[columns].drop_duplicates()) > product / 2


def is_crossed(runs: pd.DataFrame, names: tuple[str, ...]) -> bool:
    """Whether most configurations ran with most seeds, as opposed to draws of which each has a seed of its own."""
    columns = [PARAM_PREFIX + name for name in names]
    cells, seeds = len(runs[columns].drop_duplicates()), runs["seed"].nunique()
    pairs = len(runs[[*columns, "seed"]].drop_duplicates())
    return cells < pairs > cells * seeds / 2


def design_of(runs: pd.DataFrame, optimizer: str, designs: Mapping[str, str] | None) -> Design:
    """Return the design of `optimizer`, whose runs are `runs`.

    It is taken from `designs` (optimizer -> design, as in the study file), else from a column ``design``, and else
    inferred from the configurations. A name other than grid, random, sobol and observed is an adaptive search.
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
    """Return the reason why an analysis (`what`) is refused for a design in `CHOSEN`."""
    if design == OBSERVED:
        return Caution(
            code="unknown-prior",
            text=f"{optimizer_name(optimizer)}: its runs were made elsewhere, and it is not known how their settings"
            f" were chosen, so {what} would not describe any box. If the settings were drawn at random or form a grid,"
            " declare the design and the box in the mapping of the import.",
        )
    return Caution(
        code="adaptive",
        text=f"{optimizer_name(optimizer)}: its configurations were chosen by an adaptive search, which favours"
        f' success, so {what} would be biased. Use design = "random", "sobol" or "grid" for it.',
    )


def one_row_a_cell(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the columns cell_id and param.* of `rows`, one row per cell."""
    columns = [name for name in rows if name == "cell_id" or str(name).startswith(PARAM_PREFIX)]
    return rows.loc[(~rows["cell_id"].duplicated()).to_numpy(), columns]


def cell_parameters(cells: pd.DataFrame, names: tuple[str, ...]) -> pd.DataFrame:
    """Return the hyperparameters `names` of `cells` (from `one_row_a_cell`), indexed by cell_id."""
    table = cells.set_index("cell_id")
    return table[[PARAM_PREFIX + name for name in names]].rename(columns=lambda name: name.removeprefix(PARAM_PREFIX))


def table_edges(table: pd.DataFrame, best: Mapping[str, float], names: tuple[str, ...]) -> tuple[Edge, ...]:
    """Return the edges of the grid in `table` that `best` lies on, except the smallest value that is possible.

    Sizes of the model have no edges.
    """
    edges = []
    for name in names:
        values = levels(table[name])
        if len(values) < 2 or _is_size(name, values):
            continue
        if best[name] == values[0] and not _least(name, values[0]):
            edges.append(Edge(parameter=name, side="low", value=values[0]))
        if best[name] == values[-1]:
            edges.append(Edge(parameter=name, side="high", value=values[-1]))
    return tuple(edges)


def box_edges(axes: Axes, best: Mapping[str, float], names: tuple[str, ...]) -> tuple[Edge, ...]:
    """Return the bounds of the box `axes` that `best` lies at, except the smallest value that is possible.

    In an interval, "at" means within `NEAR_BOUND` of a bound; in a list, its smallest or largest value. Sizes of the
    model have no edges.
    """
    edges = []
    for name in names:
        axis = axes.get(name)
        if axis is None or not axis.varies or math.isnan(best[name]) or _is_size(name, axis.values):
            continue
        low, high = axis.bounds()
        share = _share(axis, best[name])
        if share <= NEAR_BOUND and not _least(name, low):
            edges.append(Edge(parameter=name, side="low", value=low, of="box", axis=axis))
        if share >= 1 - NEAR_BOUND:
            edges.append(Edge(parameter=name, side="high", value=high, of="box", axis=axis))
    return tuple(edges)


def _least(name: str, value: float) -> bool:
    """Whether no smaller value is possible: 0, or the smallest allowed value, such as an update interval of 1."""
    declared = hyperparameter(name)
    return value == 0 or (declared.low_allowed and value <= declared.low)


def _is_size(name: str, values: Sequence[float]) -> bool:
    """Whether a model argument has a list of whole numbers, such as widths.

    They are the question rather than its answer: larger models tend to be better, whatever the largest one is.
    """
    return name.startswith(MODEL_ARGUMENT) and bool(values) and all(float(value).is_integer() for value in values)


def at_edge(edge: Edge, values: pd.Series[float]) -> NDArray[np.bool_]:
    """Return which of `values` of the edge's hyperparameter lie at the edge."""
    if edge.axis is None:
        return (values == edge.value).to_numpy(dtype=bool)
    share = np.array([_share(edge.axis, value) for value in values], dtype=float)
    return share <= NEAR_BOUND if edge.side == "low" else share >= 1 - NEAR_BOUND


def _share(axis: Axis, value: float) -> float:
    """Return the position of `value` on an axis, from 0 to 1 on its scale; in a list of values 0, 0.5 (inside) or 1."""
    low, high = axis.bounds()
    if axis.scale == "values":
        return 0.0 if value <= low else 1.0 if value >= high else 0.5
    if axis.scale == "log":
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def edge_words(edges: Sequence[Edge]) -> tuple[str, str]:
    """Return two phrases about a best cell on `edges`: its values there, and how to extend the searched range."""
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
