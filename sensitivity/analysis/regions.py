"""The robust region: the volume of hyperparameters, in decades, within which an optimizer meets a threshold.

V (docs/statistics.md, section 4) is the volume, in decades^d, of the settings whose metric meets a threshold; V^(1/d),
in decades per dimension, is reported. Two rules define the threshold. Own best: the final metric of a run is within
epsilon of the optimizer's best cell. Common target: the run reaches the target within its budget, as in ``times``,
that is, its best evaluation meets it; a run that crosses the target and falls back is inside. On a grid, V is
interpolated between the points for each seed, and the interval covers seed noise only. For draws, V is the volume of
the box times the fraction of configurations inside, with Wilson's interval.

A diverged run is outside. Between a cell inside and one that diverged, or that learned nothing, the edge is a cliff at
an unknown position. Interpolating to the untrained network's loss would place it at the cell inside, half a spacing too
close on average. Therefore no cell counts as further outside than the best cell is inside: next to the best cell the
edge then lies halfway, however its neighbour failed. If the grid resolves the region, this changes nothing. A region
that is narrower than two spacings of the grid along some hyperparameter is refused, because its size would depend on
the spacing. Unlike the fraction of a box, decades don't depend on the width of the box, unless the region reaches its
edge: the size is then a lower bound, and a warning says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from sensitivity.analysis.designs import CHOSEN, Edge, Parameters, design_of, refusal, varying
from sensitivity.analysis.estimates import Caution, Estimate, Floats, mean_over_seeds
from sensitivity.analysis.intervals import wilson
from sensitivity.analysis.maps import default_epsilon
from sensitivity.analysis.names import at_batch_size, parameter_name
from sensitivity.analysis.outcomes import OBSERVED, counted_values, untrained_values
from sensitivity.analysis.rates import OF_DRAWS, OF_SEEDS, best_values
from sensitivity.analysis.volumes import volume_below_zero
from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.hyperparameters import decades
from sensitivity.study.metrics import METRICS, MetricName
from sensitivity.study.results import Status

Rule = Literal["own-best", "common-target"]
Box = Mapping[str, tuple[float, float]]
"""Hyperparameter name -> smallest and largest value of its range."""


@dataclass(frozen=True, kw_only=True)
class RobustRegion:
    """The robust region of an optimizer at a batch size, for one of the two rules."""

    optimizer: str
    batch_size: int
    metric: MetricName
    rule: Rule
    threshold: float
    """Level of the metric that settings in the region meet."""
    names: tuple[str, ...]
    """Hyperparameters that are the dimensions; empty if none of those that vary has a log scale."""
    decades: Estimate
    """V^(1/d), in decades per dimension."""
    volume: Estimate
    """V, in decades^d."""
    box: tuple[tuple[float, float], ...]
    """Smallest and largest value of each of `names`."""
    touches: tuple[Edge, ...]
    """Edges of the box that the region reaches, beyond which it may extend."""
    slice_at: Parameters
    """Values, from the best cell, of varying hyperparameters without a log scale, such as a weight decay of 0."""
    seeds: tuple[int, ...]
    per_seed: tuple[float, ...]
    """Decades per dimension for each of `seeds`; both are empty for draws."""


def compute_regions(
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    metric: MetricName,
    *,
    target: float | None = None,
    epsilon: float | None = None,
    designs: Mapping[str, str] | None = None,
    boxes: Mapping[str, Box] | None = None,
) -> tuple[RobustRegion, ...]:
    """Return a region per optimizer, in the order of the plan, and batch size, ascending.

    With `target`, the rule is the common target, and `curves` needs at least the best evaluation of each run. Without
    it, the rule is the own best within `epsilon` (by default as in ``maps``), and evaluations at step 0 are enough.
    `boxes` maps each optimizer to the box of its draws; without it, the range of the draws is used.
    """
    sign = 1.0 if METRICS[metric].lower_is_better else -1.0
    valued = runs.assign(value=_values(runs, curves, metric, sign * np.inf, at_end=target is None))
    untrained = float(untrained_values(runs, curves, METRICS[metric]).median())
    tolerance = default_epsilon(METRICS[metric], untrained) if epsilon is None else epsilon
    found = []
    for optimizer, of_optimizer in valued.groupby("optimizer", sort=False):
        design = design_of(of_optimizer, str(optimizer), designs)
        box = (boxes or {}).get(str(optimizer))
        for batch_size, rows in of_optimizer.groupby("batch_size"):
            job = _Job(str(optimizer), int(str(batch_size)), metric, target, tolerance, box)
            if design in CHOSEN:
                nothing = Estimate(value=math.nan, refused=refusal(str(optimizer), "a region's size", design))
                found.append(job.result(math.nan, (), nothing, nothing))
            else:
                found.append(_on_grid(rows, job) if design == "grid" else _of_draws(rows, job))
    return tuple(found)


def _values(
    runs: pd.DataFrame, curves: pd.DataFrame, metric: MetricName, outside: float, *, at_end: bool
) -> pd.Series[float]:
    """Return the value of each run that is compared with the threshold; NaN without a result."""
    if at_end:
        counted = counted_values(runs, curves, METRICS[metric])
        return counted.where(runs["status"] != Status.DIVERGED.value, outside)
    best = best_values(runs, curves, metric)
    return best.mask(best.isna() & runs["status"].isin(OBSERVED), outside)


@dataclass(frozen=True)
class _Job:
    optimizer: str
    batch_size: int
    metric: MetricName
    target: float | None
    epsilon: float
    box: Box | None

    @property
    def sign(self) -> float:
        """1 if lower values of the metric are better, else -1: lower values of sign * metric are better."""
        return 1.0 if METRICS[self.metric].lower_is_better else -1.0

    def threshold(self, best: float) -> float:
        """Return the threshold on sign * metric; `best` is the best cell's value."""
        return best + self.epsilon if self.target is None else self.sign * self.target

    def result(
        self,
        threshold: float,
        names: tuple[str, ...],
        per_dimension: Estimate,
        volume: Estimate,
        *,
        box: tuple[tuple[float, float], ...] = (),
        touches: tuple[Edge, ...] = (),
        slice_at: Parameters = (),
        per_seed: Mapping[int, float] | None = None,
    ) -> RobustRegion:
        return RobustRegion(
            optimizer=self.optimizer,
            batch_size=self.batch_size,
            metric=self.metric,
            rule="own-best" if self.target is None else "common-target",
            threshold=self.sign * threshold,
            names=names,
            decades=per_dimension,
            volume=volume,
            box=box,
            touches=touches,
            slice_at=slice_at,
            seeds=tuple(per_seed or ()),
            per_seed=tuple((per_seed or {}).values()),
        )


