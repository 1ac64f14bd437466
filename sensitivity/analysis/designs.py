"""What the configurations of an optimizer are: a grid, independent draws, or an adaptive search's choices.

Of draws, shares are probabilities. A grid is a quadrature of its box. What an adaptive search chose is biased
toward success, and success rates, importance and best-of-k curves are refused for it (STATISTICS.md, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from sensitivity.analysis.estimates import Caution
from sensitivity.analysis.names import optimizer_name
from sensitivity.store.schema import PARAM_PREFIX

Parameters = tuple[tuple[str, float], ...]
"""Names and values of hyperparameters."""

Design = Literal["grid", "drawn", "adaptive"]

_PREFERRED = ("lr", "damping", "momentum", "weight_decay")
_DRAWN = ("random", "sobol")


@dataclass(frozen=True, kw_only=True)
class Edge:
    """The best cell has the grid's smallest or largest value of a hyperparameter."""

    parameter: str
    side: Literal["low", "high"]
    value: float


def varying(runs: pd.DataFrame) -> tuple[str, ...]:
    """Return the names of the hyperparameters that vary, lr first; lr if none does."""
    present = [str(name).removeprefix(PARAM_PREFIX) for name in runs if str(name).startswith(PARAM_PREFIX)]
    found = [name for name in present if len(levels(runs[PARAM_PREFIX + name])) > 1]
    order = {name: place for place, name in enumerate(_PREFERRED)}
    found.sort(key=lambda name: (order.get(name, len(order)), name))
    return tuple(found) or ("lr",)


def levels(values: pd.Series[float]) -> tuple[float, ...]:
    """Return the distinct values, rising."""
    return tuple(sorted(float(value) for value in values.dropna().unique()))


def is_grid(runs: pd.DataFrame, names: tuple[str, ...]) -> bool:
    """Tell a grid, whose configurations fill most of the product of their values, from draws."""
    columns = [PARAM_PREFIX + name for name in names]
    product = math.prod(runs[column].nunique() for column in columns)
    return len(runs[columns].drop_duplicates()) > product / 2


def design_of(runs: pd.DataFrame, optimizer: str, designs: Mapping[str, str] | None) -> Design:
    """Return what the configurations of `optimizer`, whose rows are `runs`, are.

    `designs` names each optimizer's design, as the study file does; else a column ``design`` does; else the
    configurations tell. A name other than grid, random and sobol is an adaptive search.
    """
    name = (designs or {}).get(optimizer)
    if name is None and "design" in runs and len(runs):
        names = set(runs["design"].dropna())
        name = "grid" if not names else (names.pop() if len(names) == 1 else "mixed")
    if name is None:
        return "grid" if is_grid(runs, varying(runs)) else "drawn"
    return "grid" if name == "grid" else "drawn" if name in _DRAWN else "adaptive"


def adaptive(optimizer: str, what: str) -> Caution:
    """Return why `what` of an adaptive search's configurations is refused."""
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
    """Return the edges of the grid in `table` that `best` lies on; a bound of zero is none, for nothing is below."""
    edges = []
    for name in names:
        values = levels(table[name])
        if len(values) > 1 and best[name] == values[0] != 0:
            edges.append(Edge(parameter=name, side="low", value=values[0]))
        if len(values) > 1 and best[name] == values[-1]:
            edges.append(Edge(parameter=name, side="high", value=values[-1]))
    return tuple(edges)
