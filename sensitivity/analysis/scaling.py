"""Scaling with batch size: the time to a target by the best configuration, ideal scaling, efficiency, and Bc.

S(B) is the geometric mean over seeds of the honest times of the winner (``winners``), when every seed reached the
target; otherwise the expected running time, without an interval. In steps, ideal scaling keeps S(B) B constant,
and efficiency is B0 S(B0) / (B S(B)) with B0 the smallest batch size reached; in epochs, seconds and FLOPs, which
count whole batches already, it is S(B0) / S(B).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from sensitivity.analysis.critical import CriticalBatchSize, compute_critical_batch_size
from sensitivity.analysis.designs import (
    Axes,
    Edge,
    Parameters,
    box_edges,
    cell_parameters,
    design_of,
    edge_words,
    one_row_a_cell,
    table_edges,
    varying,
)
from sensitivity.analysis.estimates import Caution, Estimate, Floats, Interval, mean_over_seeds
from sensitivity.analysis.honest import Method
from sensitivity.analysis.names import at_batch_size, optimizer_name
from sensitivity.analysis.nested import nested_interval, resample_winners
from sensitivity.analysis.times import CAP, TimeUnit
from sensitivity.analysis.winners import SeedTable, Winner, find_winner, seed_tables

PointState = Literal["reached", "unreliable", "censored", "diverged", "no-result"]


@dataclass(frozen=True, kw_only=True)
class ScalingPoint:
    """The best configuration of an optimizer at a batch size."""

    batch_size: int
    state: PointState
    """reached: by every seed that timed the winner; unreliable: by some; censored: by no run of any cell, some of
    which completed; diverged: every run with a result diverged."""
    time: Estimate
    """S(B); of a censored point the budget, which S exceeds; NaN where diverged or without a result."""
    expected: float
    """Expected running time (COCO): sum of min(T, cap) over successes, of the winner; NaN without a success."""
    spent: float
    """Its numerator: without a success, a lower bound of the expected time."""
    restricted_mean: Estimate
    """E[min(T, cap)] of the winner."""
    efficiency: Estimate
    """Against the smallest batch size that was reached; 1 is ideal."""
    flattering: float
    """The expected running time by the very runs that chose the winner, to show the winner's curse."""
    method: Method
    cell_id: str | None
    parameters: Parameters
    """Of the winner."""
    edges: tuple[Edge, ...]
    """Of the grid, or of the box of draws and searches, that the winner lies on (``designs``)."""
    reached: int
    """Runs of all cells, as are the next four."""
    censored: int
    diverged: int
    failed: int
    waiting: int

    @property
    def planned(self) -> int:
        """Runs of all cells at this batch size."""
        return self.reached + self.censored + self.diverged + self.failed + self.waiting


@dataclass(frozen=True, kw_only=True)
class ScalingCurve:
    """How an optimizer's time to a target falls with batch size."""

    optimizer: str
    unit: TimeUnit
    points: tuple[ScalingPoint, ...]
    """By batch size, rising."""
    critical: CriticalBatchSize | None
    """In steps only."""
    seeds: tuple[int, ...]
    """The rows of `log_times`: seeds that timed the winner at every batch size that was reached."""
    log_times: Floats
    """[seeds, batches reached] natural logarithms of the honest times."""
    batch_sizes: tuple[int, ...]
    """The columns of `log_times`."""
    widen: float
    """Factor on the width of intervals over `seeds` (``winners``)."""
    widen_equivalence: float
    """Factor on their standard error in a test of equivalence."""
    resampled: Floats | None
    """[resamples, batches reached] the same as `log_times`, of winners that are chosen anew (``nested``)."""
    study_seeds: tuple[int, ...]
    """All that `resampled` is drawn from."""
    warnings: tuple[Caution, ...]

    def ideal(self) -> tuple[float, ...]:
        """Return ideal scaling from the smallest batch size reached, at every point; NaN if none was."""
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
    """Return a curve for each optimizer of `times` (of ``times.compute_times``), in the order of the plan.

    `confirmation_seeds` are those that winners alone were run on after they had been chosen. `designs` and `axes` are
    each optimizer's, as in ``maps``.
    """
    tables = list(seed_tables(times, unit))
    curves = []
    for optimizer in dict.fromkeys(table.optimizer for table in tables):
        own = [table for table in tables if table.optimizer == optimizer]
        rows = times[times["optimizer"] == optimizer]
        winners = {table.batch_size: find_winner(table, confirmation_seeds) for table in own}
        grid = design_of(one_row_a_cell(rows), optimizer, designs) == "grid"
        box = None if grid else (axes or {}).get(optimizer, {})
        points = [
            _point(at_batch, winners[int(str(batch_size))], table.cells, unit, box)
            for table, (batch_size, at_batch) in zip(own, rows.groupby("batch_size"), strict=True)
        ]
        curves.append(_curve(optimizer, unit, points, winners, own, confirmation_seeds))
    return tuple(curves)


