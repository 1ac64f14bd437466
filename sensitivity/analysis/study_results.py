"""``StudyResults``: every answer of a study under a view, computed when it is asked for and kept.

Report, dashboard, terminal and Python ask the same object, so a number is the same number on every face. Runs that
confirm winners on fresh seeds (column ``confirmation``) time these winners and count in what was run and spent; they
enter no map, region, rate or choice, because the other configurations don't have them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from sensitivity.analysis.best_of_k import BestOfK, compute_best_of_k
from sensitivity.analysis.cautions import compute_cautions
from sensitivity.analysis.claims import Claim, Evidence, compared_pairs, compute_claims, unanswered
from sensitivity.analysis.clipping import Clipping, compute_clipping
from sensitivity.analysis.cost import Cost, CostRatio, compute_cost, compute_cost_ratios
from sensitivity.analysis.curves import CellCurves, compute_curves
from sensitivity.analysis.designs import varying
from sensitivity.analysis.draws import Draws, compute_draws
from sensitivity.analysis.estimates import Caution
from sensitivity.analysis.importance import Importance, compute_importance
from sensitivity.analysis.looks import Level, Looks, compute_looks, level
from sensitivity.analysis.lr_sensitivity import LrSensitivity, compute_lr_sensitivity
from sensitivity.analysis.maps import RobustnessMap, compute_maps
from sensitivity.analysis.memo import Memo, kept
from sensitivity.analysis.outcomes import available_metrics, untrained_values
from sensitivity.analysis.price import PriceRatio, TuningPrice, compute_price_ratios, compute_prices
from sensitivity.analysis.profiles import PerformanceProfile, compute_profiles
from sensitivity.analysis.regions import Box, RobustRegion, compute_regions
from sensitivity.analysis.scaling import ScalingCurve, compute_scaling
from sensitivity.analysis.success import (
    SuccessDifference,
    SuccessSurface,
    compute_success,
    compute_success_difference,
)
from sensitivity.analysis.success_plane import SuccessPlane, compute_success_planes
from sensitivity.analysis.summary import StudySummary, compute_summary
from sensitivity.analysis.tables import Tables
from sensitivity.analysis.targets import TargetOutcome, compute_targets
from sensitivity.analysis.time_split import TimeSplit, compute_time_split
from sensitivity.analysis.times import TimeUnit, compute_times, known_units
from sensitivity.analysis.tuning import Tuning, compute_tuning
from sensitivity.analysis.view import Target, View, changed_view
from sensitivity.store.manifest import Manifest
from sensitivity.study.amendments import Answer
from sensitivity.study.metrics import METRICS, Metric
from sensitivity.study.observed import OBSERVED
from sensitivity.study.primary import Pair, Question
from sensitivity.study.spec import MarginsSpec, StudySpec

T = TypeVar("T")
_MOST_VIEWS = 8
"""Sets of filtered runs that are kept with their answers: each is a copy, and dragging a slider makes many."""


@dataclass(frozen=True)
class StudyResults:
    """The answers of a study, as `view` looks at it. Safe to share between threads."""

    tables: Tables = field(repr=False)
    view: View = field(default_factory=View)
    memo: Memo = field(default_factory=lambda: Memo(_MOST_VIEWS), repr=False, compare=False)

    def under(self, **changes: Any) -> StudyResults:
        """Return the answers under another view: fields of ``View``, of which those not given stay as they are.

        Raises:
            UserError: there is no such field, or the study has no such metric, optimizer or batch size.
        """
        return replace(self, view=changed_view(self.view, changes, self.manifest.spec)) if changes else self

    @property
    def manifest(self) -> Manifest:
        """What study.json holds."""
        return self.tables.manifest

    @property
    def spec(self) -> StudySpec:
        """The study as it was declared, with the margins of the view."""
        spec = self.manifest.spec
        return spec if self.view.margins is None else spec.model_copy(update={"margins": self.view.margins})

    # What is looked at.

    @property
    def optimizers(self) -> tuple[str, ...]:
        """The optimizers that are looked at, in the order of the study."""
        return tuple(name for name in self.spec.optimizers if name in (self.view.optimizers or self.spec.optimizers))

    @property
    @kept()
    def metrics(self) -> tuple[Metric, ...]:
        """Those that some run has a value of, the target's first, then the most telling."""
        has, target = self.spec.metrics(), self.spec.primary_target
        known = [metric for metric in available_metrics(self.searched) if metric.name in has]
        return tuple(sorted(known, key=lambda metric: target is None or metric.name != target[0]))

    @property
    def metric(self) -> Metric:
        """The one asked for, else the primary target's where some run measured it, else the most telling measured."""
        declared = self.spec.primary_target or (self.spec.metrics()[0], 0.0)
        measured = next(iter(self.metrics), METRICS[declared[0]])
        return measured if self.view.metric is None else METRICS[self.view.metric]

    @property
    def target(self) -> Target | None:
        """The one asked for, else the primary target; None where the study declares none."""
        return self.view.target or self.spec.primary_target

    @property
    def targets(self) -> tuple[Target, ...]:
        """All declared targets, in the order of the study, and the one that is looked at."""
        declared = [(name, at) for name, levels in self.spec.targets.items() for at in levels]
        return tuple(dict.fromkeys([*declared, *([self.target] if self.target else [])]))

    @property
    def tolerance(self) -> float | None:
        """What is good enough, in units of the metric below the best; None is the default (``maps``)."""
        if self.view.tolerance is None:
            return None
        share = self.view.tolerance / 100
        if self.metric.is_fraction:
            return share
        return share * float(untrained_values(self.searched, self._start(), self.metric).median())

    @property
    def chosen(self) -> bool:
        """Whether what is looked at was chosen after results were seen, so that every verdict is exploratory."""
        spec = self.manifest.spec
        margins = self.view.margins not in (None, spec.margins)
        after = spec.observed is not None and not spec.observed.planned
        return after or margins or self.target != spec.primary_target or len(self.runs) < len(self.tables.runs)

    @property
    @kept()
    def runs(self) -> pd.DataFrame:
        """The planned runs that the filters leave, confirmations included."""
        return self.view.filtered(self.tables.runs)

    @property
    @kept()
    def searched(self) -> pd.DataFrame:
        """The same without runs that confirm winners."""
        confirming = self.runs["confirmation"].astype(bool)
        return self.runs[~confirming] if confirming.any() else self.runs

    @property
    def has_values(self) -> bool:
        """Whether some run has a value of the metric."""
        return bool(np.isfinite(self.searched[self.metric.name].to_numpy(dtype=float)).any())

    @property
    @kept()
    def units(self) -> tuple[TimeUnit, ...]:
        """The units in which it is known how long runs trained; all, while none has a result."""
        return known_units(self.runs)

    def _start(self) -> pd.DataFrame:
        return self._of_runs(self.tables.at_start(self.metric.name))

    def _of_runs(self, rows: pd.DataFrame) -> pd.DataFrame:
        return rows if len(self.runs) == len(self.tables.runs) else rows[rows["trial_id"].isin(self.runs["trial_id"])]

    def _of_metric(self, compute: Callable[..., tuple[T, ...]], **further: object) -> tuple[T, ...]:
        """Return what `compute` makes of the runs and the metric; nothing while no run has a value of it."""
        return compute(self.searched, self._start(), self.metric.name, **further) if self.has_values else ()

    # What was run, and what it took.

    @property
    @kept()
    def summary(self) -> StudySummary:
        """Runs by status."""
        return compute_summary(self.runs)

    @property
    @kept()
    def costs(self) -> tuple[Cost, ...]:
        """What the runs took."""
        return compute_cost(self.runs)

    @property
    def cost_ratios(self) -> tuple[CostRatio, ...]:
        """What the first pair's candidate costs as a multiple of its reference; none without a pair."""
        return compute_cost_ratios(self.costs, *self.pairs[0]) if self.pairs else ()

    @property
    @kept()
    def time_splits(self) -> tuple[TimeSplit, ...]:
        """Where the time of a step goes."""
        return compute_time_split(self.runs)

    @property
    @kept()
    def clipping(self) -> tuple[Clipping, ...]:
        """Where a KL clip binds."""
        return compute_clipping(self.runs, self.tables.rates())

    # How the hyperparameters matter.

    @property
    @kept("metric", "tolerance")
    def maps(self) -> tuple[RobustnessMap, ...]:
        """Robustness maps; none while no run has a value of the metric."""
        if not self.has_values:
            return ()
        runs, start, axes = self.searched, self._start(), self.spec.axes
        return compute_maps(runs, start, self.metric, designs=self._designs, axes=axes, epsilon=self.tolerance)

    @property
    def source_cautions(self) -> tuple[Caution, ...]:
        """What was wrong with runs that were made elsewhere, as they came in."""
        observed = self.spec.observed
        return tuple(Caution(code=OBSERVED, text=text) for text in observed.cautions) if observed else ()

    @property
    def cautions(self) -> tuple[Caution, ...]:
        """What a reader must know first."""
        return (*self.source_cautions, *compute_cautions(self.searched, self.summary, self.maps))

    @property
    @kept("metric")
    def best_of_k(self) -> tuple[BestOfK, ...]:
        """The expected best of k trials; none while no run has a value of the metric, as the three below."""
        return self._of_metric(compute_best_of_k, designs=self._designs)

    @property
    @kept("metric")
    def importance(self) -> tuple[Importance, ...]:
        """Which hyperparameters matter."""
        return self._of_metric(compute_importance, designs=self._designs)

    @property
    @kept("metric")
    def lr_sensitivity(self) -> tuple[LrSensitivity, ...]:
        """What a wrong learning rate costs."""
        return self._of_metric(compute_lr_sensitivity)

    @property
    @kept("metric")
    def tunings(self) -> tuple[Tuning, ...]:
        """What one setting for all batch sizes costs, and what tuning gains."""
        return self._of_metric(compute_tuning, designs=self._designs)

    @property
    @kept("metric", "tolerance")
    def own_regions(self) -> tuple[RobustRegion, ...]:
        """Robust regions within the tolerance of each optimizer's own best."""
        further = {"epsilon": self.tolerance, "designs": self._designs, "boxes": self._boxes}
        return self._of_metric(compute_regions, **further)

    @property
    @kept("target")
    def target_regions(self) -> tuple[RobustRegion, ...]:
        """Robust regions for the target; none without one."""
        if self.target is None:
            return ()
        name, at = self.target
        best = self._of_runs(self.tables.best(name))
        return compute_regions(self.searched, best, name, target=at, designs=self._designs, boxes=self._boxes)

    @property
    def varying(self) -> tuple[str, ...]:
        """Names of the hyperparameters that vary."""
        return varying(self.searched)

    def cell_rows(self, cell_id: str) -> pd.DataFrame:
        """Return the runs of a cell by seed, whatever the filters; empty without such a cell."""
        rows: pd.DataFrame = self.tables.runs[self.tables.runs["cell_id"] == cell_id]
        return rows.sort_values("seed")

    @kept("metric")
    def cell_curves(self, *cell_ids: str) -> tuple[CellCurves, ...]:
        """Return the learning curves of those of the cells that exist, confirmations left out."""
        runs = self.tables.runs
        rows = runs[runs["cell_id"].isin(cell_ids) & ~runs["confirmation"].astype(bool)]
        known = set(rows["cell_id"])
        wanted = [cell_id for cell_id in cell_ids if cell_id in known]
        return compute_curves(rows, self.tables.curves_of(rows["trial_id"]), self.metric, wanted)

    # How a target is reached.

    @kept()
    def outcomes(self, target: Target) -> tuple[TargetOutcome, ...]:
        """Return where the runs stand with respect to a target."""
        name, at = target
        return compute_targets(self.searched, self.tables.meeting(name, at), {name: [at]}, designs=self._designs)

    @kept()
    def times(self, target: Target) -> pd.DataFrame:
        """Return when each run reaches a target: a row a run (``times``)."""
        return compute_times(self.runs, self.tables.meeting(*target), *target)

    @kept()
    def scaling_to(self, target: Target, unit: TimeUnit = "steps") -> tuple[ScalingCurve, ...]:
        """Return how the time to a target falls with batch size, a curve an optimizer."""
        return compute_scaling(self.times(target), unit, designs=self._designs, axes=self.spec.axes)

    def scaling(self, unit: TimeUnit = "steps") -> tuple[ScalingCurve, ...]:
        """Return the same for the target that is looked at; none without one."""
        return () if self.target is None else self.scaling_to(self.target, unit)

    @kept("targets")
    def profiles(self, unit: TimeUnit = "steps") -> tuple[PerformanceProfile, ...]:
        """Return how often each optimizer is close to the best, over all targets."""
        return compute_profiles({f"{name} {at:g}": self.scaling_to((name, at), unit) for name, at in self.targets})

    @property
    @kept("metric")
    def success(self) -> tuple[SuccessSurface, ...]:
        """Success rates over batch size and levels of the metric; none while no run has a value of it."""
        if not self.has_values:
            return ()
        name = self.metric.name
        return compute_success(self.searched, self._of_runs(self.tables.best(name)), name, designs=self._designs)

    @kept("metric")
    def success_difference(self, pair: Pair) -> SuccessDifference | None:
        """Return the difference of two optimizers' success rates; None where either has none."""
        surfaces = {surface.optimizer: surface for surface in self.success}
        if not surfaces.keys() >= set(pair):
            return None
        return compute_success_difference(surfaces[pair[0]], surfaces[pair[1]])

    @property
    @kept("target")
    def planes(self) -> tuple[SuccessPlane, ...]:
        """Where in the plane of hyperparameters the target is reached; none without a target."""
        return () if self.target is None else compute_success_planes(self._searched_times(self.target))

    @property
    @kept("target")
    def draws(self) -> tuple[Draws, ...]:
        """Which runs are draws of a setting, and which of them reach the target; none without a target."""
        if self.target is None:
            return ()
        return compute_draws(
            self.searched, self.times(self.target), designs=self._designs, axes=self.view.narrowed(self.spec.axes)
        )

    @property
    def prices(self) -> tuple[TuningPrice, ...]:
        """What it costs to find a setting that works, by draws from each optimizer's box."""
        return compute_prices(self.draws)

    @kept("target")
    def price_ratios(self, pair: Pair) -> tuple[PriceRatio, ...]:
        """Return the price of a pair's candidate as a multiple of its reference's; none without a target."""
        own = {found.optimizer: found for found in self.draws}
        return compute_price_ratios(own[pair[0]], own[pair[1]]) if own.keys() >= set(pair) else ()

    # The answers to the study's two questions.

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """(candidate, reference) of those that are compared and have runs, that of the primary claim first."""
        return compared_pairs(self.spec, self.runs)

    @property
    def looks(self) -> tuple[Looks, Level]:
        """How often the study may have been looked at before, and the error rate that this leaves."""
        spec = self.manifest.spec
        looks = compute_looks(self.manifest.history, self.tables.runs, spec.model_dump(mode="json"))
        return looks, level(looks, len(spec.seeds), spec.primary.looks if spec.primary else ())

    @property
    def look_cautions(self) -> tuple[Caution, ...]:
        """What earlier looks cost, and what was changed meanwhile; none where nothing is compared."""
        looks, now = self.looks
        return (*now.cautions, *looks.changed) if self.pairs and self.target is not None else ()

    @property
    @kept("target", "margins", "chosen")
    def claims(self) -> tuple[Claim, ...]:
        """The verdict on every pair and both questions, in the order of the pairs; none without a target."""
        if self.target is None or not self.pairs:
            return ()
        evidence = Evidence(runs=self.runs, curves=self.scaling("steps"), draws=self.draws, clipping=self.clipping)
        return compute_claims(self.spec, evidence, *self.looks, chosen=self.chosen)

    def claim(self, question: Question, pair: Pair | None = None) -> Claim | None:
        """Return the verdict on a question and a pair, the first one by default; None without one."""
        wanted = pair or next(iter(self.pairs), None)
        found = (c for c in self.claims if (c.verdict.candidate, c.verdict.reference) == wanted)
        return next((claim for claim in found if claim.verdict.question == question), None)

    @property
    def settled(self) -> tuple[Answer, ...]:
        """The answers of the study's settlement to what is looked at; none where nobody has settled it so far.

        It was settled for the declared target and margins, and for the optimizers of a pair as a whole.
        """
        ledger = self.tables.ledger
        if ledger is None or ledger.settlement is None or ledger.declaration.target != self.target:
            return ()
        margins = {"scaling": self.margins.scaling_ratio, "sensitivity": self.margins.tuning_ratio}
        return tuple(
            answer
            for answer in ledger.settlement.answers
            if answer.claim.margin == margins[answer.claim.question]
            and {answer.claim.candidate, answer.claim.reference} <= set(self.optimizers)
        )

    @property
    def why_not(self) -> tuple[Caution, ...]:
        """Why a question has no answer at all."""
        return unanswered(self.manifest.spec, self.target, self.pairs)

    @property
    def margins(self) -> MarginsSpec:
        """How large a difference has to be to matter."""
        return self.spec.margins

    @property
    def _boxes(self) -> Mapping[str, Box]:
        priors = self.view.narrowed(self.spec.axes)
        return {name: {parameter: axis.bounds() for parameter, axis in axes.items()} for name, axes in priors.items()}

    @property
    def _designs(self) -> Mapping[str, str]:
        return self.spec.designs

    def _searched_times(self, target: Target) -> pd.DataFrame:
        times = self.times(target)
        return times[~times["confirmation"].astype(bool)] if "confirmation" in times else times
