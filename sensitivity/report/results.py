"""All numbers of a report: every analysis of a study, computed once.

A study may declare several targets. The first in its file is the primary one: the verdict is on it, and what is
shown for one target alone is shown for it. `sensitivity verdict` computes the verdict's part only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from sensitivity.analysis.best_of_k import BestOfK, compute_best_of_k
from sensitivity.analysis.cautions import Caution, compute_cautions
from sensitivity.analysis.claims import Claim, Evidence, compared_pairs, compute_claims
from sensitivity.analysis.clipping import Clipping, compute_clipping
from sensitivity.analysis.cost import Cost, CostRatio, compute_cost, compute_cost_ratios
from sensitivity.analysis.curves import CellCurves, compute_curves
from sensitivity.analysis.draws import compute_draws
from sensitivity.analysis.importance import Importance, compute_importance
from sensitivity.analysis.looks import compute_looks, level
from sensitivity.analysis.lr_sensitivity import LrSensitivity, compute_lr_sensitivity
from sensitivity.analysis.maps import RobustnessMap, compute_maps
from sensitivity.analysis.outcomes import available_metrics
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
from sensitivity.analysis.targets import TargetOutcome, compute_targets
from sensitivity.analysis.time_split import TimeSplit, compute_time_split
from sensitivity.analysis.times import UNITS, TimeUnit, compute_times
from sensitivity.analysis.tuning import Tuning, compute_tuning
from sensitivity.figures.labels import target_label
from sensitivity.report.choices import CHOICES, Choice, choose_cells
from sensitivity.store.reader import Study
from sensitivity.study.metrics import METRICS, Metric, MetricName
from sensitivity.study.primary import Pair, Question
from sensitivity.study.spec import StudySpec

Target = tuple[MetricName, float]


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """The answers to the study's two questions, and what they rest on."""

    pairs: tuple[Pair, ...]
    """(candidate, reference) of those that are compared and have runs, that of the primary claim first."""
    target: Target | None
    """The primary one; None where the study declares none."""
    claims: tuple[Claim, ...]
    """Of every pair on both questions, in the order of the pairs; empty without a target."""
    looks: tuple[Caution, ...]
    """How often the answers may have been looked at before, what that costs, and what was changed meanwhile."""
    curves: tuple[ScalingCurve, ...]
    """To the primary target, in steps."""
    regions: tuple[RobustRegion, ...]
    """For the primary target."""
    prices: tuple[TuningPrice, ...]
    """For the primary target."""
    price_ratios: tuple[PriceRatio, ...]
    """Of each pair."""
    why_not: tuple[Caution, ...]
    """Why a question has no answer at all."""

    @property
    def pair(self) -> Pair | None:
        """The first pair; None with one optimizer."""
        return self.pairs[0] if self.pairs else None

    def claim(self, question: Question) -> Claim | None:
        """Return the verdict on the first pair; None without one."""
        return next((claim for claim in self.claims if claim.verdict.question == question), None)


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that a report of one study shows."""

    study: Study
    metrics: tuple[Metric, ...]
    """That some run has a value of, the most telling first."""
    summary: StudySummary
    cautions: tuple[Caution, ...]
    verdicts: Verdicts
    maps: Mapping[str, tuple[RobustnessMap, ...]]
    """By metric, that of the primary target first."""
    curves: Mapping[Choice, Mapping[str, tuple[CellCurves, ...]]]
    """Of the cells that each choice picks, by metric; but for the best ones, of `metric` alone."""
    targets: tuple[TargetOutcome, ...]
    scaling: Mapping[TimeUnit, Mapping[str, tuple[ScalingCurve, ...]]]
    """A unit -> a target in words -> its curves."""
    profiles: tuple[PerformanceProfile, ...]
    success: tuple[SuccessSurface, ...]
    difference: SuccessDifference | None
    planes: tuple[SuccessPlane, ...]
    """For the primary target."""
    costs: tuple[Cost, ...]
    cost_ratios: tuple[CostRatio, ...]
    best_of_k: tuple[BestOfK, ...]
    own_regions: tuple[RobustRegion, ...]
    """By each optimizer's own best."""
    importance: tuple[Importance, ...]
    lr_sensitivity: tuple[LrSensitivity, ...]
    tunings: tuple[Tuning, ...]
    time_splits: tuple[TimeSplit, ...]
    clipping: tuple[Clipping, ...]

    @property
    def spec(self) -> StudySpec:
        """The study as it was declared."""
        return self.study.manifest.spec

    @property
    def metric(self) -> Metric | None:
        """The metric of what is shown for one alone; None without any result."""
        return shown_metric(self.metrics, self.verdicts.target)


def shown_metric(metrics: Sequence[Metric], target: Target | None) -> Metric | None:
    """Return the primary target's metric where some run measured it, else the most telling one measured."""
    named = [metric for metric in metrics if target is not None and metric.name == target[0]]
    return next(iter([*named, *metrics]), None)


def compute_verdicts(study: Study) -> Verdicts:
    """Answer the study's two questions, or say why not."""
    target = study.manifest.spec.primary_target
    times = None if target is None else compute_times(study.runs, study.curves, *target)
    return _verdicts(study, times, compute_clipping(study.runs, study.curves))


