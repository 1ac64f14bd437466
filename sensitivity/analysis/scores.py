"""Scores of an optimizer's configurations at every batch size and seed, as one array.

A score is the value of a run (``outcomes``) with its sign changed if necessary, so that lower is better. A
configuration is a setting of the hyperparameters, independent of the batch size. Only configurations with a result at
every batch size and seed are included, and the table counts all of them. Draws with one seed each form a table of one
seed. Runs that confirm a winner are left out.

Arrays: scores are [batches, seeds, configurations].
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sensitivity.analysis.designs import Parameters, is_crossed, varying
from sensitivity.analysis.estimates import Caution, Floats
from sensitivity.analysis.honest import Method, first_half, method_for
from sensitivity.analysis.names import optimizer_name
from sensitivity.analysis.outcomes import counted_values, untrained_values
from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.metrics import METRICS, MetricName
from sensitivity.study.section import CONFIRMATION_SEEDS


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """The scores of an optimizer."""

    optimizer: str
    metric: MetricName
    batch_sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    names: tuple[str, ...]
    """Names of the hyperparameters that vary."""
    settings: Floats
    """[configurations, names]"""
    scores: Floats
    """[batches, seeds, configurations], lower is better."""
    untrained: float
    """Score of the untrained network."""
    planned: int
    """Number of all configurations, including those that lack results."""

    @property
    def sign(self) -> float:
        """Factor that converts a score to the metric, 1 or -1."""
        return 1.0 if METRICS[self.metric].lower_is_better else -1.0

    def parameters(self, configuration: int) -> Parameters:
        """Return the hyperparameters of a configuration."""
        return tuple(zip(self.names, (float(value) for value in self.settings[configuration]), strict=True))

    def warnings(self) -> tuple[Caution, ...]:
        """Return a caution if configurations are left out."""
        used = self.scores.shape[2]
        if used == self.planned:
            return ()
        name = optimizer_name(self.optimizer)
        text = f"{name}: {used:,} of {self.planned:,} configurations have every result, and are used."
        return (Caution(code="incomplete", text=text),)

    def chosen(self, by: Floats) -> NDArray[np.int_]:
        """Return the configuration that each of `judges` evaluates, selected by `by` [seeds, configurations]: [judges].

        By a split, it is the best on the first half of the seeds; by cross-fitting, the best on all other seeds.
        """
        n = len(by)
        if self.method == "split":
            return np.full(len(self.judges), by[first_half(n)].sum(axis=0).argmin())
        rest = by.sum(axis=0) - by if n > 1 else by
        return np.asarray(rest.argmin(axis=1))

    @property
    def method(self) -> Method:
        """How the best configuration is selected and evaluated (``honest``)."""
        return method_for(len(self.seeds))

    @property
    def judges(self) -> NDArray[np.int_]:
        """Indices of the seeds that evaluate the selected configuration."""
        n = len(self.seeds)
        return np.flatnonzero(~first_half(n)) if self.method == "split" else np.arange(n)


def score_tables(runs: pd.DataFrame, curves: pd.DataFrame, metric: MetricName) -> Iterator[ScoreTable]:
    """Yield a table of scores per optimizer, in the order of the plan."""
    kind = METRICS[metric]
    sign = 1.0 if kind.lower_is_better else -1.0
    untrained = sign * float(untrained_values(runs, curves, kind).median())
    valued = runs.assign(score=sign * counted_values(runs, curves, kind))
    valued = valued[valued["seed"] < CONFIRMATION_SEEDS]
    for optimizer, rows in valued.groupby("optimizer", sort=False):
        names = varying(rows)
        columns = [PARAM_PREFIX + name for name in names]
        configuration = rows.groupby(columns, dropna=False, sort=True).ngroup().to_numpy()
        size, sizes = pd.factorize(rows["batch_size"], sort=True)
        seed, seeds = pd.factorize(rows["seed"], sort=True)
        if len(seeds) > 1 and not is_crossed(rows, names):
            seed, seeds = np.zeros_like(seed), seeds[:1]
        planned = int(configuration.max()) + 1
        scores = np.full((len(sizes), len(seeds), planned), np.nan)
        scores[size, seed, configuration] = rows["score"].to_numpy(dtype=float)
        values = np.full((planned, len(names)), np.nan)
        values[configuration] = rows[columns].to_numpy(dtype=float)
        # A seed with few results, as in an unfinished study, would empty the table, and is removed first.
        there = ~np.isnan(scores)
        kept = there.mean(axis=(0, 2)) > 0.5
        whole = there[:, kept].all(axis=(0, 1))
        yield ScoreTable(
            optimizer=str(optimizer),
            metric=metric,
            batch_sizes=tuple(int(value) for value in sizes),
            seeds=tuple(int(value) for value, keep in zip(seeds, kept, strict=True) if keep),
            names=names,
            settings=values[whole],
            scores=scores[:, kept][:, :, whole],
            untrained=untrained if math.isfinite(untrained) else math.nan,
            planned=planned,
        )
