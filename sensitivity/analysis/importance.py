"""Hyperparameter importance: functional ANOVA in log coordinates, with main effects and pairwise interactions.

The variance of the metric over the declared prior is decomposed into the main effect of each hyperparameter, the
interaction of each pair, and the rest. The prior is uniform in decades, so the coordinates are logarithms: linear
coordinates would underestimate the share of a log-uniform learning rate severalfold.

For a full grid the decomposition is exact (means over the grid's rows and columns), and the contribution of seed noise
is subtracted (``jackknife``). For random or Sobol draws it is the decomposition of a regression forest fitted to the
means over seeds (``forest``), and its interval covers the draw of configurations. Values are capped at the untrained
network's, because diverged runs would otherwise dominate the variance.

K-FAC is expected to have a ridge in the plane, along which a larger learning rate goes with a larger damping; a
decomposition along the axes shows it as interaction. The result therefore also has the variance that the ridge
coordinates explain: log(lr / damping), across the ridge, and log(lr damping), along it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from sensitivity.analysis.designs import CHOSEN, design_of, refusal
from sensitivity.analysis.estimates import Caution, Estimate, Floats
from sensitivity.analysis.forest import forest_variances
from sensitivity.analysis.jackknife import Part, over_draws, over_seeds
from sensitivity.analysis.names import at_batch_size
from sensitivity.analysis.rates import OF_SEEDS
from sensitivity.analysis.scores import ScoreTable, score_tables
from sensitivity.study.hyperparameters import decades, ridge
from sensitivity.study.metrics import MetricName

OF_FOREST = "the draw of configurations (jackknife)"
FOREST = (
    "Shares are of the variance that a regression forest explains, and need 100 draws or more. A forest smooths a"
    " cliff, so the shares of pairs are too small (.16 instead of .22 with 256 draws) and have no interval."
)
SINGLE = Caution(code="single-seed", text="One seed: its noise counts as an effect, mostly of pairs.")


@dataclass(frozen=True, kw_only=True)
class Share:
    """Share of the variance that a hyperparameter, or the interaction of a pair, explains."""

    names: tuple[str, ...]
    share: Estimate


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Decomposition of the variance of an optimizer's metric at a batch size."""

    optimizer: str
    batch_size: int
    metric: MetricName
    method: str
    """"exact" (ANOVA of a grid) or "forest"."""
    shares: tuple[Share, ...]
    """Main effects, then pairs, each in descending order."""
    ridge: tuple[Share, ...]
    """Share that each coordinate of a ridge explains alone, such as lr / damping (``ridge_names``); empty unless both
    hyperparameters vary. They need not add up to 1."""
    deviation: float
    """Standard deviation of the metric over the box, whose square is decomposed."""
    warnings: tuple[Caution, ...]
    refused: Caution | None = None

    def share_of(self, *names: str) -> Estimate:
        """Return the share of a hyperparameter, or of a pair in either order."""
        return next(share.share for share in (*self.shares, *self.ridge) if set(share.names) == set(names))


def compute_importance(
    runs: pd.DataFrame, curves: pd.DataFrame, metric: MetricName, *, designs: Mapping[str, str] | None = None
) -> tuple[Importance, ...]:
    """Return the importance per optimizer, in the order of the plan, and batch size, ascending."""
    found = []
    for table in score_tables(runs, curves, metric):
        design = design_of(runs[runs["optimizer"] == table.optimizer], table.optimizer, designs)
        found += [_importance(table, place, design) for place in range(len(table.batch_sizes))]
    return tuple(found)


def _importance(table: ScoreTable, place: int, design: str) -> Importance:
    empty = Importance(
        optimizer=table.optimizer,
        batch_size=table.batch_sizes[place],
        metric=table.metric,
        method="",
        shares=(),
        ridge=(),
        deviation=math.nan,
        warnings=table.warnings(),
    )
    where = at_batch_size(table.optimizer, empty.batch_size)
    if design in CHOSEN:
        return replace(empty, refused=refusal(table.optimizer, "importance", design))
    # [seeds, configurations]
    scores = np.minimum(table.scores[place], table.untrained if math.isfinite(table.untrained) else math.inf)
    if not scores.size or scores.shape[1] < 3 or np.ptp(scores.mean(axis=0)) == 0:
        text = f"{where}: fewer than three configurations, or all alike, so there is no variance to decompose."
        return replace(empty, refused=Caution(code="no-variance", text=text))
    levels = [np.unique(column) for column in table.settings.T]
    whole = math.prod(len(values) for values in levels) == scores.shape[1]
    if design == "grid" and not whole:
        text = f"{where}: the grid has holes (failed or waiting runs), so its variance can't be decomposed. Finish it."
        return replace(empty, refused=Caution(code="incomplete", text=text))
    x = _positions(table)
    pair = ridge(table.names)
    lines = [table.names.index(name) for name in pair] if pair else []
    if design == "grid":
        shape = tuple(len(values) for values in levels)
        cells = np.ravel_multi_index(
            tuple(np.searchsorted(v, c) for v, c in zip(levels, table.settings.T, strict=True)), shape
        )
        grid = np.empty_like(scores)
        grid[:, cells] = scores
        parts = over_seeds(lambda rows: grid_variances(rows.reshape(-1, *shape)), grid)
        across = over_seeds(lambda rows: _ridge_variances(x[:, lines], rows), scores) if pair else []
        note = Caution(
            code="grid",
            text="Exact on the grid's points, which have equal weights; the interval covers seed noise only.",
        )
    else:
        mean = scores.mean(axis=0, keepdims=True)
        parts = over_draws(forest_variances, x, mean)
        across = over_draws(lambda at, rows: _ridge_variances(at[:, lines], rows), x, mean) if pair else []
        note = Caution(code="forest", text=FOREST)
    noisy = () if design != "grid" or len(scores) > 1 else (SINGLE,)
    n, of = (len(scores), "seeds") if design == "grid" else (scores.shape[1], "configurations")
    return replace(
        empty,
        method="exact" if design == "grid" else "forest",
        shares=_shares(parts, table.names, n, of),
        ridge=_shares(across, ridge_names(pair), n, of) if pair else (),
        deviation=float(scores.mean(axis=0).std()),
        warnings=(*table.warnings(), note, *noisy),
    )