def _cells(rows: pd.DataFrame, job: _Job) -> tuple[pd.DataFrame, tuple[str, ...], Parameters, float]:
    """Return the cells of the slice through the best cell [cells, seeds], its dimensions, fixed values, and the best.

    The index is the hyperparameters of the dimensions; values are sign * metric, NaN without a result.
    """
    names = varying(rows)
    measured = tuple(name for name in names if not np.isnan(decades(name, rows[PARAM_PREFIX + name])).any())
    rest = [name for name in names if name not in measured]
    columns = [PARAM_PREFIX + name for name in (*measured, *rest)]
    values = (job.sign * rows["value"]).groupby([rows[name] for name in (*columns, "seed")]).first()
    table = values.unstack("seed")  # noqa: PD010  (pivot_table would drop cells without a result, or form a product)
    average = table.mean(axis=1)
    best = float(average.min())
    if not rest or math.isnan(best):
        return table, measured, (), best
    at = average.idxmin()
    where = at[len(measured) :] if isinstance(at, tuple) else (at,)
    slice_at = tuple(zip(rest, (float(value) for value in where), strict=True))
    for name, value in slice_at:
        if table.index.nlevels > 1:
            table = pd.DataFrame(table.xs(value, level=PARAM_PREFIX + name))
    return table, measured, slice_at, best


def _nothing(job: _Job, text: str, code: str) -> RobustRegion:
    estimate = Estimate(value=math.nan, refused=Caution(code=code, text=text))
    return job.result(math.nan, (), estimate, estimate)


def _on_grid(rows: pd.DataFrame, job: _Job) -> RobustRegion:
    table, names, slice_at, best = _cells(rows, job)
    where = at_batch_size(job.optimizer, job.batch_size)
    if math.isnan(best) or (job.target is None and math.isinf(best)):
        return _nothing(job, f"{where}: no cell completed on every seed, so there is no region.", "no-result")
    if not names or len(table) < 2:
        return _nothing(job, f"{where}: no hyperparameter with a log scale varies, so there is no region.", "one-cell")
    table = table.loc[:, table.notna().any()]
    positions = [table.index.get_level_values(place).to_numpy(dtype=float) for place in range(len(names))]
    levels = [np.unique(position) for position in positions]
    axes = [decades(name, values) for name, values in zip(names, levels, strict=True)]
    shape = tuple(len(values) for values in levels)
    cells = np.ravel_multi_index(
        tuple(np.searchsorted(values, position) for values, position in zip(levels, positions, strict=True)), shape
    )
    flat = np.full((table.shape[1], math.prod(shape)), np.nan)
    flat[:, cells] = table.to_numpy().T
    grid = flat.reshape(-1, *shape)
    threshold = job.threshold(best)
    missing = int(np.isnan(grid).sum())
    above = np.where(np.isnan(grid), np.inf, grid) - threshold
    depth = -float(above.min(initial=-1e-9, where=np.isfinite(above)))
    above = np.minimum(above, depth)
    volumes = volume_below_zero(above, axes)
    touches = _touches(above.mean(axis=0) <= 0, names, levels)
    box = tuple((float(values[0]), float(values[-1])) for values in levels)
    coarse = _unresolved(where, above, names, axes) if (volumes > 0).any() else None
    if coarse is not None:
        refused = Estimate(value=math.nan, refused=coarse)
        return job.result(threshold, names, refused, refused, box=box, touches=touches, slice_at=slice_at)
    sizes = volumes ** (1 / len(names))
    warnings = _warnings(where, missing, touches, names, axes, empty=not volumes.any())
    return job.result(
        threshold,
        names,
        _with(mean_over_seeds(sizes), warnings),
        _with(mean_over_seeds(volumes), warnings),
        box=box,
        touches=touches,
        slice_at=slice_at,
        per_seed={int(seed): float(size) for seed, size in zip(table.columns, sizes, strict=True)},
    )


