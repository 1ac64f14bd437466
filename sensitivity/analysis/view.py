"""What of a study is looked at: which runs, for which metric and target, within which tolerance and margins.

The empty view is the study as it was declared: what the report shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sensitivity.analysis.designs import Axes
from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.axes import Axis
from sensitivity.study.metrics import MetricName
from sensitivity.study.spec import MarginsSpec

Target = tuple[MetricName, float]
_ROUNDING = 1e-5
"""Relative: values and addresses have six significant digits."""


@dataclass(frozen=True, order=True)
class Narrowed:
    """A side of an optimizer's prior box, narrowed: `low` <= parameter <= `high`."""

    optimizer: str
    parameter: str
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class View:
    """What is looked at; None and () are what the study itself declares."""

    metric: MetricName | None = None
    target: Target | None = None
    tolerance: float | None = None
    """Percentage points of accuracy, or percent of the untrained network's loss."""
    margins: MarginsSpec | None = None
    optimizers: tuple[str, ...] = ()
    batch_sizes: tuple[int, ...] = ()
    box: tuple[Narrowed, ...] = ()

    @property
    def filters(self) -> tuple[object, ...]:
        """What decides which runs are looked at."""
        return self.optimizers, self.batch_sizes, self.box

    def filtered(self, runs: pd.DataFrame) -> pd.DataFrame:
        """Return those of `runs` that are looked at."""
        keep = np.ones(len(runs), dtype=bool)
        if self.optimizers:
            keep &= runs["optimizer"].isin(self.optimizers).to_numpy()
        if self.batch_sizes:
            keep &= runs["batch_size"].isin(self.batch_sizes).to_numpy()
        for side in self.box:
            values = runs[PARAM_PREFIX + side.parameter].to_numpy(dtype=float)
            margin = _ROUNDING * max(abs(side.low), abs(side.high))
            inside = (values >= side.low - margin) & (values <= side.high + margin)
            keep &= (runs["optimizer"] != side.optimizer).to_numpy() | inside
        return runs if keep.all() else runs[keep]

    def narrowed(self, axes: Mapping[str, Axes]) -> dict[str, dict[str, Axis]]:
        """Return what each optimizer's settings are drawn from, with the sides of its box that are narrowed."""
        priors = {name: dict(own) for name, own in axes.items()}
        for side in self.box:
            axis = priors[side.optimizer][side.parameter]
            low, high = max(side.low, axis.low), min(side.high, axis.high)
            changes: dict[str, object] = {"low": low, "high": high} if low <= high else {}
            if axis.scale == "values":
                listed = axis.grid()
                changes = {"values": tuple(value for value in listed if side.low <= value <= side.high) or listed}
            priors[side.optimizer][side.parameter] = axis.model_copy(update=changes)
        return priors