def _positions(table: ScoreTable) -> Floats:
    """Return the configurations in decades [configurations, names]; hyperparameters without a log scale as ranks."""
    columns = []
    for name, values in zip(table.names, table.settings.T, strict=True):
        scaled = decades(name, values)
        columns.append(np.unique(values, return_inverse=True)[1].astype(float) if np.isnan(scaled).any() else scaled)
    return np.stack(columns, axis=1)


def grid_variances(grid: Floats) -> dict[tuple[int, ...], Floats]:
    """Return the variance of each main effect and each interaction in `grid` [seeds, *levels], [seeds] each.

    The total variance has the key (). Points have equal weights.
    """
    dimensions = range(grid.ndim - 1)
    centred = grid - grid.mean(axis=tuple(range(1, grid.ndim)), keepdims=True)

    def marginal(kept: tuple[int, ...]) -> Floats:
        summed = tuple(k + 1 for k in dimensions if k not in kept)
        return np.asarray((centred.mean(axis=summed) ** 2).reshape(len(grid), -1).mean(axis=1))

    mains: dict[tuple[int, ...], Floats] = {(k,): marginal((k,)) for k in dimensions}
    pairs: dict[tuple[int, ...], Floats] = {
        (a, b): marginal((a, b)) - mains[(a,)] - mains[(b,)] for a, b in itertools.combinations(dimensions, 2)
    }
    return {(): marginal(tuple(dimensions)), **mains, **pairs}


def ridge_names(pair: tuple[str, str]) -> tuple[str, str]:
    """Return the names of the coordinates across and along the ridge of two hyperparameters."""
    return f"{pair[0]} / {pair[1]}", f"{pair[0]} · {pair[1]}"


def _ridge_variances(x: Floats, scores: Floats) -> dict[tuple[int, ...], Floats]:
    """Return the variance that the ratio of two hyperparameters explains alone, and the product alone.

    `x` [configurations, 2] is in decades; the result has the form of `grid_variances`. The box is no product set in the
    rotated coordinates, so each share is that of one coordinate with the other averaged out, and they need not add up
    to one.
    """
    return {
        (): scores.var(axis=1),
        (0,): explained(x[:, 0] - x[:, 1], scores),
        (1,): explained(x[:, 0] + x[:, 1], scores),
    }


def explained(coordinate: Floats, scores: Floats) -> Floats:
    """Return the variance of `scores` [seeds, configurations] that the means at each value of `coordinate` explain.

    If most values are distinct, as for draws, they are grouped into about sqrt(n) quantile bins. The result, [seeds],
    is corrected for the variance that the same number of means of pure noise would explain.
    """
    n = len(coordinate)
    values, place = np.unique(np.round(coordinate, 6), return_inverse=True)
    if len(values) > n / 2:
        ranks = coordinate.argsort().argsort()
        place = ranks * round(math.sqrt(n)) // n
    counts = np.bincount(place)
    member = np.zeros((n, len(counts)))
    member[np.arange(n), place] = 1.0
    means = (scores @ member) / counts
    within = ((scores - means[:, place]) ** 2).sum(axis=1) / max(n - len(counts), 1)
    return np.asarray(scores.var(axis=1) - within * (n - 1) / n)


def _shares(parts: list[Part], names: tuple[str, ...], n: int, of: str) -> tuple[Share, ...]:
    found = []
    for size in (1, 2):
        own = []
        for key, share, half in parts:
            if len(key) == size:
                value = min(max(share, 0.0), 1.0)
                ends = (min(max(share - half, 0.0), value), max(min(share + half, 1.0), value))
                known = not math.isnan(half) and (of == "seeds" or size == 1)
                covers = "" if not known else OF_SEEDS if of == "seeds" else OF_FOREST
                estimate = Estimate(value=value, interval=ends if known else None, n=n, of=of, covers=covers)
                own.append(Share(names=tuple(names[k] for k in key), share=estimate))
        found += sorted(own, key=lambda one: -one.share.value)
    return tuple(found)
