"""What each figure of a report shows, as ``Data``: one function a figure, beside its ``draw_`` function."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from sensitivity.analysis.best_of_k import BestOfK
from sensitivity.analysis.cost import Cost
from sensitivity.analysis.curves import CellCurves
from sensitivity.analysis.importance import Importance
from sensitivity.analysis.lr_sensitivity import LrSensitivity
from sensitivity.analysis.maps import Cell, RobustnessMap
from sensitivity.analysis.price import TuningPrice
from sensitivity.analysis.profiles import PerformanceProfile
from sensitivity.analysis.regions import RobustRegion
from sensitivity.analysis.scaling import ScalingCurve
from sensitivity.analysis.success import SuccessDifference, SuccessSurface
from sensitivity.analysis.success_plane import SuccessPlane
from sensitivity.analysis.targets import TargetOutcome
from sensitivity.analysis.time_split import TimeSplit
from sensitivity.analysis.tuning import Tuning
from sensitivity.analysis.verdict import Verdict
from sensitivity.figures.data import ESTIMATE, Data, Value, estimated

_COUNTS = ("completed", "diverged", "failed", "waiting", "planned")


def map_data(maps: Sequence[RobustnessMap]) -> Data:
    """Return every cell of maps of one optimizer."""
    first = maps[0]
    second = (first.y_name,) if first.y_name else ()
    rest = tuple(name for name, _ in first.slice_at)
    return Data(
        columns=(
            "batch_size", first.x_name, *second, *rest, f"median_{first.metric.name}", "smallest", "largest", *_COUNTS,
            "marks",
        ),
        rows=[
            (
                map_.batch_size,
                cell.x,
                *((cell.y,) if second else ()),
                *(value for _, value in map_.slice_at),
                *(cell.median, cell.low, cell.high),
                *(getattr(cell, name) for name in _COUNTS),
                _marks(map_, cell),
            )
            for map_ in maps
            for cell in map_.cells
        ],
    )  # fmt: skip


def _marks(map_: RobustnessMap, cell: Cell) -> str:
    marks = [
        ("best", map_.best_cell is cell),
        ("within tolerance", cell.in_region),
        ("can't be told from the best", cell.like_best),
    ]
    return ", ".join(text for text, applies in marks if applies)


def curve_data(cells: Sequence[CellCurves]) -> Data:
    """Return the curves of cells: their medians and ranges, then each seed's."""
    rows: list[tuple[Value, ...]] = []
    for cell in cells:
        at = (cell.optimizer, cell.batch_size, cell.cell_id)
        for name, values in (("median", cell.median), ("smallest", cell.low), ("largest", cell.high)):
            rows += [(*at, name, *point) for point in zip(cell.epochs, values, strict=True)]
    for cell in cells:
        at = (cell.optimizer, cell.batch_size, cell.cell_id)
        for seed in cell.seeds:
            rows += [(*at, f"seed {seed.seed}", *point) for point in zip(seed.epochs, seed.measured, strict=True)]
    return Data(columns=("optimizer", "batch_size", "cell_id", "curve", "epoch", cells[0].metric.name), rows=rows)


def target_data(outcomes: Sequence[TargetOutcome]) -> Data:
    """Return where runs stand with respect to targets."""
    fields = (
        "metric", "target", "optimizer", "batch_size", "planned", "reached", "fell_back", "at_first",
        "censored", "diverged", "diverged_after_meeting", "failed", "waiting", "median_steps_after", "median_steps",
        "median_epochs", "median_seconds",
        "expected_steps", "spent_steps",
    )  # fmt: skip
    return Data(
        columns=(*fields, "share_low", "share_high"),
        rows=[(*(getattr(o, name) for name in fields), *(o.interval or (None, None))) for o in outcomes],
    )