def _point(
    rows: pd.DataFrame, winner: Winner, cells: tuple[str, ...], unit: TimeUnit, box: Axes | None
) -> ScalingPoint:
    """Return the point of a winner; `box` is None of a grid."""
    count = rows["outcome"].value_counts()
    counts = {name: int(count.get(name, 0)) for name in ("reached", "censored", "diverged", "failed", "waiting")}
    cell = cells[winner.cell] if winner.cell is not None else None
    successes, spent = int(winner.reached.sum()), float(winner.spent.sum())
    state: PointState
    if cell is not None and successes:
        state = "reached" if winner.reached.all() else "unreliable"
    elif cell is not None:
        state = "unreliable"
    elif counts["censored"]:
        state = "censored"
    else:
        state = "diverged" if counts["diverged"] else "no-result"
    if state == "reached":
        time = mean_over_seeds(np.log(winner.time), math.exp, widen=winner.widen)
    elif state == "censored":
        time = Estimate(value=float(rows[CAP + unit].max()), n=0, interval=(float(rows[CAP + unit].max()), math.inf))
    else:
        time = Estimate(value=spent / successes if successes else math.nan, n=len(winner.seeds))
    own = one_row_a_cell(rows)
    names = varying(own)
    table = cell_parameters(own, names)
    best = {name: float(table[name][cell]) for name in names} if cell is not None else {}
    edges: tuple[Edge, ...] = ()
    if best:
        edges = table_edges(table, best, names) if box is None else box_edges(box, best, names)
    return ScalingPoint(
        batch_size=int(rows["batch_size"].iloc[0]),
        state=state,
        time=time,
        expected=spent / successes if successes else math.nan,
        spent=spent,
        restricted_mean=mean_over_seeds(winner.spent, widen=winner.widen),
        efficiency=Estimate(value=math.nan),
        flattering=winner.flattering,
        method=winner.method,
        cell_id=cell,
        parameters=tuple(best.items()),
        edges=edges,
        **counts,
    )


