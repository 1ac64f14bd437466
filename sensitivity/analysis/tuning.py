"""How much tuning an optimizer needs: one setting for all batch sizes, tunability, and effective dimension.

* One setting (after Adkins et al. 2024): what is lost, on average over batch sizes, by using the one setting that is
  best on average instead of the best at each.
* Tunability (Probst et al. 2019): the risk of a default less that of the best, at each batch size. Without a default
  given, it is the one setting for all batch sizes.
* Effective dimension: the fewest hyperparameters that have to be tuned, the others at the default, for 95% of what
  the best gains over the untrained network.

What a best setting gains is judged on seeds that did not choose it (``honest``), or the best of many would flatter
itself. Losses are positive, in units of the metric.
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
    """Of an optimizer at a batch size."""

    batch_size: int
    gain: Estimate
    """Risk of the default less that of the best."""
    best: Parameters
    effective_dimension: int | None
    """None where it can't be told: draws hold nothing fixed."""
    to_tune: tuple[str, ...]
    """The hyperparameters that make it up."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How much tuning an optimizer needs."""

    optimizer: str
    metric: MetricName
    one_setting: Estimate
    """Mean loss by one setting for all batch sizes; refused with one batch size."""
    setting: Parameters
    """That one."""
    default: Parameters
    """What `tunability` is measured from: the configuration nearest to what was asked for."""
    tunability: tuple[Tunability, ...]
    """By batch size, rising."""


def compute_tuning(
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    metric: MetricName,
    *,
    defaults: Mapping[str, Mapping[str, float]] | None = None,
    designs: Mapping[str, str] | None = None,
) -> tuple[Tuning, ...]:
    """Return one for each optimizer, in the order of the plan; `defaults` names hyperparameters by optimizer."""
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
            "one-batch-size", f"{optimizer_name(table.optimizer)}: one batch size, so one setting serves them all."
        )
    rows = table.judges
    shared = table.chosen(table.scores.mean(axis=0))
    own = np.array([scores[rows, table.chosen(scores)] for scores in table.scores])
    loss = (table.scores[:, rows, shared] - own).mean(axis=0)
    return _judged(table, mean_over_seeds(loss, widen=widening(table.method)))


def _judged(table: ScoreTable, estimate: Estimate) -> Estimate:
    """Add what the estimate suffers from."""
    warnings = (*estimate.warnings, *table.warnings())
    if len(table.seeds) == 1:
        text = (
            f"{optimizer_name(table.optimizer)}: with one run of each, the best setting is judged by the run that"
            " chose it: it flatters itself."
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
    """Return the smallest set of hyperparameters whose tuning gains enough, the best of its size."""
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
    """Return the configuration nearest to `wanted` in decades; a hyperparameter without any by its value."""
    distance = np.zeros(len(table.settings))
    for column, name in enumerate(table.names):
        if name in wanted:
            values = np.append(table.settings[:, column], wanted[name])
            scaled = decades(name, values)
            scaled = values if np.isnan(scaled).any() else scaled
            distance += (scaled[:-1] - scaled[-1]) ** 2
    return int(distance.argmin())