def scaling_data(groups: Mapping[str, Sequence[ScalingCurve]]) -> Data:
    """Return times to targets by the best configuration."""
    return Data(
        columns=(
            "target", "optimizer", "unit", "batch_size", "state", "time", "time_low", "time_high", "seeds",
            "evaluated_before", "evaluated_at", "expected_time", "expected_low", "expected_high",
            "restricted_mean", "ideal_time", "efficiency", "efficiency_low", "efficiency_high",
            "winner", "hyperparameters", "judged", "on_edge", "regret", "fell_back",
            "reached", "censored", "diverged", "failed", "waiting",
        ),
        rows=[
            (
                title, curve.optimizer, curve.unit, point.batch_size, point.state, *estimated(point.time),
                *point.bounds, point.expected, *point.expected_bounds, point.restricted_mean.value, ideal,
                *estimated(point.efficiency)[:3],
                point.cell_id, ", ".join(f"{name}={value:.6g}" for name, value in point.parameters), point.method,
                ", ".join(f"{edge.parameter} {edge.side}" for edge in point.edges),
                point.regret, point.fell_back,
                point.reached, point.censored, point.diverged, point.failed, point.waiting,
            )
            for title, curve in _curves(groups)
            for point, ideal in zip(curve.points, curve.ideal(), strict=True)
        ],
    )  # fmt: skip


def critical_data(groups: Mapping[str, Sequence[ScalingCurve]]) -> Data:
    """Return critical batch sizes."""
    return Data(
        columns=("target", "optimizer", "critical_batch_size", "low", "high", "seeds", "s_min", "residual", "says"),
        rows=[
            (title, curve.optimizer, *estimated(fit.size), fit.s_min, fit.residual, fit.says)
            for title, curve in _curves(groups)
            if (fit := curve.critical) is not None
        ],
    )


def _curves(groups: Mapping[str, Sequence[ScalingCurve]]) -> Iterable[tuple[str, ScalingCurve]]:
    return ((title, curve) for title, group in groups.items() for curve in group)


def success_data(surfaces: Sequence[SuccessSurface]) -> Data:
    """Return success rates over batch size and target."""
    return Data(
        columns=(
            "optimizer", "batch_size", "metric", "target", "rate", "low", "high", "configurations", "runs", "planned",
        ),
        rows=[
            (
                s.optimizer, s.batch_sizes[b], s.metric, s.targets[t], float(s.rate[b, t]), float(s.low[b, t]),
                float(s.high[b, t]), s.configurations[b], s.runs[b], s.planned[b],
            )
            for s in surfaces
            if s.refused is None
            for b in range(len(s.batch_sizes))
            for t in range(len(s.targets))
        ],
    )  # fmt: skip


def difference_data(difference: SuccessDifference) -> Data:
    """Return differences of success rates."""
    arrays = (difference.difference, difference.low, difference.high)
    return Data(
        columns=("candidate", "reference", "batch_size", "metric", "target", "difference", "low", "high"),
        rows=[
            (
                difference.candidate, difference.reference, size, difference.metric, target,
                *(float(array[b, t]) for array in arrays),
            )
            for b, size in enumerate(difference.batch_sizes)
            for t, target in enumerate(difference.targets)
        ],
    )  # fmt: skip


def plane_data(planes: Sequence[SuccessPlane]) -> Data:
    """Return runs by outcome over the hyperparameter plane."""
    counts = ("configurations", "reached", "censored", "diverged", "failed", "waiting")
    return Data(
        columns=("optimizer", "batch_size", planes[0].x_name, planes[0].y_name or "", *counts, "rate"),
        rows=[
            (p.optimizer, p.batch_size, cell.x, cell.y, *(getattr(cell, name) for name in counts), cell.rate)
            for p in planes
            for cell in p.cells
        ],
    )


def cost_data(costs: Sequence[Cost]) -> Data:
    """Return costs by optimizer and batch size."""
    fields = ("optimizer", "batch_size", "planned", "runs", "steps", "train_seconds", "eval_seconds", "flops")
    return Data(
        columns=(
            *fields, "seconds_a_step", "seconds_a_step_low", "seconds_a_step_high", "packs", "flops_a_step",
            "pack_size",
        ),
        rows=[
            (*(getattr(c, name) for name in fields), *estimated(c.seconds_a_step), c.flops_a_step, c.pack_size)
            for c in costs
        ],
    )  # fmt: skip


def time_split_data(splits: Sequence[TimeSplit]) -> Data:
    """Return a step's device-seconds by phase."""
    return Data(
        columns=("optimizer", "batch_size", "phase", "seconds_a_step", "runs", "steps"),
        rows=[
            (s.optimizer, s.batch_size, name, seconds, s.runs, s.steps)
            for s in splits
            for name, seconds in (*s.phases, ("rest", s.rest))
        ],
    )