def _curve(
    optimizer: str,
    unit: TimeUnit,
    points: list[ScalingPoint],
    winners: dict[int, Winner],
    tables: list[SeedTable],
    confirmation_seeds: Collection[int],
) -> ScalingCurve:
    solid = [p for p in points if p.state == "reached"]
    shared = sorted(set.intersection(*(set(winners[p.batch_size].seeds) for p in solid))) if solid else []
    log_times = np.array([[_log_time(winners[p.batch_size], seed) for p in solid] for seed in shared])
    log_times = log_times.reshape(len(shared), len(solid))
    widen = max((winners[p.batch_size].widen for p in solid), default=1.0)
    stricter = max((winners[p.batch_size].widen_equivalence for p in solid), default=1.0)
    batches = np.array([p.batch_size for p in solid], dtype=float)
    cost = log_times + (np.log(batches) if unit == "steps" else 0.0)
    efficiency = {
        p.batch_size: Estimate(value=1.0, n=len(shared))
        if column == 0
        else mean_over_seeds(cost[:, 0] - cost[:, column], math.exp, widen=widen)
        for column, p in enumerate(solid)
    }
    finished = tuple(_with_efficiency(p, efficiency.get(p.batch_size)) for p in points)
    critical, resampled = None, None
    reached = [table for table in tables if table.batch_size in efficiency]
    if unit == "steps":
        resampled = resample_winners(reached, confirmation_seeds) if reached else None
        critical = _critical(finished, winners, log_times, widen, nested_interval(reached, resampled))
    return ScalingCurve(
        optimizer=optimizer,
        unit=unit,
        points=finished,
        critical=critical,
        seeds=tuple(shared),
        log_times=log_times,
        batch_sizes=tuple(p.batch_size for p in solid),
        widen=widen,
        widen_equivalence=stricter,
        resampled=resampled,
        study_seeds=reached[0].seeds if reached else (),
        warnings=_warnings(optimizer, finished),
    )


def _log_time(winner: Winner, seed: int) -> float:
    return math.log(winner.time[winner.seeds.index(seed)])


def _with_efficiency(point: ScalingPoint, efficiency: Estimate | None) -> ScalingPoint:
    return point if efficiency is None else replace(point, efficiency=efficiency)


def _critical(
    points: tuple[ScalingPoint, ...],
    winners: dict[int, Winner],
    log_times: Floats,
    widen: float,
    nested: Interval | None,
) -> CriticalBatchSize:
    """Fit Bc to the batch sizes that every seed reached; the others enter as censored.

    Where no seed reached it S exceeds the budget; where some did, the geometric mean of what all spent.
    """
    used = [p for p in points if p.state in ("reached", "censored") or (p.state == "unreliable" and p.time.n)]
    censored = np.array([p.state != "reached" for p in used], dtype=bool)
    full = np.empty((len(log_times), len(used)))
    full[:, ~censored] = log_times
    full[:, censored] = [_log_bound(p, winners[p.batch_size]) for p in used if p.state != "reached"]
    sizes = np.array([p.batch_size for p in used], dtype=float)
    return compute_critical_batch_size(full, sizes, censored, widen=widen, nested=nested)


def _log_bound(point: ScalingPoint, winner: Winner) -> float:
    return math.log(point.time.value) if point.state == "censored" else float(np.log(winner.spent).mean())


def _warnings(optimizer: str, points: tuple[ScalingPoint, ...]) -> tuple[Caution, ...]:
    found = []
    for point in points:
        where = at_batch_size(optimizer, point.batch_size)
        found += [
            Caution(
                code="edge",
                text=f"{where}: the best configuration has {edge_words([edge])[0]}; a better one may lie beyond it.",
            )
            for edge in point.edges
        ]
        if point.state == "censored":
            found.append(
                Caution(
                    code="budget",
                    text=f"{where}: no run reached the target within the budget, so its time is only known to exceed"
                    " it. A longer budget, or an easier target, would tell.",
                )
            )
        if point.state == "unreliable":
            found.append(
                Caution(
                    code="unreliable",
                    text=f"{where}: of the {point.time.n:,} seeds that judge the winner some don't reach the target, so"
                    " its time is only known to exceed what they spent, and no comparison can use it. A longer budget,"
                    " or an easier target, would tell.",
                )
            )
        if point.waiting:
            found.append(
                Caution(
                    code="incomplete",
                    text=f"{where}: {point.waiting:,} of {point.planned:,} runs have no result yet.",
                )
            )
    if any(point.method == "same-runs" and point.cell_id is not None for point in points):
        found.append(
            Caution(
                code="winner",
                text=f"{optimizer_name(optimizer)}: with one seed the runs that choose the winner also time it, which"
                " flatters it.",
            )
        )
    return tuple(found)
