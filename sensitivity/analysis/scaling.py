"""Scaling with batch size: time to target of the best configuration, ideal scaling, efficiency, and Bc.

A point of the curve is the winner at a batch size (``scaling_points``). In steps, ideal scaling keeps S(B) B constant,
and the efficiency is B0 S(B0) / (B S(B)), where B0 is the smallest batch size that reached the target. In epochs,
seconds and FLOPs, which already grow with the batch size, it is S(B0) / S(B).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from sensitivity.analysis.critical import CriticalBatchSize, compute_critical_batch_size
from sensitivity.analysis.designs import Axes, Design, design_of, one_row_a_cell
from sensitivity.analysis.estimates import Caution, Estimate, Floats, mean_over_seeds
from sensitivity.analysis.grain import bias_bound
from sensitivity.analysis.intervals import exponential
from sensitivity.analysis.scaling_cautions import curve_cautions
from sensitivity.analysis.scaling_points import (
    Configurations,
    ScalingPoint,
    configurations_of,
    log_middles,
    scaling_point,
)
from sensitivity.analysis.times import TimeUnit
from sensitivity.analysis.winners import SeedTable, Winner, find_winner, seed_tables


@dataclass(frozen=True, kw_only=True)
class ScalingCurve:
    """An optimizer's time to a target as a function of batch size."""

    optimizer: str
    unit: TimeUnit
    design: Design
    points: tuple[ScalingPoint, ...]
    """Points by batch size, ascending."""
    critical: CriticalBatchSize | None
    """Critical batch size; None unless the unit is steps."""
    seeds: tuple[int, ...]
    """Rows of `log_times`: seeds that timed the winner at every batch size that reached the target."""
    log_times: Floats
    """[seeds, batches reached] natural logarithms of the winners' times, at the middle of their intervals."""
    bias: Floats
    """[batches reached] bound on the bias of the means of `log_times`, from the spacing of evaluations (``grain``) and
    the selection of winners (half of the expected regret, ``nested``)."""
    batch_sizes: tuple[int, ...]
    """Columns of `log_times`."""
    widen: float
    """Factor on the width of intervals over `seeds` (``winners``)."""
    widen_equivalence: float
    """Factor on the standard error over `seeds` in a test of equivalence."""
    warnings: tuple[Caution, ...]

    def ideal(self) -> tuple[float, ...]:
        """Return ideal scaling from the smallest batch size that reached the target, per point; NaN without one."""
        base = next((p for p in self.points if p.state in ("reached", "unreliable")), None)
        if base is None:
            return tuple(math.nan for _ in self.points)
        per_step = self.unit == "steps"
        return tuple(base.time.value * (base.batch_size / p.batch_size if per_step else 1.0) for p in self.points)


def compute_scaling(
    times: pd.DataFrame,
    unit: TimeUnit = "steps",
    *,
    confirmation_seeds: Collection[int] = (),
    designs: Mapping[str, str] | None = None,
    axes: Mapping[str, Axes] | None = None,
) -> tuple[ScalingCurve, ...]:
    """Return a scaling curve per optimizer of `times`, in the order of the plan.

    Args:
        times: table of ``times.compute_times``. Runs marked in its column ``confirmation`` time the winners.
        unit: unit of the times.
        confirmation_seeds: further fresh seeds, on which only winners were run after their selection.
        designs: design of each optimizer, as in ``maps``.
        axes: box of each optimizer, as in ``maps``.
    """
    fresh = {*confirmation_seeds, *_confirming(times)}
    configurations = {}
    for name, rows in times.groupby("optimizer", sort=False):
        optimizer = str(name)
        design = design_of(_configurations(rows), optimizer, designs)
        configurations[optimizer] = configurations_of(rows, design, (axes or {}).get(optimizer, {}))
    return scaling_curves(list(seed_tables(times, unit)), configurations, unit, fresh)


