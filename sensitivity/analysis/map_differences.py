"""Differences between the robustness maps of two studies, for each configuration that both have run.

A difference is the second study's median minus the first's, for metrics that aren't in percent divided by the first's
absolute value. Seeds need not be the same, so it is a description, not a test.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from sensitivity.analysis.maps import Cell, RobustnessMap
from sensitivity.study.metrics import Metric


@dataclass(frozen=True, kw_only=True)
class CellDifference:
    """Difference at a configuration that both studies have run."""

    x: float
    y: float
    """NaN if only one hyperparameter varies."""
    first: float
    """Median in the first study."""
    second: float
    """Median in the second study."""
    change: float
    """Difference as defined in the module's docstring; positive if the second median is larger."""


@dataclass(frozen=True, kw_only=True)
class MapDifference:
    """Differences at the cells that two maps of an optimizer and a batch size share."""

    metric: Metric
    optimizer: str
    batch_size: int
    x_name: str
    y_name: str | None
    cells: tuple[CellDifference, ...]
    unshared: int
    """Number of cells with a value in only one of the maps."""


def compute_map_differences(
    first: Iterable[RobustnessMap], second: Iterable[RobustnessMap], optimizer: str
) -> tuple[MapDifference, ...]:
    """Return the differences between two studies' maps of an optimizer, one per batch size.

    Maps are compared if they have the same metric, plane and slice; pairs without shared cells are left out.
    """
    others = {_plane(map_): map_ for map_ in second if map_.optimizer == optimizer}
    found = []
    for map_ in first:
        other = others.get(_plane(map_)) if map_.optimizer == optimizer else None
        if other is None:
            continue
        own, theirs = _measured(map_), _measured(other)
        cells = tuple(_difference(map_.metric, own[key], theirs[key]) for key in own if key in theirs)
        if cells:
            found.append(
                MapDifference(
                    metric=map_.metric,
                    optimizer=optimizer,
                    batch_size=map_.batch_size,
                    x_name=map_.x_name,
                    y_name=map_.y_name,
                    cells=cells,
                    unshared=len(own.keys() ^ theirs.keys()),
                )
            )
    return tuple(found)


def _plane(map_: RobustnessMap) -> tuple[object, ...]:
    at = tuple((name, _rounded(value)) for name, value in map_.slice_at)
    return map_.metric.name, map_.batch_size, map_.x_name, map_.y_name, at


def _measured(map_: RobustnessMap) -> dict[tuple[str, str], Cell]:
    return {(_rounded(cell.x), _rounded(cell.y)): cell for cell in map_.cells if cell.state == "measured"}


def _rounded(value: float) -> str:
    """Return a value rounded to six digits, so that equal settings of two study files compare equal."""
    return f"{value:.6g}"


def _difference(metric: Metric, first: Cell, second: Cell) -> CellDifference:
    change = second.median - first.median
    if not metric.percent:
        change = change / abs(first.median) if first.median else math.nan
    return CellDifference(x=first.x, y=first.y, first=first.median, second=second.median, change=change)
