"""``StudyResults``: every answer of a study under a view, computed when it is asked for and kept.

Report, dashboard, terminal and Python ask the same object, so a number is the same number on every face. Runs that
confirm winners on fresh seeds (column ``confirmation``) time these winners and count in what was run and spent; they
enter no map, region, rate or choice, because the other configurations don't have them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from sensitivity.analysis.best_of_k import BestOfK, compute_best_of_k
from sensitivity.analysis.cautions import compute_cautions
from sensitivity.analysis.claims import Claim, Evidence, compared_pairs, compute_claims, unanswered
from sensitivity.analysis.clipping import Clipping, compute_clipping
from sensitivity.analysis.conclusions import Conclusion
from sensitivity.analysis.cost import Cost, CostRatio, compute_cost, compute_cost_ratios
from sensitivity.analysis.curves import CellCurves, compute_curves
from sensitivity.analysis.designs import varying
from sensitivity.analysis.draws import Draws, compute_draws
from sensitivity.analysis.estimates import Caution
from sensitivity.analysis.importance import Importance, compute_importance
from sensitivity.analysis.looked_at import LookedAt
from sensitivity.analysis.looks import Level, Looks, compute_looks, level
from sensitivity.analysis.lr_sensitivity import LrSensitivity, compute_lr_sensitivity
from sensitivity.analysis.maps import RobustnessMap, compute_maps
from sensitivity.analysis.memo import kept
from sensitivity.analysis.price import PriceRatio, TuningPrice, compute_price_ratios, compute_prices
from sensitivity.analysis.profiles import PerformanceProfile, compute_profiles
from sensitivity.analysis.regions import Box, RobustRegion, compute_regions
from sensitivity.analysis.scaling import ScalingCurve, compute_scaling
from sensitivity.analysis.settled import OWN_DESIGN_WAITS, settled_answers
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
from sensitivity.analysis.view import Target
from sensitivity.study.amendments import Answer
from sensitivity.study.observed import OBSERVED
from sensitivity.study.primary import Pair, Question


@dataclass(frozen=True)
class StudyResults(LookedAt):
    """The answers of a study under its view. Safe to share between threads."""

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
    def choice_cautions(self) -> tuple[Caution, ...]:
        """That settings are chosen on the data that they are reported on, although there are others."""
        looked_at = (self.metric, *([self.target[0]] if self.target else []))
        text = self.spec.choice_caution(*looked_at)
        return (Caution(code="test-chooses", text=text),) if text else ()

    @property
    def cautions(self) -> tuple[Caution, ...]:
        """What a reader must know first."""
        if self.settled and not self.summary.begun:
            return (*self.source_cautions, *self.choice_cautions, OWN_DESIGN_WAITS)
        curves = self.scaling()
        found = compute_cautions(self.searched, self.summary, self.maps, curves, running=self.tables.running)
        return (*self.source_cautions, *self.choice_cautions, *found)

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
        name = self.metric
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
        """The answers of the study's settlement to what is looked at; none where nobody has settled it so far."""
        return settled_answers(self.tables.ledger, self.target, self.margins, self.optimizers)

    @property
    def conclusions(self) -> tuple[Conclusion, ...]:
        """The answer to each question about each pair, of the settlement where that was asked it."""
        settled = {(a.claim.question, a.claim.candidate, a.claim.reference): a for a in self.settled}
        verdicts = ((claim, claim.verdict) for claim in self.claims)
        return tuple(
            Conclusion(claim=claim, settled=settled.get((v.question, v.candidate, v.reference)))
            for claim, v in verdicts
        )

    def conclusion(self, question: Question) -> Conclusion | None:
        """Return the answer to a question about the first pair; None without one."""
        return next((one for one in self.conclusions if one.question == question), None)

    @property
    def why_not(self) -> tuple[Caution, ...]:
        """Why a question has no answer at all."""
        return unanswered(self.manifest.spec, self.target, self.pairs)

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