def scaling_curves(
    tables: Sequence[SeedTable],
    configurations: Mapping[str, Configurations],
    unit: TimeUnit = "steps",
    confirmation_seeds: Collection[int] = (),
) -> tuple[ScalingCurve, ...]:
    """Return a curve per optimizer of `tables`, in their order; `configurations` maps each optimizer to its own."""
    curves = []
    for optimizer in dict.fromkeys(table.optimizer for table in tables):
        own, cells = [table for table in tables if table.optimizer == optimizer], configurations[optimizer]
        winners = {table.batch_size: find_winner(table, confirmation_seeds) for table in own}
        points = [scaling_point(table, winners[table.batch_size], cells, confirmation_seeds) for table in own]
        curves.append(_curve(optimizer, unit, cells.design, points, winners))
    return tuple(curves)


def _confirming(times: pd.DataFrame) -> set[int]:
    if "confirmation" not in times:
        return set()
    return {int(seed) for seed in times.loc[times["confirmation"].fillna(False).astype(bool), "seed"].unique()}


def _configurations(rows: pd.DataFrame) -> pd.DataFrame:
    cells = one_row_a_cell(rows)
    return cells.assign(design=rows.loc[cells.index, "design"]) if "design" in rows else cells


def _curve(
    optimizer: str, unit: TimeUnit, design: Design, points: list[ScalingPoint], winners: dict[int, Winner]
) -> ScalingCurve:
    solid = [p for p in points if p.state == "reached"]
    shared = sorted(set.intersection(*(set(winners[p.batch_size].seeds) for p in solid))) if solid else []
    middles, widths = np.full((2, len(shared), len(solid)), np.nan)
    for column, point in enumerate(solid):
        winner = winners[point.batch_size]
        rows = [winner.seeds.index(seed) for seed in shared]
        middle, width = log_middles(winner)
        middles[:, column], widths[:, column] = middle[rows], width[rows]
    bias = np.array(
        [
            bias_bound(middles[:, column], widths[:, column]) + (0.0 if math.isnan(p.regret) else p.regret / 2)
            for column, p in enumerate(solid)
        ]
    )
    widen = max((winners[p.batch_size].widen for p in solid), default=1.0)
    stricter = max((winners[p.batch_size].widen_equivalence for p in solid), default=1.0)
    batches = np.array([p.batch_size for p in solid], dtype=float)
    cost = middles + (np.log(batches) if unit == "steps" else 0.0)
    efficiency = {
        p.batch_size: Estimate(value=1.0, n=len(shared))
        if column == 0
        else mean_over_seeds(cost[:, 0] - cost[:, column], exponential, widen=widen, bias=float(bias[0] + bias[column]))
        for column, p in enumerate(solid)
    }
    finished = tuple(
        replace(p, efficiency=efficiency[p.batch_size]) if p.batch_size in efficiency else p for p in points
    )
    return ScalingCurve(
        optimizer=optimizer,
        unit=unit,
        design=design,
        points=finished,
        critical=_critical(finished, winners, shared, widen, bias) if unit == "steps" else None,
        seeds=tuple(shared),
        log_times=middles,
        bias=bias,
        batch_sizes=tuple(p.batch_size for p in solid),
        widen=widen,
        widen_equivalence=stricter,
        warnings=curve_cautions(optimizer, unit, finished),
    )


def _critical(
    points: tuple[ScalingPoint, ...], winners: dict[int, Winner], seeds: list[int], widen: float, bias: Floats
) -> CriticalBatchSize:
    """Fit Bc to the intervals of `seeds` at each batch size; without a success, the time exceeds the budget."""
    used = [p for p in points if p.state in ("reached", "left-censored", "censored", "unreliable")]
    low, high = np.full((2, len(seeds), len(used)), np.nan)
    for column, point in enumerate(used):
        winner = winners[point.batch_size]
        if point.state == "censored":
            low[:, column], high[:, column] = math.log(point.time.value), math.inf
            continue
        lower, upper = winner.logs()
        for row, seed in enumerate(seeds):
            if seed in winner.seeds:
                place = winner.seeds.index(seed)
                low[row, column], high[row, column] = lower[place], upper[place]
    sizes = np.array([p.batch_size for p in used], dtype=float)
    reached = np.array([p.state == "reached" for p in used], dtype=bool)
    off = np.zeros(len(used))
    off[reached] = bias
    return compute_critical_batch_size(low, high, sizes, widen=widen, bias=off)
