"""Success rates of configurations over seeds, for many targets at once, with an interval that depends on the design.

A rate is the mean over configurations of the fraction of their seeds that succeed. For draws, it estimates the
probability that a configuration drawn from the declared box reaches the target. Its interval is Wilson's; the seeds of
one configuration are not independent draws, so the number of draws is the effective one, from the variance between
configurations (as in a bootstrap over configurations). For a grid, the rate is a quadrature of the box with equal
weights, and its interval covers seed noise only.

Arrays: success is [runs, targets]; results are [targets], NaN without a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sensitivity.analysis.estimates import Floats
from sensitivity.analysis.intervals import t_half_width, wilson_interval
from sensitivity.analysis.outcomes import LARGEST, OBSERVED, SOUND
from sensitivity.study.metrics import METRICS, MetricName
from sensitivity.study.results import Status

OF_DRAWS = "the draw of configurations from the declared box (Wilson, by configuration)"
OF_SEEDS = "seed noise only: settings between the points of a grid aren't covered"


TINY = 1e-9
"""Scatter below this value is rounding error."""


@dataclass(frozen=True, eq=False)
class Rates:
    """Success rates of one optimizer at one batch size, arrays [targets]."""

    share: Floats
    low: Floats
    high: Floats
    per_seed: Floats
    """[seeds, targets] success rate over configurations for each seed."""
    seeds: tuple[int, ...]
    configurations: int
    """Number of configurations with a result."""
    runs: int
    """Number of runs with a result."""


def best_values(runs: pd.DataFrame, curves: pd.DataFrame, metric: MetricName) -> pd.Series[float]:
    """Return the best value of each completed or stopped run, with the index of `runs`; NaN for other runs.

    A completed run meets a target within its budget if and only if this value does.
    """
    sign = 1.0 if METRICS[metric].lower_is_better else -1.0
    values = sign * curves[metric].astype(float)
    values = values.where(np.isfinite(values)).clip(-LARGEST, LARGEST)
    best = values.groupby(curves["trial_id"], sort=False).min() * sign
    return runs["trial_id"].map(best).astype(float).where(runs["status"].isin(SOUND))


def successes(best: pd.Series[float], metric: MetricName, targets: Floats) -> NDArray[np.bool_]:
    """Return whether the runs with `best` values met each of `targets`: [runs, targets]."""
    values = best.to_numpy(dtype=float)[:, None]
    return values <= targets if METRICS[metric].lower_is_better else values >= targets


def compute_rates(runs: pd.DataFrame, success: NDArray[np.bool_], *, drawn: bool) -> Rates:
    """Return the success rates of the runs of one optimizer at one batch size; `success` is [runs, targets].

    Runs without a result are left out, because they are no evidence about the optimizer; callers report their number.
    """
    observed = runs["status"].isin(OBSERVED).to_numpy()
    table = pd.DataFrame(success[observed].astype(float))
    cells, seeds = runs["cell_id"].to_numpy()[observed], runs["seed"].to_numpy()[observed]
    by_cell = table.groupby(cells, sort=False).mean().to_numpy()
    by_seed = table.groupby(seeds, sort=True).mean()
    per_seed, n = by_seed.to_numpy(), len(by_cell)
    if n == 0:
        nothing = np.full(success.shape[1], np.nan)
        return Rates(nothing, nothing, nothing, per_seed, (), 0, 0)
    share = by_cell.mean(axis=0)
    low, high = _of_draws(by_cell, share, len(table)) if drawn else _of_seeds(per_seed, share)
    return Rates(share, low, high, per_seed, tuple(int(seed) for seed in by_seed.index), n, len(table))


def _of_draws(by_cell: Floats, share: Floats, runs: int) -> tuple[Floats, Floats]:
    n = len(by_cell)
    variance = by_cell.var(axis=0, ddof=1) / n if n > 1 else np.zeros_like(share)
    with np.errstate(divide="ignore", invalid="ignore"):
        effective = np.where(variance > 0, share * (1 - share) / variance, n)
    return wilson_interval(share, np.clip(effective, n, max(n, runs)))


def _of_seeds(per_seed: Floats, share: Floats) -> tuple[Floats, Floats]:
    """Return Student's t interval over seeds; NaN below two seeds, or if all seeds agree."""
    n = len(per_seed)
    deviation = per_seed.std(axis=0, ddof=1) if n > 1 else np.zeros_like(share)
    half = t_half_width(np.where(deviation > TINY, deviation, np.nan), np.full(len(share), n))
    return np.clip(share - half, 0.0, 1.0), np.clip(share + half, 0.0, 1.0)


def rate_targets(metric: MetricName, untrained: float, best: float, count: int = 24) -> tuple[float, ...]:
    """Return `count` levels from the untrained network to the best value, evenly spaced on the metric's scale."""
    quantity = METRICS[metric].quantity
    if quantity.scale == "distance" and quantity.distance(untrained) > 0:
        sign = 1.0 if quantity.lower_is_better else -1.0
        worst, least = quantity.distance(untrained), max(quantity.distance(best), 1e-3)
        return tuple(float(quantity.perfect + sign * level) for level in np.geomspace(worst, least, count + 1)[1:])
    if best <= 0 or untrained <= 0 or quantity.scale == "linear":
        return tuple(float(level) for level in np.linspace(untrained, best, count + 1)[1:])
    return tuple(float(level) for level in np.geomspace(untrained, best, count + 1)[1:])


def counts_by_status(runs: pd.DataFrame) -> Mapping[str, int]:
    """Return the number of planned runs per status."""
    count = runs["status"].value_counts()
    return {status.value: int(count.get(status.value, 0)) for status in Status}
