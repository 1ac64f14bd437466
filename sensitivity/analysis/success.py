"""Success rates over batch size and target, and their differences between optimizers.

A run succeeds if it reaches the target within the budget; a diverged run never does (``times``). The design determines
what a rate estimates and what its interval covers (``rates``). Adaptive searches and settings of unknown origin are
refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sensitivity.analysis.designs import CHOSEN, Design, design_of, refusal
from sensitivity.analysis.estimates import Caution, Estimate, Floats
from sensitivity.analysis.intervals import t_half_width
from sensitivity.analysis.names import optimizer_name
from sensitivity.analysis.rates import (
    OF_DRAWS,
    OF_SEEDS,
    TINY,
    Rates,
    best_values,
    compute_rates,
    counts_by_status,
    rate_targets,
    successes,
)
from sensitivity.study.metrics import METRICS, MetricName


@dataclass(frozen=True, kw_only=True, eq=False)
class SuccessSurface:
    """The success rate of an optimizer over batch size x target; arrays are [batches, targets]."""

    optimizer: str
    metric: MetricName
    design: Design
    batch_sizes: tuple[int, ...]
    targets: tuple[float, ...]
    """Targets from the easiest to the hardest."""
    rate: Floats
    """Success rates; NaN without a result, or if refused."""
    low: Floats
    """Lower ends of the intervals; NaN without an interval."""
    high: Floats
    """Upper ends of the intervals."""
    covers: str
    """Source of uncertainty that the intervals cover."""
    planned: tuple[int, ...]
    """Number of planned runs, per batch size."""
    runs: tuple[int, ...]
    """Number of runs with a result, per batch size; the rates are over these."""
    configurations: tuple[int, ...]
    """Number of configurations with a result, per batch size."""
    seeds: int
    warnings: tuple[Caution, ...]
    refused: Caution | None
    """Reason why there are no rates; None if there are."""
    at_batch: tuple[Rates, ...]
    """Rates per batch size, from which the arrays are made; empty if refused."""

    def at(self, batch_size: int, target: float) -> Estimate:
        """Return the rate at one of `batch_sizes` and `targets`."""
        row, column = self.batch_sizes.index(batch_size), self.targets.index(target)
        low, high = float(self.low[row, column]), float(self.high[row, column])
        return Estimate(
            value=float(self.rate[row, column]),
            interval=None if math.isnan(low) else (low, high),
            n=0 if self.refused else self.seeds if self.design == "grid" else self.configurations[row],
            of="seeds" if self.design == "grid" else "configurations",
            covers="" if math.isnan(low) else self.covers,
            warnings=self.warnings,
            refused=self.refused,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class SuccessDifference:
    """`candidate` minus `reference`; arrays are [batches, targets] over the batch sizes that both have."""

    candidate: str
    reference: str
    metric: MetricName
    batch_sizes: tuple[int, ...]
    targets: tuple[float, ...]
    difference: Floats
    low: Floats
    """Lower ends of the intervals; NaN without an interval."""
    high: Floats
    covers: str
    warnings: tuple[Caution, ...]


def compute_success(
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    metric: MetricName,
    targets: Sequence[float] | None = None,
    *,
    designs: Mapping[str, str] | None = None,
) -> tuple[SuccessSurface, ...]:
    """Return a surface per optimizer, in the order of the plan.

    Without `targets`, the levels range from the untrained network's value to the best value of any run. `designs` maps
    each optimizer to its design, as in the study file.
    """
    best = best_values(runs, curves, metric)
    lower = METRICS[metric].lower_is_better
    if targets is None:
        start = curves.loc[curves["step"] == 0, metric]
        top = float(best.min() if lower else best.max())
        known = not math.isnan(top) and start.notna().any()
        targets = rate_targets(metric, float(start.median()), top) if known else ()
    levels = np.array(sorted(targets, reverse=lower), dtype=float)
    met = successes(best, metric, levels)
    surfaces = []
    for optimizer, places in runs.reset_index(drop=True).groupby("optimizer", sort=False).indices.items():
        surfaces.append(_surface(runs.iloc[places], met[places], str(optimizer), metric, levels, designs))
    order = list(runs["optimizer"].unique())
    return tuple(sorted(surfaces, key=lambda surface: order.index(surface.optimizer)))


def _surface(
    runs: pd.DataFrame,
    met: np.ndarray,
    optimizer: str,
    metric: MetricName,
    levels: Floats,
    designs: Mapping[str, str] | None,
) -> SuccessSurface:
    design = design_of(runs, optimizer, designs)
    groups = {int(str(size)): places for size, places in runs.groupby("batch_size").indices.items()}
    sizes = tuple(sorted(groups))
    why = refusal(optimizer, "a success rate", design) if design in CHOSEN else None
    rates = (
        ()
        if why
        else tuple(compute_rates(runs.iloc[groups[b]], met[groups[b]], drawn=design == "drawn") for b in sizes)
    )
    empty = np.full((len(sizes), len(levels)), np.nan)
    return SuccessSurface(
        optimizer=optimizer,
        metric=metric,
        design=design,
        batch_sizes=sizes,
        targets=tuple(float(level) for level in levels),
        rate=np.array([r.share for r in rates]) if rates else empty,
        low=np.array([r.low for r in rates]) if rates else empty,
        high=np.array([r.high for r in rates]) if rates else empty,
        covers=OF_SEEDS if design == "grid" else OF_DRAWS,
        planned=tuple(len(groups[b]) for b in sizes),
        runs=tuple(r.runs for r in rates),
        configurations=tuple(r.configurations for r in rates),
        seeds=int(runs["seed"].nunique()),
        warnings=_warnings(runs, optimizer),
        refused=why,
        at_batch=rates,
    )


def _warnings(runs: pd.DataFrame, optimizer: str) -> tuple[Caution, ...]:
    count = counts_by_status(runs)
    without = count["failed"] + count["interrupted"] + count["pending"]
    warnings = []
    if without:
        text = (
            f"{optimizer_name(optimizer)}: rates are of the {len(runs) - without:,} runs with a result of {len(runs):,}"
            f" planned; {count['failed']:,} failed and {count['interrupted'] + count['pending']:,} wait."
        )
        warnings.append(Caution(code="incomplete", text=text))
    if count["stopped"]:
        text = f"{optimizer_name(optimizer)}: {count['stopped']:,} runs were stopped early: rates are lower bounds."
        warnings.append(Caution(code="stopped", text=text))
    return tuple(warnings)


def compute_success_difference(candidate: SuccessSurface, reference: SuccessSurface) -> SuccessDifference:
    """Return the difference of two surfaces with the same targets.

    For two grids, the interval is Student's t paired by seed. For draws, the two rates are independent, and the
    interval combines their Wilson intervals (Newcombe 1998, method 10). For a grid and draws, there is no interval.

    Raises:
        ValueError: the surfaces have different targets.
    """
    if candidate.targets != reference.targets:
        raise ValueError("a difference needs two surfaces over the same targets")
    sizes = tuple(size for size in candidate.batch_sizes if size in reference.batch_sizes)
    refused = [surface.refused for surface in (candidate, reference) if surface.refused]
    shape = (len(sizes), len(candidate.targets))
    difference, low, high = np.full((3, *shape), np.nan)
    designs = {candidate.design, reference.design}
    for row, size in enumerate(() if refused else sizes):
        one = candidate.at_batch[candidate.batch_sizes.index(size)]
        other = reference.at_batch[reference.batch_sizes.index(size)]
        difference[row] = one.share - other.share
        if designs == {"grid"}:
            half = _paired_half_width(one, other)
            low[row], high[row] = difference[row] - half, difference[row] + half
        elif designs == {"drawn"}:
            low[row], high[row] = newcombe_interval(one, other)
    return SuccessDifference(
        candidate=candidate.optimizer,
        reference=reference.optimizer,
        metric=candidate.metric,
        batch_sizes=sizes,
        targets=candidate.targets,
        difference=difference,
        low=np.clip(low, -1.0, 1.0),
        high=np.clip(high, -1.0, 1.0),
        covers={"grid": OF_SEEDS, "drawn": OF_DRAWS}.get(next(iter(designs)), "") if len(designs) == 1 else "",
        warnings=(*candidate.warnings, *reference.warnings, *refused),
    )


def newcombe_interval(one: Rates, other: Rates) -> tuple[Floats, Floats]:
    """Return the interval of the difference of two independent rates, [targets] each, from their intervals."""
    difference = one.share - other.share
    low = difference - np.hypot(one.share - one.low, other.high - other.share)
    high = difference + np.hypot(one.high - one.share, other.share - other.low)
    return low, high


def _paired_half_width(one: Rates, other: Rates) -> Floats:
    shared = sorted(set(one.seeds) & set(other.seeds))
    pairs = np.array([one.per_seed[one.seeds.index(s)] - other.per_seed[other.seeds.index(s)] for s in shared])
    if len(pairs) < 2:
        return np.full(len(one.share), np.nan)
    deviation = pairs.std(axis=0, ddof=1)
    return t_half_width(np.where(deviation > TINY, deviation, np.nan), np.full(pairs.shape[1], len(pairs)))
