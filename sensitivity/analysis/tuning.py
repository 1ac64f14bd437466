"""Amount of tuning that an optimizer needs: one setting for all batch sizes, tunability, and effective dimension.

* One setting (after Adkins et al. 2024): the average loss over batch sizes from using the single setting that is best
  on average instead of the best setting at each batch size.
* Tunability (Probst et al. 2019): the risk of a default setting minus that of the best, at each batch size. Without a
  declared default, the default is the one setting for all batch sizes.
* Effective dimension: the smallest number of hyperparameters that have to be tuned, with the others at the default, to
  achieve 95% of the best setting's improvement over the untrained network.

The best setting is evaluated on seeds that did not select it (``honest``), to avoid the winner's curse. Losses are
positive, in units of the metric.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from sensitivity.analysis.designs import CHOSEN, Parameters, design_of, refusal
from sensitivity.analysis.estimates import Caution, Estimate, mean_over_seeds, refuse
from sensitivity.analysis.honest import widening
from sensitivity.analysis.names import optimizer_name
from sensitivity.analysis.scores import ScoreTable, score_tables
from sensitivity.study.hyperparameters import decades
from sensitivity.study.metrics import MetricName

PEAK = 0.95


@dataclass(frozen=True, kw_only=True)
class Tunability:
    """Tunability of an optimizer at a batch size."""

    batch_size: int
    gain: Estimate
    """Risk of the default minus that of the best setting."""
    best: Parameters
    """Best setting."""
    effective_dimension: int | None
    """Number of hyperparameters to tune; None without a grid, because draws don't fix the other hyperparameters."""
    to_tune: tuple[str, ...]
    """Names of these hyperparameters."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Amount of tuning that an optimizer needs."""

    optimizer: str
    metric: MetricName
    one_setting: Estimate
    """Mean loss from using one setting for all batch sizes; refused with one batch size."""
    setting: Parameters
    """The setting that is best on average over batch sizes."""
    default: Parameters
    """Default setting that `tunability` refers to: the configuration nearest to the declared default."""
    tunability: tuple[Tunability, ...]
    """Tunability by batch size, ascending."""


def compute_tuning(
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    metric: MetricName,
    *,
    defaults: Mapping[str, Mapping[str, float]] | None = None,
    designs: Mapping[str, str] | None = None,
) -> tuple[Tuning, ...]:
    """Return the tuning need per optimizer, in the order of the plan.

    `defaults` maps optimizers to their default hyperparameters.
    """
    found = []
    for table in score_tables(runs, curves, metric):
        design = design_of(runs[runs["optimizer"] == table.optimizer], table.optimizer, designs)
        found.append(_tuning(table, (defaults or {}).get(table.optimizer), design))
    return tuple(found)


def _tuning(table: ScoreTable, wanted: Mapping[str, float] | None, design: str) -> Tuning:
    if design in CHOSEN or not table.scores.size:
        why = refusal(table.optimizer, "tunability", design)
        if design not in CHOSEN:
            text = f"{optimizer_name(table.optimizer)}: no configuration has a result for every batch size and seed."
            why = Caution(code="no-result", text=text)
        nothing = Estimate(value=math.nan, refused=why)
        return Tuning(
            optimizer=table.optimizer, metric=table.metric, one_setting=nothing, setting=(), default=(), tunability=()
        )
    average = table.scores.mean(axis=0)
    one = int(average.mean(axis=0).argmin())
    default = one if wanted is None else _nearest(table, wanted)
    return Tuning(
        optimizer=table.optimizer,
        metric=table.metric,
        one_setting=_one_setting(table),
        setting=table.parameters(one),
        default=table.parameters(default),
        tunability=tuple(_tunability(table, place, default, design) for place in range(len(table.batch_sizes))),
    )


def _one_setting(table: ScoreTable) -> Estimate:
    if len(table.batch_sizes) < 2:
        return refuse(
            "one-batch-size", f"{optimizer_name(table.optimizer)}: with one batch size there is nothing to compare."
        )
    rows = table.judges
    shared = table.chosen(table.scores.mean(axis=0))
    own = np.array([scores[rows, table.chosen(scores)] for scores in table.scores])
    loss = (table.scores[:, rows, shared] - own).mean(axis=0)
    return _judged(table, mean_over_seeds(loss, widen=widening(table.method)))


def _judged(table: ScoreTable, estimate: Estimate) -> Estimate:
    """Add the warnings that apply to an estimate on evaluating seeds."""
    warnings = (*estimate.warnings, *table.warnings())
    if len(table.seeds) == 1:
        text = (
            f"{optimizer_name(table.optimizer)}: with one run per setting, the best setting is judged by the run that"
            " chose it, so its result is biased towards better."
        )
        warnings = (*warnings, Caution(code="winner", text=text))
    return replace(estimate, warnings=warnings)


def _tunability(table: ScoreTable, place: int, default: int, design: str) -> Tunability:
    scores, rows = table.scores[place], table.judges
    gain = scores[rows, default] - scores[rows, table.chosen(scores)]
    subset = _fewest(table, scores.mean(axis=0), default) if design == "grid" else None
    return Tunability(
        batch_size=table.batch_sizes[place],
        gain=_judged(table, mean_over_seeds(gain, widen=widening(table.method))),
        best=table.parameters(int(scores.mean(axis=0).argmin())),
        effective_dimension=None if subset is None else len(subset),
        to_tune=subset or (),
    )


def _fewest(table: ScoreTable, scores: np.ndarray, default: int) -> tuple[str, ...] | None:
    """Return the smallest set of hyperparameters whose tuning suffices, the best among those of its size."""
    if not math.isfinite(table.untrained) or scores.min() >= table.untrained:
        return None
    enough = table.untrained - PEAK * (table.untrained - scores.min())
    same = table.settings == table.settings[default]
    for size in range(len(table.names) + 1):
        reached = {
            names: float(
                scores[same[:, [k for k, name in enumerate(table.names) if name not in names]].all(axis=1)].min()
            )
            for names in itertools.combinations(table.names, size)
        }
        best = min(reached, key=reached.__getitem__)
        if reached[best] <= enough:
            return best
    return None


def _nearest(table: ScoreTable, wanted: Mapping[str, float]) -> int:
    """Return the configuration nearest to `wanted`, in decades, or in values of hyperparameters without log scale."""
    distance = np.zeros(len(table.settings))
    for column, name in enumerate(table.names):
        if name in wanted:
            values = np.append(table.settings[:, column], wanted[name])
            scaled = decades(name, values)
            scaled = values if np.isnan(scaled).any() else scaled
            distance += (scaled[:-1] - scaled[-1]) ** 2
    return int(distance.argmin())
