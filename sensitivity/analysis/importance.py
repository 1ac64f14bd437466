"""Which hyperparameters matter: functional ANOVA in log coordinates, main effects and pairs.

The variance of the metric over the declared prior is split into what each hyperparameter explains alone, what each
pair explains beyond that, and the rest. The prior is uniform in decades, so the coordinates are logarithms: in linear
ones a log-uniform learning rate's share is understated severalfold.

On a full grid the decomposition is exact (means over the grid's rows and columns), and what the noise of seeds adds to
it is taken off (``jackknife``). Of random or Sobol draws it is that of a forest's regression of the mean over seeds
(``forest``), and its interval covers the draw of configurations. Values are capped at the untrained network's, or
diverged runs would be all there is to see.

K-FAC's plane is expected to show a ridge, a large learning rate going with a large damping, which a split along the
axes shows as interaction. So the result also has what the ridge coordinates explain: log(lr / damping), across the
ridge, and log(lr damping), along it.
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
    "Of a forest's regression: shares of what it can explain, best with 100 draws or more. A cliff looks like a slope"
    " to it, which makes pairs too small (.16 where .22 is true, of 256 draws), so they have no interval."
)
SINGLE = Caution(code="single-seed", text="One seed: its noise counts as an effect, of pairs above all.")


@dataclass(frozen=True, kw_only=True)
class Share:
    """The share of variance of a hyperparameter, or of a pair beyond its two."""

    names: tuple[str, ...]
    share: Estimate


@dataclass(frozen=True, kw_only=True)
class Importance:
    """The decomposition of an optimizer at a batch size."""

    optimizer: str
    batch_size: int
    metric: MetricName
    method: str
    """exact (a grid's ANOVA) or forest."""
    shares: tuple[Share, ...]
    """Mains, then pairs, each in falling order."""
    ridge: tuple[Share, ...]
    """What each coordinate of a ridge explains alone, such as lr / damping (``ridge_names``), where both vary; else
    empty. They need not add up to 1."""
    deviation: float
    """Standard deviation of the metric over the box: what the shares are of."""
    warnings: tuple[Caution, ...]
    refused: Caution | None = None

    def share_of(self, *names: str) -> Estimate:
        """Return the share of a hyperparameter or a pair, in any order."""
        return next(share.share for share in (*self.shares, *self.ridge) if set(share.names) == set(names))


def compute_importance(
    runs: pd.DataFrame, curves: pd.DataFrame, metric: MetricName, *, designs: Mapping[str, str] | None = None
) -> tuple[Importance, ...]:
    """Return one for each optimizer, in the order of the plan, and batch size, rising."""
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
        text = f"{where}: fewer than three configurations, or all alike, so there is no variance to split."
        return replace(empty, refused=Caution(code="no-variance", text=text))
    levels = [np.unique(column) for column in table.settings.T]
    whole = math.prod(len(values) for values in levels) == scores.shape[1]
    if design == "grid" and not whole:
        text = f"{where}: the grid has holes (failed or waiting runs), so its variance can't be split. Finish it."
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
            text="Exact on the grid's points, which are weighed alike; the interval covers seed noise only.",
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
    """Return the configurations in decades [configurations, names]; a hyperparameter without any as ranks."""
    columns = []
    for name, values in zip(table.names, table.settings.T, strict=True):
        scaled = decades(name, values)
        columns.append(np.unique(values, return_inverse=True)[1].astype(float) if np.isnan(scaled).any() else scaled)
    return np.stack(columns, axis=1)


def grid_variances(grid: Floats) -> dict[tuple[int, ...], Floats]:
    """Return the variance of mains and pairs, and under () in all, of `grid` [seeds, *levels]: [seeds] each.

    The points weigh alike. A pair's is beyond its mains'.
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
    """Return what the coordinates across and along the ridge of two hyperparameters are called."""
    return f"{pair[0]} / {pair[1]}", f"{pair[0]} · {pair[1]}"


def _ridge_variances(x: Floats, scores: Floats) -> dict[tuple[int, ...], Floats]:
    """Return the variance that the ratio of two hyperparameters alone explains, and their product alone.

    `x` [configurations, 2] is in decades; the variances are as of `grid_variances`.

    The box, turned by 45 degrees, is no box any more, so these are shares of one coordinate each, whatever the other
    does there, and need not add up to one.
    """
    return {
        (): scores.var(axis=1),
        (0,): explained(x[:, 0] - x[:, 1], scores),
        (1,): explained(x[:, 0] + x[:, 1], scores),
    }


def explained(coordinate: Floats, scores: Floats) -> Floats:
    """Return the variance of `scores` [seeds, configurations] that the means at each value of `coordinate` explain.

    Where most values are distinct, as of draws, they are cut into about the root of their number of equal parts. What
    as many means of pure noise would explain is taken off: [seeds].
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