def best_of_k_data(curves: Sequence[BestOfK]) -> Data:
    """Return tuning curves."""
    return Data(
        columns=("optimizer", "batch_size", "metric", "k", "device_seconds", "expected_best", "low", "high", "n"),
        rows=[
            (c.optimizer, c.batch_size, c.metric, *point, c.configurations)
            for c in curves
            for point in zip(c.k, c.seconds, c.expected, c.low, c.high, strict=True)
        ],
    )


def price_data(prices: Sequence[TuningPrice]) -> Data:
    """Return prices of tuning; of all batch sizes where none is named."""
    return Data(
        columns=(
            "optimizer", "batch_size", "settings_from", "draws", "reached", "success", "success_low", "success_high",
            "n", "trials", "trials_low", "trials_high", "device_seconds", "device_seconds_low", "device_seconds_high",
            "flops", "flops_low", "flops_high", "refused",
        ),
        rows=[
            (
                p.optimizer, p.batch_size, p.prior, p.draws, p.reached, *estimated(p.success),
                *estimated(p.trials)[:3], *estimated(p.seconds)[:3], *estimated(p.flops)[:3],
                p.refused.text if p.refused else "",
            )
            for p in prices
        ],
    )  # fmt: skip


def region_data(regions: Sequence[RobustRegion]) -> Data:
    """Return robust regions by both rules."""
    return Data(
        columns=(
            "optimizer", "batch_size", "metric", "rule", "threshold", "dimensions", "decades_a_dimension", "low",
            "high", "n", "volume", "reaches_edges", "refused",
        ),
        rows=[
            (
                r.optimizer, r.batch_size, r.metric, r.rule, r.threshold, " × ".join(r.names), *estimated(r.decades),
                r.volume.value, ", ".join(f"{edge.parameter} {edge.side}" for edge in r.touches),
                r.decades.refused.text if r.decades.refused else "",
            )
            for r in regions
        ],
    )  # fmt: skip


def sensitivity_data(lr: Sequence[LrSensitivity], tunings: Sequence[Tuning]) -> Data:
    """Return sensitivity scalars."""
    rows: list[tuple[Value, ...]] = [
        (
            f"learning-rate sensitivity within {one.window:g} decades", one.optimizer, one.batch_size, one.metric,
            *estimated(one.sensitivity),
        )
        for one in lr
    ]  # fmt: skip
    for t in tunings:
        rows.append(("one setting for all batch sizes", t.optimizer, None, t.metric, *estimated(t.one_setting)))
        rows += [
            ("tunability from that setting", t.optimizer, at.batch_size, t.metric, *estimated(at.gain))
            for at in t.tunability
        ]
    return Data(columns=("quantity", "optimizer", "batch_size", "metric", *ESTIMATE), rows=rows)


def importance_data(importances: Sequence[Importance]) -> Data:
    """Return shares of variance."""
    return Data(
        columns=("optimizer", "batch_size", "metric", "method", "of", *ESTIMATE),
        rows=[
            (i.optimizer, i.batch_size, i.metric, i.method, " × ".join(share.names), *estimated(share.share))
            for i in importances
            for share in (*i.shares, *i.ridge)
        ],
    )


def profile_data(profiles: Sequence[PerformanceProfile]) -> Data:
    """Return performance profiles."""
    return Data(
        columns=("optimizer", "unit", "factor", "share", "cases"),
        rows=[
            (p.optimizer, p.unit, factor, share, p.cases)
            for p in profiles
            for factor, share in zip(p.factors, p.share, strict=True)
        ],
    )


def verdict_data(verdict: Verdict) -> Data:
    """Return paired differences, each seed's and their mean."""
    rows: list[tuple[Value, ...]] = []
    for c in (*((verdict.primary,) if verdict.primary else ()), *verdict.by_batch):
        at = (c.label, "all" if c.batch_size is None else str(c.batch_size))
        rows += [
            (*at, f"seed {seed}", value, None, None, None, None, None)
            for seed, value in zip(c.seeds, c.differences, strict=True)
        ]
        p = c.p if math.isnan(c.p_holm) else c.p_holm
        rows.append((*at, "mean", *estimated(c.effect)[:3], p, c.p_equivalence, c.answer))
    return Data(
        columns=("what", "batch_size", "row", "difference", "low", "high", "p", "p_equivalence", "answer"), rows=rows
    )
