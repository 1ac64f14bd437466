"""The tuning curve: the expected best metric of k trials, against k and against their device-seconds.

A trial is one run, with one seed, of one configuration drawn from the declared box. From N independent draws, the mean
over all subsets of size k (a U-statistic) estimates the expected best of k without bias; it is computed per seed and
averaged over seeds. The band is that of Dvoretzky, Kiefer and Wolfowitz (with Massart's constant) for the distribution
of scores, propagated through the expectation: it holds for all k simultaneously, is conservative, and does not
collapse at k = N as the spread of random shuffles does. Outside the range of the N draws it assumes only that no loss
is below 0 and no accuracy above 1.

For a grid, which is a quadrature of its box, the curve is that of draws from its points with replacement (the
V-statistic, Dodge et al. 2019), and the interval covers seed noise only. Adaptive searches and settings of unknown
origin are refused.

Seconds are k times the mean device-seconds of a trial, evaluation included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import gammaln

from sensitivity.analysis.designs import CHOSEN, design_of, is_crossed, refusal, varying
from sensitivity.analysis.estimates import Caution, Floats
from sensitivity.analysis.intervals import LEVEL, t_half_width
from sensitivity.analysis.names import at_batch_size
from sensitivity.analysis.outcomes import OBSERVED, counted_values, untrained_values
from sensitivity.analysis.rates import OF_SEEDS, TINY
from sensitivity.study.metrics import METRICS, MetricName
from sensitivity.study.section import CONFIRMATION_SEEDS

OF_DISTRIBUTION = "the draw of configurations, for all k at once (Dvoretzky-Kiefer-Wolfowitz)"
_ALL_K = 100
"""Up to this many trials, the curve has every k; beyond, this many values of k, evenly spaced in log k."""


@dataclass(frozen=True, kw_only=True)
class BestOfK:
    """The tuning curve of an optimizer at a batch size; tuples have one entry per value of `k`."""

    optimizer: str
    batch_size: int
    metric: MetricName
    k: tuple[int, ...]
    seconds: tuple[float, ...]
    """Expected device-seconds of k trials; NaN where the table has no times."""
    expected: tuple[float, ...]
    """Expected best value of the metric."""
    low: tuple[float, ...]
    """Lower end of its interval; NaN without an interval."""
    high: tuple[float, ...]
    covers: str
    """Source of uncertainty that the interval covers."""
    configurations: int
    """Number of configurations, N."""
    seeds: int
    warnings: tuple[Caution, ...]
    refused: Caution | None = None


def expected_best(scores: Floats, k: np.ndarray, *, replacement: bool = False) -> Floats:
    """Return the expected maximum of k draws from `scores`, without or with replacement, for each value in `k` [k].

    Scores are [N] or [N, columns]; the result is [k] or [k, columns]. Without replacement, every k is at most N.
    """
    n, ordered = len(scores), np.sort(scores, axis=0)
    rank, count = np.arange(1, n + 1, dtype=float), np.asarray(k, dtype=float)[:, None]
    if replacement:
        weights = (rank / n) ** count - ((rank - 1) / n) ** count
    else:  # C(i-1, k-1) / C(n, k): the best of k is the i-th
        possible = rank >= count
        i = np.where(possible, rank, count)
        logs = gammaln(i) - gammaln(count) - gammaln(i - count + 1)
        logs = logs - (gammaln(n + 1) - gammaln(count + 1) - gammaln(n - count + 1))
        weights = np.where(possible, np.exp(logs), 0.0)
    return np.asarray(weights @ ordered)


def best_of_k_band(scores: Floats, k: np.ndarray, n: int, support: tuple[float, float]) -> tuple[Floats, Floats]:
    """Return the confidence band of the expected maximum of `k` [k] draws from `n` independent configurations.

    `scores` is [runs], possibly several runs per configuration; `support` is the smallest and the largest possible
    score.
    """
    margin = math.sqrt(math.log(2 / (1 - LEVEL)) / (2 * n))
    ordered = np.concatenate([[support[0]], np.sort(scores), [support[1]]])
    share = np.concatenate([np.arange(len(scores) + 1) / len(scores), [1.0]])
    power = np.asarray(k, dtype=float)[:, None]
    bounds = []
    for distribution in (np.minimum(share + margin, 1.0), np.maximum(share - margin, 0.0)):
        distribution[-1] = 1.0
        mass = np.diff(np.concatenate([np.zeros((len(power), 1)), distribution**power], axis=1), axis=1)
        bounds.append(mass @ ordered)
    return bounds[0], bounds[1]


def compute_best_of_k(
    runs: pd.DataFrame, curves: pd.DataFrame, metric: MetricName, *, designs: Mapping[str, str] | None = None
) -> tuple[BestOfK, ...]:
    """Return a curve per optimizer, in the order of the plan, and batch size, ascending."""
    untrained = float(untrained_values(runs, curves, METRICS[metric]).median())
    valued = runs.assign(value=counted_values(runs, curves, METRICS[metric]))
    valued = valued[valued["seed"] < CONFIRMATION_SEEDS]
    found = []
    for optimizer, of_optimizer in valued.groupby("optimizer", sort=False):
        design = design_of(of_optimizer, str(optimizer), designs)
        for batch_size, rows in of_optimizer.groupby("batch_size"):
            at = (str(optimizer), int(str(batch_size)), metric)
            if design in CHOSEN:
                found.append(_empty(*at, refusal(str(optimizer), "a best-of-k curve", design)))
            else:
                found.append(_curve(rows, *at, untrained, drawn=design == "drawn"))
    return tuple(found)


def _empty(optimizer: str, batch_size: int, metric: MetricName, why: Caution) -> BestOfK:
    return BestOfK(
        optimizer=optimizer,
        batch_size=batch_size,
        metric=metric,
        k=(),
        seconds=(),
        expected=(),
        low=(),
        high=(),
        covers="",
        configurations=0,
        seeds=0,
        warnings=(),
        refused=why,
    )


def _curve(
    rows: pd.DataFrame, optimizer: str, batch_size: int, metric: MetricName, untrained: float, *, drawn: bool
) -> BestOfK:
    sign = -1.0 if METRICS[metric].lower_is_better else 1.0
    observed = rows[rows["status"].isin(OBSERVED) & rows["value"].notna()]
    scored = observed.assign(score=sign * observed["value"])
    if drawn and not is_crossed(rows, varying(rows)):
        scored = scored.assign(cell_id=scored["trial_id"], seed=0)  # a run is a draw of a setting and a seed
    whole = scored.pivot_table(index="cell_id", columns="seed", values="score", aggfunc="first").dropna()
    where = at_batch_size(optimizer, batch_size)
    if not len(whole):
        text = f"{where}: no configuration has a result for every seed."
        return _empty(optimizer, batch_size, metric, Caution(code="no-result", text=text))
    scores: Floats = whole.to_numpy(dtype=float)
    n, seeds = scores.shape
    k = np.arange(1, n + 1) if n <= _ALL_K else np.unique(np.geomspace(1, n, _ALL_K).round().astype(int))
    by_seed = expected_best(scores, k, replacement=not drawn)
    expected = by_seed.mean(axis=1)
    if drawn:
        best = sign * METRICS[metric].quantity.perfect
        perfect = best if math.isfinite(best) else scores.max()  # unbounded metric: the largest observed score
        worst = np.nanmin([scores.min(), sign * untrained])
        low, high = best_of_k_band(scores.ravel(), k, n, (worst, max(perfect, scores.max())))
    else:
        deviation = by_seed.std(axis=1, ddof=1) if seeds > 1 else np.zeros(len(k))
        half = t_half_width(np.where(deviation > TINY, deviation, np.nan), np.full(len(k), seeds))
        low, high = expected - half, expected + half
    seconds = float((observed["train_seconds"] + observed["eval_seconds"]).mean())
    bounds = (low, high) if sign > 0 else (-high, -low)
    return BestOfK(
        optimizer=optimizer,
        batch_size=batch_size,
        metric=metric,
        k=tuple(int(count) for count in k),
        seconds=tuple(float(count * seconds) for count in k),
        expected=tuple(float(value) for value in sign * expected),
        low=tuple(float(value) for value in bounds[0]),
        high=tuple(float(value) for value in bounds[1]),
        covers=OF_DISTRIBUTION if drawn else OF_SEEDS,
        configurations=n,
        seeds=seeds,
        warnings=_warnings(where, n, int(rows["cell_id"].nunique()), drawn=drawn),
    )


def _warnings(where: str, used: int, planned: int, *, drawn: bool) -> tuple[Caution, ...]:
    found = []
    if used < planned:
        text = f"{where}: {used:,} of {planned:,} configurations have a result for every seed and are used."
        found.append(Caution(code="incomplete", text=text))
    if not drawn:
        text = f"{where}: a grid's points are chosen, not drawn. The curve is that of draws from these points."
        found.append(Caution(code="grid", text=text))
    return tuple(found)