def _first(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs without those that confirm winners on fresh seeds, which the other cells don't have."""
    return runs[~runs["confirmation"].astype(bool)]


def _scaling(times: pd.DataFrame, spec: StudySpec, unit: TimeUnit = "steps") -> tuple[ScalingCurve, ...]:
    return compute_scaling(times, unit, designs=spec.designs, axes=spec.axes)


def _verdicts(study: Study, times: pd.DataFrame | None, clipping: tuple[Clipping, ...]) -> Verdicts:
    spec, runs, curves = study.manifest.spec, study.runs, study.curves
    target = spec.primary_target
    pairs = compared_pairs(spec, runs)
    why_not: list[Caution] = []
    if len(spec.optimizers) < 2:
        text = "With one optimizer there is nothing to compare it with. Add a second one to the study file."
        why_not.append(Caution(code="one-optimizer", text=text))
    if target is None or times is None:
        text = "The study declares no target, and both questions are about reaching one. Declare one and report again."
        why_not.insert(0, Caution(code="no-target", text=text))
        none: tuple[()] = ()
        return Verdicts(
            pairs=pairs, target=target, claims=none, looks=none, curves=none, regions=none, prices=none,
            price_ratios=none, why_not=tuple(why_not),
        )  # fmt: skip
    found = _scaling(times, spec)
    draws = compute_draws(_first(runs), times, designs=spec.designs, axes=spec.axes)
    by_name = {own.optimizer: own for own in draws}
    looks = compute_looks(study.manifest.history, runs, spec.model_dump(mode="json"))
    now = level(looks, len(spec.seeds), spec.primary.looks if spec.primary else ())
    return Verdicts(
        pairs=pairs,
        target=target,
        claims=compute_claims(spec, Evidence(runs=runs, curves=found, draws=draws, clipping=clipping), looks, now),
        looks=(*now.cautions, *looks.changed) if pairs else (),
        curves=found,
        regions=compute_regions(
            _first(runs), curves, target[0], target=target[1], designs=spec.designs, boxes=_boxes(spec)
        ),
        prices=compute_prices(draws),
        price_ratios=tuple(
            ratio for one, other in pairs for ratio in compute_price_ratios(by_name[one], by_name[other])
        ),
        why_not=tuple(why_not),
    )


def compute_results(study: Study) -> Results:
    """Compute all numbers of a study that has been read, finished or not."""
    spec, curves = study.manifest.spec, study.curves
    runs = _first(study.runs)
    designs, axes, boxes = spec.designs, spec.axes, _boxes(spec)
    start = curves[curves["step"] == 0]  # all that what a run counts with needs of the curves
    metrics = available_metrics(runs)
    target = spec.primary_target
    declared = [(name, level) for name, levels in spec.targets.items() for level in levels]
    times = {at: compute_times(study.runs, curves, *at) for at in declared}
    clipping = compute_clipping(study.runs, curves)
    verdicts = _verdicts(study, times[target] if target else None, clipping)
    pair = verdicts.pair
    shown = shown_metric(metrics, target)
    ordered = sorted(metrics, key=lambda metric: metric is not shown)
    maps = {str(metric.name): compute_maps(runs, start, metric, designs=designs, axes=axes) for metric in ordered}
    scaling: dict[TimeUnit, dict[str, tuple[ScalingCurve, ...]]] = {
        unit: {target_label(METRICS[name], at): _scaling(table, spec, unit) for (name, at), table in times.items()}
        for unit in UNITS
        if times
    }
    summary = compute_summary(study.runs)
    costs = compute_cost(study.runs)
    success = compute_success(runs, curves, shown.name, designs=designs) if shown else ()
    by_name = {surface.optimizer: surface for surface in success}
    of_one = {str(shown.name): maps[shown.name]} if shown else {}
    chosen = {which: choose_cells(maps if which == "best" else of_one, which) for which in CHOICES}
    return Results(
        study=study,
        metrics=metrics,
        summary=summary,
        cautions=compute_cautions(runs, summary, maps[shown.name] if shown else ()),
        verdicts=verdicts,
        maps=maps,
        curves=_chosen_curves(runs, curves, chosen),
        targets=compute_targets(runs, curves, spec.targets, designs=designs),
        scaling=scaling,
        profiles=compute_profiles(scaling["steps"]) if scaling else (),
        success=success,
        difference=compute_success_difference(by_name[pair[0]], by_name[pair[1]]) if pair and success else None,
        planes=compute_success_planes(_first(times[target])) if target else (),
        costs=costs,
        cost_ratios=compute_cost_ratios(costs, *pair) if pair else (),
        best_of_k=compute_best_of_k(runs, start, shown.name, designs=designs) if shown else (),
        own_regions=compute_regions(runs, start, shown.name, designs=designs, boxes=boxes) if shown else (),
        importance=compute_importance(runs, start, shown.name, designs=designs) if shown else (),
        lr_sensitivity=compute_lr_sensitivity(runs, start, shown.name) if shown else (),
        tunings=compute_tuning(runs, start, shown.name, designs=designs) if shown else (),
        time_splits=compute_time_split(runs),
        clipping=clipping,
    )


def _chosen_curves(
    runs: pd.DataFrame, curves: pd.DataFrame, chosen: Mapping[Choice, Mapping[str, tuple[str, ...]]]
) -> dict[Choice, dict[str, tuple[CellCurves, ...]]]:
    cells = {cell for of_choice in chosen.values() for of_metric in of_choice.values() for cell in of_metric}
    few_runs = runs[runs["cell_id"].isin(cells)]
    few = curves[curves["trial_id"].isin(few_runs["trial_id"])]
    return {
        which: {name: compute_curves(few_runs, few, METRICS[name], ids) for name, ids in of_choice.items()}
        for which, of_choice in chosen.items()
    }


def _boxes(spec: StudySpec) -> dict[str, Box]:
    return {name: {parameter: axis.bounds() for parameter, axis in axes.items()} for name, axes in spec.axes.items()}
