"""The best cell of each optimizer and batch size, and the performance of an optimizer within its prior box."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sensitivity.analysis.designs import Parameters
from sensitivity.analysis.maps import Cell, RobustnessMap
from sensitivity.analysis.names import optimizer_name, parameter_name
from sensitivity.analysis.regions import RobustRegion
from sensitivity.analysis.study_results import StudyResults
from sensitivity.analysis.targets import TargetOutcome
from sensitivity.figures.data import Data
from sensitivity.figures.exhibit import Exhibit
from sensitivity.figures.labels import capitalized, metric_value, number, settings, target_label
from sensitivity.figures.nothing import NO_RESULT, NothingToShowError
from sensitivity.figures.tables import Table
from sensitivity.study.metrics import METRICS, Metric


@dataclass(frozen=True, kw_only=True)
class BestCells:
    """Maps with their best cells, and test-split values of cells that were chosen on validation data."""

    maps: Sequence[RobustnessMap]
    tested: Metric | None
    test_values: Mapping[str, float]
    """Cell id -> median over seeds of the metric `tested`."""


def compute_best(results: StudyResults) -> BestCells:
    """Return the maps of the current metric, and the test values of their best cells.

    Raises:
        NothingToShowError: there is no map.
    """
    maps, metric = _maps(results), results.metric
    tested = next((m for m in results.metrics if m.on == "test" and m.quantity == metric.quantity), None)
    if metric.on != "validation" or tested is None:
        return BestCells(maps=maps, tested=None, test_values={})
    chosen = {map_.best_cell.cell_id for map_ in maps if map_.best_cell is not None}
    runs = results.searched[results.searched["cell_id"].isin(chosen)]
    values = results.counted(tested).loc[runs.index].groupby(runs["cell_id"]).median()
    return BestCells(maps=maps, tested=tested, test_values={str(cell): float(v) for cell, v in values.items()})


def best_table(found_cells: BestCells) -> Table:
    """Return the best cell of each map, and statistics of the whole map."""
    rows = []
    maps, tested = found_cells.maps, found_cells.tested
    for map_ in maps:
        best, cells = map_.best_cell, len(map_.cells)
        inside = sum(cell.in_region for cell in map_.cells)
        found = [
            "nothing completed" if best is None else settings(_parameters(map_, best)),
            "–" if best is None else metric_value(map_.metric, best.median),
            "–" if best is None else _range(map_, best),
            *(["–" if best is None else metric_value(tested, found_cells.test_values[best.cell_id])] if tested else []),
            "–" if best is None else f"{best.completed}/{best.planned}",
        ]
        edges = ", ".join(f"{edge.side} {parameter_name(edge.parameter)}" for edge in map_.edges)
        shares = [f"{inside}/{cells}", f"{map_.count('diverged')}/{cells}"]
        rows.append([optimizer_name(map_.optimizer), map_.batch_size, *found, *shares, edges or "–"])
    metric = maps[0].metric
    header = (
        "optimizer", "batch size", "best cell", f"median {metric.label}", "seeds from–to",
        *([f"its median {tested.label}"] if tested else []), "seeds completed",
        "cells within tolerance", "cells all diverged", "on the edge of",
    )  # fmt: skip
    caption = f"Best cell by {metric.label} for each optimizer and batch size."
    caption += f" {capitalized(tested.label)} was not used in the choice." if tested else ""
    return Table(caption=caption, header=header, rows=rows, text_columns=3).without_empty("on the edge of")


def _range(map_: RobustnessMap, cell: Cell) -> str:
    if cell.completed + cell.diverged < 2:
        return "one seed"
    return f"{metric_value(map_.metric, cell.low)}–{metric_value(map_.metric, cell.high)}"


def _parameters(map_: RobustnessMap, cell: Cell) -> Parameters:
    return ((map_.x_name, cell.x), *(((map_.y_name, cell.y),) if map_.y_name else ()), *map_.slice_at)


def best_data(found_cells: BestCells) -> Data:
    """Return the best cell of each map that has one."""
    maps, tested = found_cells.maps, found_cells.tested
    found = [(map_, best) for map_ in maps if (best := map_.best_cell) is not None]
    names = tuple(dict.fromkeys(name for map_, best in found for name, _ in _parameters(map_, best)))
    return Data(
        columns=("optimizer", "batch_size", *names, f"median_{maps[0].metric.name}", "smallest", "largest",
            *([f"median_{tested.name}"] if tested else []), "cell_id"),
        rows=[
            (
                map_.optimizer, map_.batch_size, *(dict(_parameters(map_, best)).get(name) for name in names),
                best.median, best.low, best.high,
                *([found_cells.test_values[best.cell_id]] if tested else []), best.cell_id,
            )
            for map_, best in found
        ],
    )  # fmt: skip


def _maps(results: StudyResults) -> tuple[RobustnessMap, ...]:
    if not results.maps:
        raise NothingToShowError(NO_RESULT)
    return results.maps


BEST = Exhibit(
    name="best-cells",
    section="maps",
    title="Best cells",
    compute=compute_best,
    data=best_data,
    tables=lambda found: [best_table(found)],
    notes=lambda _: ("The best of many noisy cells is optimistic; the verdict judges winners on other seeds.",),
    depends=("filters", "metric", "tolerance"),
)


@dataclass(frozen=True, kw_only=True)
class InBox:
    """Performance of an optimizer within its prior box, as narrowed by the filters, at one batch size."""

    map: RobustnessMap
    region: RobustRegion | None
    outcome: TargetOutcome | None


def compute_in_box(results: StudyResults) -> tuple[InBox, ...]:
    """Return one per map.

    Raises:
        NothingToShowError: there is no map.
    """
    outcomes = results.outcomes(results.target) if results.target else ()
    reached = {(found.optimizer, found.batch_size): found for found in outcomes}
    regions = {(found.optimizer, found.batch_size): found for found in results.target_regions or results.own_regions}
    return tuple(
        InBox(map=map_, region=regions.get(key), outcome=reached.get(key))
        for map_ in _maps(results)
        for key in [(map_.optimizer, map_.batch_size)]
    )


def box_table(found: Sequence[InBox]) -> Table:
    """Return the share of the box that works, and the cost of finding a setting that does."""
    aims = {target_label(METRICS[o.metric], o.target) for one in found if (o := one.outcome) is not None}
    aim = f"reach {next(iter(aims))}" if aims else "reach the target (none is declared)"
    return Table(
        caption="Performance within each optimizer's prior box.",
        header=(
            "optimizer", "batch size", "cells within the tolerance", "robust region, decades per dimension",
            f"runs that {aim}", "expected steps to it",
        ),
        rows=[
            [
                optimizer_name(one.map.optimizer), f"{one.map.batch_size:,}",
                f"{sum(cell.in_region for cell in one.map.cells):,}/{len(one.map.cells):,}",
                number(one.region.decades.value, 3) if one.region else "–",
                f"{one.outcome.reached:,}/{one.outcome.planned:,}" if one.outcome else "–",
                expected_steps(one.outcome) if one.outcome else "–",
            ]
            for one in found
        ],
        text_columns=1,
    )  # fmt: skip


def expected_steps(outcome: TargetOutcome) -> str:
    """Return the expected running time in steps, or its lower bound if no run was successful."""
    if math.isnan(outcome.expected_steps):
        return f"> {number(outcome.spent_steps, 3)}"
    return number(outcome.expected_steps, 3)


def box_data(found: Sequence[InBox]) -> Data:
    """Return the numbers behind `box_table`."""
    return Data(
        columns=(
            "optimizer", "batch_size", "cells", "cells_within_tolerance", "decades_a_dimension", "reached", "planned",
            "expected_steps",
        ),
        rows=[
            (
                one.map.optimizer, one.map.batch_size, len(one.map.cells), sum(c.in_region for c in one.map.cells),
                one.region.decades.value if one.region else None,
                one.outcome.reached if one.outcome else None, one.outcome.planned if one.outcome else None,
                one.outcome.expected_steps if one.outcome else None,
            )
            for one in found
        ],
    )  # fmt: skip


BOX = Exhibit(
    name="box",
    section="maps",
    title="In this prior box",
    compute=compute_in_box,
    data=box_data,
    tables=lambda found: [box_table(found)],
    depends=("filters", "metric", "tolerance", "target"),
    steps=(
        lambda results: results.outcomes(results.target) if results.target else (),
        lambda results: results.target_regions or results.own_regions,
    ),
)