def _unresolved(where: str, above: Floats, names: tuple[str, ...], axes: list[Floats]) -> Caution | None:
    """Return a caution if the region of `above` [seeds, *grid] is narrower than two spacings along an axis, else None.

    Its width along an axis is that of its widest line, averaged over seeds. A region that spans the whole axis is
    accepted.
    """
    narrow = []
    for place, (name, axis) in enumerate(zip(names, axes, strict=True), start=1):
        lines = np.moveaxis(above, place, -1).reshape(-1, len(axis))
        width = float(volume_below_zero(lines, [axis]).reshape(len(above), -1).max(axis=1).mean())
        whole = float(np.ptp(axis))
        step = whole / max(len(axis) - 1, 1)
        if width < min(2 * step, whole * (1 - 1e-9)):
            narrow.append(f"{parameter_name(name)} (about {width:.2g} decades, the grid's values are {step:.2g} apart)")
    if not narrow:
        return None
    text = (
        f"{where}: the region is narrower than two spacings of the grid along {' and '.join(narrow)}, so its size can't"
        " be measured. Add points there."
    )
    return Caution(code="coarse-grid", text=text)


def _with(estimate: Estimate, warnings: tuple[Caution, ...]) -> Estimate:
    if estimate.interval is None:
        return replace(estimate, warnings=estimate.warnings + warnings)
    low, high = estimate.interval
    return replace(estimate, interval=(max(low, 0.0), high), covers=OF_SEEDS, warnings=warnings)


def _touches(inside: np.ndarray, names: tuple[str, ...], levels: list[np.ndarray]) -> tuple[Edge, ...]:
    edges = []
    for axis, (name, values) in enumerate(zip(names, levels, strict=True)):
        if inside.take(0, axis=axis).any() and values[0] != 0:
            edges.append(Edge(parameter=name, side="low", value=float(values[0])))
        if inside.take(-1, axis=axis).any():
            edges.append(Edge(parameter=name, side="high", value=float(values[-1])))
    return tuple(edges)


def _warnings(
    where: str,
    missing: int,
    touches: tuple[Edge, ...],
    names: tuple[str, ...],
    axes: list[Floats],
    *,
    empty: bool,
) -> tuple[Caution, ...]:
    found = []
    if empty:
        steps = (float(np.ptp(axis)) / max(len(axis) - 1, 1) for axis in axes)
        apart = " and ".join(f"{step:.2g} ({parameter_name(name)})" for name, step in zip(names, steps, strict=True))
        text = f"{where}: no cell is inside. A region between cells that are {apart} decades apart can be missed."
        found.append(Caution(code="coarse-grid", text=text))
    if missing:
        text = f"{where}: {missing:,} runs of the grid have no result and count as outside the region."
        found.append(Caution(code="incomplete", text=text))
    if touches:
        sides = ", ".join(
            f"{'smallest' if e.side == 'low' else 'largest'} {parameter_name(e.parameter)} ({e.value:.3g})"
            for e in touches
        )
        text = f"{where}: the region reaches the edge of the box ({sides}), so its size is a lower bound."
        found.append(Caution(code="region-edge", text=text))
    return tuple(found)


def _of_draws(rows: pd.DataFrame, job: _Job) -> RobustRegion:
    names = varying(rows)
    measured = tuple(name for name in names if not np.isnan(decades(name, rows[PARAM_PREFIX + name])).any())
    cells = (job.sign * rows["value"]).groupby(rows["cell_id"], sort=False).median().dropna()
    where = at_batch_size(job.optimizer, job.batch_size)
    if not measured or not (len(cells) if job.target is not None else np.isfinite(cells).any()):
        return _nothing(job, f"{where}: no draw has a result, so there is no region.", "no-result")
    extent = {name: (float(rows[PARAM_PREFIX + name].min()), float(rows[PARAM_PREFIX + name].max())) for name in names}
    box = tuple((job.box or {}).get(name, extent[name]) for name in measured)
    widths: Floats = np.array([np.ptp(decades(name, ends)) for name, ends in zip(measured, box, strict=True)])
    whole, d = float(widths.prod()), len(measured)
    threshold = job.threshold(float(cells.min()))
    inside = int((cells <= threshold).sum())
    low, high = (whole * end for end in wilson(inside, len(cells)))
    volume = whole * inside / len(cells)
    return job.result(
        threshold,
        measured,
        Estimate(
            value=volume ** (1 / d),
            interval=(low ** (1 / d), high ** (1 / d)),
            n=len(cells),
            of="configurations",
            covers=OF_DRAWS,
        ),
        Estimate(value=volume, interval=(low, high), n=len(cells), of="configurations", covers=OF_DRAWS),
        box=box,
    )
