"""Learning-rate sensitivity (Wortsman et al. 2023): the average loss incurred by missing the best learning rate.

It is the mean of min(loss, untrained loss) minus the best loss, over log lr in a window centred on the optimizer's own
optimum; a diverged run counts with the untrained network's loss. The other hyperparameters are fixed at the best
cell's. Values between grid points are interpolated linearly. For an accuracy, it is the mean accuracy lost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from sensitivity.analysis.designs import Parameters
from sensitivity.analysis.estimates import Caution, Estimate, Floats, mean_over_seeds
from sensitivity.analysis.names import at_batch_size
from sensitivity.analysis.scores import ScoreTable, score_tables
from sensitivity.study.hyperparameters import LEARNING_RATE
from sensitivity.study.metrics import MetricName

WINDOW = 1.0
"""Default half-width of the window in decades."""


@dataclass(frozen=True, kw_only=True)
class LrSensitivity:
    """Learning-rate sensitivity of an optimizer at a batch size."""

    optimizer: str
    batch_size: int
    metric: MetricName
    window: float
    """Half-width of the window, in decades."""
    sensitivity: Estimate
    """Mean loss over the window, in units of the metric; 0 is insensitive."""
    lr: float
    """Best learning rate."""
    fixed: Parameters
    """Values at which the other varying hyperparameters are fixed."""


def compute_lr_sensitivity(
    runs: pd.DataFrame, curves: pd.DataFrame, metric: MetricName, *, window: float = WINDOW
) -> tuple[LrSensitivity, ...]:
    """Return the sensitivity per optimizer, in the order of the plan, and batch size, ascending.

    Without three learning rates at the best cell's other hyperparameters, it is refused. `window` is the half-width of
    the window in decades.
    """
    return tuple(
        _sensitivity(table, place, window)
        for table in score_tables(runs, curves, metric)
        for place in range(len(table.batch_sizes))
        if table.scores.size
    )


def _sensitivity(table: ScoreTable, place: int, window: float) -> LrSensitivity:
    scores = np.minimum(table.scores[place], table.untrained)
    best = int(scores.mean(axis=0).argmin())
    rest = [column for column, name in enumerate(table.names) if name != LEARNING_RATE]
    line = np.flatnonzero((table.settings[:, rest] == table.settings[best, rest]).all(axis=1))
    lr = (
        table.settings[:, table.names.index(LEARNING_RATE)]
        if LEARNING_RATE in table.names
        else np.full(len(table.settings), np.nan)
    )
    line = line[np.argsort(lr[line])]
    result = LrSensitivity(
        optimizer=table.optimizer,
        batch_size=table.batch_sizes[place],
        metric=table.metric,
        window=window,
        sensitivity=Estimate(value=math.nan),
        lr=float(lr[best]),
        fixed=tuple(pair for pair in table.parameters(best) if pair[0] != LEARNING_RATE),
    )
    where = at_batch_size(table.optimizer, result.batch_size)
    if len(np.unique(lr[line])) < 3:
        text = f"{where}: fewer than three learning rates share the best cell's other hyperparameters. Run a grid."
        return replace(result, sensitivity=Estimate(value=math.nan, refused=Caution(code="no-line", text=text)))
    x = np.log10(lr[line])
    centre = float(np.log10(lr[best]))
    low, high = max(centre - window, x[0]), min(centre + window, x[-1])
    warnings = list(table.warnings())
    if high - low < 2 * window * (1 - 1e-9):
        text = (
            f"{where}: the grid's learning rates cover {high - low:.2g} of the window's {2 * window:.2g} decades;"
            " the mean is over what they cover."
        )
        warnings.append(Caution(code="window", text=text))
    excess = scores[:, line] - scores[:, [best]]
    estimate = mean_over_seeds(mean_between(x, excess, low, high))
    return replace(result, sensitivity=replace(estimate, warnings=(*estimate.warnings, *warnings)))


def mean_between(x: Floats, y: Floats, low: float, high: float) -> Floats:
    """Return the mean over [low, high] of the linear interpolant of `y` [seeds, points] at ascending `x`: [seeds]."""
    inside = x[(x > low) & (x < high)]
    at = np.concatenate([[low], inside, [high]])
    values = np.array([np.interp(at, x, row) for row in y])
    return np.asarray(np.trapezoid(values, at, axis=1) / (high - low))
