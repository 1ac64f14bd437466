"""The success rate over the plane of the learning rate and one further hyperparameter.

A cell of the plane pools the runs of all configurations with its two values: if more hyperparameters vary, the rate
averages over them. Within one configuration the seeds are independent, and the interval is Wilson's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from sensitivity.analysis.designs import levels, varying
from sensitivity.analysis.estimates import Interval
from sensitivity.analysis.intervals import wilson
from sensitivity.store.schema import PARAM_PREFIX


@dataclass(frozen=True, kw_only=True)
class SuccessCell:
    """A cell of the plane, with the number of its runs by outcome."""

    x: float
    y: float
    """NaN if only one hyperparameter varies."""
    configurations: int
    reached: int
    censored: int
    diverged: int
    failed: int
    waiting: int

    @property
    def planned(self) -> int:
        """Number of planned runs."""
        return self.n + self.failed + self.waiting

    @property
    def n(self) -> int:
        """Number of runs with a result."""
        return self.reached + self.censored + self.diverged

    @property
    def rate(self) -> float:
        """Fraction of the runs with a result that reached the target; NaN without a result."""
        return self.reached / self.n if self.n else math.nan

    @property
    def interval(self) -> Interval | None:
        """Wilson's interval over the seeds of one configuration; None for several, or without a result."""
        return wilson(self.reached, self.n) if self.n and self.configurations == 1 else None


@dataclass(frozen=True, kw_only=True)
class SuccessPlane:
    """Success rates of an optimizer in the plane of `x` and `y`, for a target and a batch size."""

    optimizer: str
    batch_size: int
    x_name: str
    y_name: str | None
    x_values: tuple[float, ...]
    y_values: tuple[float, ...]
    """Empty without `y_name`."""
    pooled: tuple[str, ...]
    """Further hyperparameters that vary."""
    cells: tuple[SuccessCell, ...]
    """Cells sorted by y and then x."""


def compute_success_planes(times: pd.DataFrame) -> tuple[SuccessPlane, ...]:
    """Return a plane per optimizer, in the order of the plan, and batch size, ascending.

    `times` is the table of ``times.compute_times`` for one target.
    """
    planes = []
    for optimizer, of_optimizer in times.groupby("optimizer", sort=False):
        names = varying(of_optimizer)
        planes += [
            _plane(rows, str(optimizer), int(str(batch_size)), names)
            for batch_size, rows in of_optimizer.groupby("batch_size")
        ]
    return tuple(planes)


def _plane(rows: pd.DataFrame, optimizer: str, batch_size: int, names: tuple[str, ...]) -> SuccessPlane:
    x_name, y_name = names[0], names[1] if len(names) > 1 else None
    keys = [PARAM_PREFIX + y_name, PARAM_PREFIX + x_name] if y_name else [PARAM_PREFIX + x_name]
    outcomes = ("reached", "censored", "diverged", "failed", "waiting")
    marked = rows[[*keys, "cell_id"]].assign(**{name: rows["outcome"] == name for name in outcomes})
    table = marked.groupby(keys, dropna=False).agg(
        configurations=("cell_id", "nunique"), **{name: (name, "sum") for name in outcomes}
    )
    cells = tuple(
        SuccessCell(
            x=float(row[PARAM_PREFIX + x_name]),
            y=float(row[PARAM_PREFIX + y_name]) if y_name else math.nan,
            configurations=int(row["configurations"]),
            **{name: int(row[name]) for name in outcomes},
        )
        for row in table.reset_index().to_dict("records")
    )
    return SuccessPlane(
        optimizer=optimizer,
        batch_size=batch_size,
        x_name=x_name,
        y_name=y_name,
        x_values=levels(rows[PARAM_PREFIX + x_name]),
        y_values=levels(rows[PARAM_PREFIX + y_name]) if y_name else (),
        pooled=names[2:],
        cells=cells,
    )
