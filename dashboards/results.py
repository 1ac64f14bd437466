"""The analysis of a study as filtered: each result is computed when a page asks for it, once a version and filter."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd

from dashboards.catalog import Loaded
from dashboards.view import View
from sensitivity.analysis.best_of_k import BestOfK, compute_best_of_k
from sensitivity.analysis.cautions import Caution, compute_cautions
from sensitivity.analysis.claims import Claim, Evidence, compared_pairs, compute_claims
from sensitivity.analysis.clipping import Clipping, compute_clipping
from sensitivity.analysis.cost import Cost, compute_cost
from sensitivity.analysis.curves import CellCurves, compute_curves
from sensitivity.analysis.draws import Draws, compute_draws
from sensitivity.analysis.importance import Importance, compute_importance
from sensitivity.analysis.looks import Level, Looks, compute_looks, level
from sensitivity.analysis.lr_sensitivity import LrSensitivity, compute_lr_sensitivity
from sensitivity.analysis.maps import RobustnessMap, compute_maps
from sensitivity.analysis.memo import Memo
from sensitivity.analysis.outcomes import available_metrics, untrained_values
from sensitivity.analysis.price import PriceRatio, TuningPrice, compute_price_ratios, compute_prices
from sensitivity.analysis.profiles import PerformanceProfile, compute_profiles
from sensitivity.analysis.regions import RobustRegion, compute_regions
from sensitivity.analysis.scaling import ScalingCurve, compute_scaling
from sensitivity.analysis.success import (
    SuccessDifference,
    SuccessSurface,
    compute_success,
    compute_success_difference,
)
from sensitivity.analysis.success_plane import SuccessPlane, compute_success_planes
from sensitivity.analysis.summary import StudySummary, compute_summary
from sensitivity.analysis.targets import TargetOutcome, compute_targets
from sensitivity.analysis.time_split import TimeSplit, compute_time_split
from sensitivity.analysis.times import TimeUnit, compute_times
from sensitivity.analysis.tuning import Tuning, compute_tuning
from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.axes import Axis
from sensitivity.study.metrics import METRICS, Metric, MetricName
from sensitivity.study.section import CONFIRMATION_SEEDS

T = TypeVar("T")
_MOST_RESULTS = 64
_ROUNDING = 1e-5
"""Relative: values and addresses have six significant digits."""


@dataclass(frozen=True)
class Results:
    """The results of a study, as `view` filters it."""

    loaded: Loaded
    view: View

    def _once(self, what: str, compute: Callable[[], T], *further: Hashable) -> T:
        own: Memo = self.loaded.filtered.get(self.view.filters, lambda: Memo(_MOST_RESULTS))
        return own.get((what, *further), compute)

    @property
    def designs(self) -> Mapping[str, str]:
        """Each optimizer's design."""
        return self.loaded.spec.designs

    @property
    def axes(self) -> Mapping[str, Mapping[str, Axis]]:
        """Each optimizer's box as the study declares it: what filters cut off is no edge of its."""
        return self.loaded.spec.axes

    @property
    def metric(self) -> Metric:
        """The metric that is looked at: the one asked for, or the most telling of those measured."""
        if self.view.metric is not None:
            return METRICS[self.view.metric]
        known = available_metrics(self.loaded.runs)
        return known[0] if known else METRICS[self.loaded.spec.problem.metrics()[0]]

    @property
    def target(self) -> tuple[MetricName, float] | None:
        """The target that is looked at: the one asked for, or the study's first, of this metric for preference."""
        declared = self.loaded.spec.targets
        if self.view.target is not None:
            return self.view.target
        names = [name for name in (self.metric.name, *declared) if name in declared]
        return (names[0], declared[names[0]][0]) if names else None

    @property
    def runs(self) -> pd.DataFrame:
        """The planned runs that the filters leave."""
        return self._once("runs", lambda: _filtered(self.loaded.runs, self.view))

    def start(self, metric: MetricName) -> pd.DataFrame:
        """Return their evaluations of untrained networks."""
        return self._once("start", lambda: self._of(self.loaded.at_start(metric)), metric)

    def _of(self, rows: pd.DataFrame) -> pd.DataFrame:
        if len(self.runs) == len(self.loaded.runs):
            return rows
        return rows[rows["trial_id"].isin(self.runs["trial_id"])]

    @property
    def epsilon(self) -> float | None:
        """The tolerance in units of the metric; None is the default."""
        if self.view.tolerance is None:
            return None
        if self.metric.is_fraction:
            return self.view.tolerance / 100
        return (
            self.view.tolerance
            / 100
            * float(untrained_values(self.runs, self.start(self.metric.name), self.metric).median())
        )

    @property
    def summary(self) -> StudySummary:
        """Runs by status."""
        return self._once("summary", lambda: compute_summary(self.runs))

    @property
    def maps(self) -> tuple[RobustnessMap, ...]:
        """Robustness maps; none while no run has a value of the metric."""
        if not np.isfinite(self.runs[self.metric.name].to_numpy(dtype=float)).any():
            return ()
        return self._once(
            "maps",
            lambda: compute_maps(
                self.runs,
                self.start(self.metric.name),
                self.metric,
                designs=self.designs,
                axes=self.axes,
                epsilon=self.epsilon,
            ),
            self.metric.name,
            self.view.tolerance,
        )

    @property
    def cautions(self) -> tuple[Caution, ...]:
        """What a reader must know first."""
        return compute_cautions(self.runs, self.summary, self.maps)

    def cell_rows(self, cell_id: str) -> pd.DataFrame:
        """Return the runs of a cell, whatever the filters; empty without such a cell."""
        rows: pd.DataFrame = self.loaded.runs[self.loaded.runs["cell_id"] == cell_id]
        return rows.sort_values("seed")

    def cell_curves(self, *cell_ids: str) -> tuple[CellCurves, ...]:
        """Return the learning curves of those of the cells that exist."""
        known = [cell_id for cell_id in cell_ids if len(self.cell_rows(cell_id))]
        rows = self.loaded.runs[self.loaded.runs["cell_id"].isin(known)]
        return compute_curves(rows, self.loaded.curves_of(rows["trial_id"]), self.metric, known)

    @property
    def targets(self) -> tuple[TargetOutcome, ...]:
        """Where the runs stand with respect to the study's targets, and the one that is looked at."""
        levels = {name: list(values) for name, values in self.loaded.spec.targets.items()}
        if self.target is not None and self.target[1] not in levels.get(self.target[0], []):
            levels.setdefault(self.target[0], []).append(self.target[1])
        return tuple(
            outcome for name, values in levels.items() for level in values for outcome in self._outcomes(name, level)
        )

    @property
    def at_target(self) -> tuple[TargetOutcome, ...]:
        """Where they stand with respect to the target that is looked at; none without one."""
        return () if self.target is None else self._outcomes(*self.target)

    def _outcomes(self, name: MetricName, level: float) -> tuple[TargetOutcome, ...]:
        return self._once(
            "targets",
            lambda: compute_targets(self.runs, self.loaded.meeting(name, level), {name: [level]}, designs=self.designs),
            name,
            level,
        )

    @property
    def success(self) -> tuple[SuccessSurface, ...]:
        """Success rates over batch size and target."""
        name = self.metric.name
        return self._once(
            "success",
            lambda: compute_success(self.runs, self._of(self.loaded.best(name)), name, designs=self.designs),
            name,
        )

    @property
    def success_difference(self) -> SuccessDifference | None:
        """The difference of the two optimizers that are compared; None without two."""
        surfaces = {surface.optimizer: surface for surface in self.success}
        pair = self.pair
        return None if pair is None else compute_success_difference(surfaces[pair[0]], surfaces[pair[1]])

    @property
    def pair(self) -> tuple[str, str] | None:
        """The two optimizers that are compared, of those that the filters leave."""
        return next(iter(compared_pairs(self.loaded.spec, self.runs)), None)

    def scaling(self, unit: TimeUnit) -> tuple[ScalingCurve, ...]:
        """Return how the time to the target falls with batch size; none without a target."""
        times = self._times()
        if times is None:
            return ()
        return self._once(
            "scaling",
            lambda: compute_scaling(
                times,
                unit,
                confirmation_seeds={int(seed) for seed in times["seed"].unique() if seed >= CONFIRMATION_SEEDS},
                designs=self.designs,
                axes=self.axes,
            ),
            self.target,
            unit,
        )

    def _times(self) -> pd.DataFrame | None:
        target = self.target
        return None if target is None else self._times_to(*target)

    def _times_to(self, name: MetricName, level: float) -> pd.DataFrame:
        return self._once(
            "times", lambda: compute_times(self.runs, self.loaded.meeting(name, level), name, level), name, level
        )

    @property
    def cost(self) -> tuple[Cost, ...]:
        """What the runs took."""
        return self._once("cost", lambda: compute_cost(self.runs))

    @property
    def time_split(self) -> tuple[TimeSplit, ...]:
        """Where the time of a step goes."""
        return self._once("time split", lambda: compute_time_split(self.runs))

    @property
    def best_of_k(self) -> tuple[BestOfK, ...]:
        """The price of tuning."""
        name = self.metric.name
        return self._once(
            "best of k", lambda: compute_best_of_k(self.runs, self.start(name), name, designs=self.designs), name
        )

    @property
    def regions(self) -> tuple[RobustRegion, ...]:
        """Robust regions for the target, or within the tolerance where there is none."""
        name, level = self.target or (self.metric.name, None)
        return self._once(
            "regions",
            lambda: compute_regions(
                self.runs,
                self.start(name) if level is None else self._of(self.loaded.best(name)),
                name,
                target=level,
                epsilon=self.epsilon,
                designs=self.designs,
                boxes=self._boxes(),
            ),
            self.target,
            self.metric.name,
            self.view.tolerance,
        )

    @property
    def draws(self) -> tuple[Draws, ...]:
        """Which runs are draws of a setting, and which of them reach the target; none without a target."""
        times = self._times()
        if times is None:
            return ()
        return self._once(
            "draws", lambda: compute_draws(self.runs, times, designs=self.designs, axes=self._priors()), self.target
        )

    def _priors(self) -> dict[str, dict[str, Axis]]:
        """Return what each optimizer's settings are drawn from, as narrowed."""
        priors = {name: dict(axes) for name, axes in self.axes.items()}
        for side in self.view.box:
            own, axis = priors[side.optimizer], priors[side.optimizer][side.parameter]
            if axis.scale == "values":
                listed = axis.grid()
                kept = tuple(value for value in listed if side.low <= value <= side.high)
                own[side.parameter] = axis.model_copy(update={"values": kept or listed})
            else:
                own[side.parameter] = axis.model_copy(update={"low": side.low, "high": side.high})
        return priors

    @property
    def prices(self) -> tuple[TuningPrice, ...]:
        """What it costs to find a setting that works, by draws from each optimizer's box."""
        return compute_prices(self.draws)

    @property
    def price_ratios(self) -> tuple[PriceRatio, ...]:
        """The same of the two optimizers that are compared."""
        own = {found.optimizer: found for found in self.draws}
        if self.pair is None or not own:
            return ()
        candidate, reference = self.pair
        return compute_price_ratios(own[candidate], own[reference])

    def _boxes(self) -> dict[str, dict[str, tuple[float, float]]]:
        """Return the box of each optimizer's draws, as narrowed."""
        boxes = {
            name: {parameter: axis.bounds() for parameter, axis in axes.items() if axis.varies}
            for name, axes in self.axes.items()
        }
        for side in self.view.box:
            boxes[side.optimizer][side.parameter] = (side.low, side.high)
        return boxes

    @property
    def planes(self) -> tuple[SuccessPlane, ...]:
        """Where in the plane of hyperparameters the target is reached; none without a target."""
        times = self._times()
        return () if times is None else self._once("planes", lambda: compute_success_planes(times), self.target)

    @property
    def profiles(self) -> tuple[PerformanceProfile, ...]:
        """How often each optimizer is close to the best, over all declared targets."""
        unit = self.view.unit

        def compute() -> tuple[PerformanceProfile, ...]:
            groups = {
                f"{name} {level:g}": compute_scaling(self._times_to(name, level), unit)
                for name, levels in self.loaded.spec.targets.items()
                for level in levels
            }
            return compute_profiles(groups)

        return self._once("profiles", compute, unit)

    @property
    def lr_sensitivity(self) -> tuple[LrSensitivity, ...]:
        """What a wrong learning rate costs."""
        name = self.metric.name
        return self._once("lr", lambda: compute_lr_sensitivity(self.runs, self.start(name), name), name)

    @property
    def tuning(self) -> tuple[Tuning, ...]:
        """What one setting for all batch sizes costs, and what tuning gains."""
        name = self.metric.name
        return self._once(
            "tuning", lambda: compute_tuning(self.runs, self.start(name), name, designs=self.designs), name
        )

    @property
    def importance(self) -> tuple[Importance, ...]:
        """Which hyperparameters matter."""
        name = self.metric.name
        return self._once(
            "importance", lambda: compute_importance(self.runs, self.start(name), name, designs=self.designs), name
        )

    @property
    def clipping(self) -> tuple[Clipping, ...]:
        """Where a KL clip binds."""
        # How much was clipped stands in the runs; the rates that curves add are not shown here.
        return self._once("clipping", lambda: compute_clipping(self.runs, self.runs[["trial_id"]]))

    @property
    def looks(self) -> tuple[Looks, Level]:
        """How often the study may have been looked at before, and the error rate that this leaves."""
        spec = self.loaded.spec
        looks = compute_looks(self.loaded.manifest.history, self.loaded.runs, spec.model_dump(mode="json"))
        return looks, level(looks, len(spec.seeds), spec.primary.looks if spec.primary else ())

    @property
    def claims(self) -> tuple[Claim, ...]:
        """The verdict on every pair and both questions; none without two optimizers and a target."""

        def compute() -> tuple[Claim, ...]:
            curves, draws = self.scaling("steps"), self.draws
            if not curves or not draws:
                return ()
            evidence = Evidence(runs=self.runs, curves=curves, draws=draws, clipping=self.clipping)
            chosen = len(self.runs) < len(self.loaded.runs) or self.target != self.loaded.spec.primary_target
            return compute_claims(self.loaded.spec, evidence, *self.looks, chosen=chosen)

        return self._once("claims", compute, self.target, self.metric.name, self.view.tolerance)


def _filtered(runs: pd.DataFrame, view: View) -> pd.DataFrame:
    keep = np.ones(len(runs), dtype=bool)
    if view.optimizers:
        keep &= runs["optimizer"].isin(view.optimizers).to_numpy()
    if view.batch_sizes:
        keep &= runs["batch_size"].isin(view.batch_sizes).to_numpy()
    for side in view.box:
        values = runs[PARAM_PREFIX + side.parameter].to_numpy(dtype=float)
        margin = _ROUNDING * max(abs(side.low), abs(side.high))
        inside = (values >= side.low - margin) & (values <= side.high + margin)
        keep &= (runs["optimizer"] != side.optimizer).to_numpy() | inside
    return runs if keep.all() else runs[keep]
