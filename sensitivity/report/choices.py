"""Which cells' learning curves a report shows: the best, a middling one, and one at the brink of divergence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from sensitivity.analysis.maps import Cell, RobustnessMap

Choice = Literal["best", "median", "diverged"]
CHOICES: tuple[Choice, ...] = ("best", "median", "diverged")
"""Best: as the map has it. Median: the middle of the measured cells. Diverged: of the cells of which a seed diverged
that with the smallest learning rate, and of those the best."""

SUBJECTS: dict[Choice, str] = {
    "best": "the best cells",
    "median": "the median cells",
    "diverged": "the gentlest cells that diverge",
}


def choose_cells(maps: Mapping[str, Sequence[RobustnessMap]], which: Choice) -> dict[str, tuple[str, ...]]:
    """Return the chosen cell of each map that has one, by metric."""
    chosen = {name: [_choose(map_, which) for map_ in of_metric] for name, of_metric in maps.items()}
    return {name: tuple(cell.cell_id for cell in cells if cell is not None) for name, cells in chosen.items()}


def _choose(map_: RobustnessMap, which: Choice) -> Cell | None:
    if which == "best":
        return map_.best_cell
    sign = 1.0 if map_.metric.lower_is_better else -1.0
    if which == "median":
        ranked = sorted((c for c in map_.cells if c.state == "measured"), key=lambda cell: sign * cell.median)
        return ranked[len(ranked) // 2] if ranked else None
    lost = [cell for cell in map_.cells if cell.diverged]
    return min(lost, key=lambda cell: (cell.x, sign * cell.median), default=None)
