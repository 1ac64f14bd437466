"""``View``: the selection of a study's runs, metric, target, tolerance and margins that analyses use.

The default view is the study as declared, which the report shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd

from sensitivity.analysis.designs import Axes
from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.axes import Axis
from sensitivity.study.errors import UserError
from sensitivity.study.metrics import MetricName
from sensitivity.study.nearest import nearest
from sensitivity.study.spec import MarginsSpec, StudySpec

Target = tuple[MetricName, float]
_ROUNDING = 1e-5
"""Relative tolerance of comparisons: values and URLs have six significant digits."""


@dataclass(frozen=True, order=True)
class Narrowed:
    """A restriction of an optimizer's prior box to `low` <= parameter <= `high`."""

    optimizer: str
    parameter: str
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class View:
    """A selection; None and () stand for what the study declares."""

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
        """Fields that select runs."""
        return self.optimizers, self.batch_sizes, self.box

    def filtered(self, runs: pd.DataFrame) -> pd.DataFrame:
        """Return the selected rows of `runs`."""
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
        """Return the prior box of each optimizer, restricted to the view."""
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


def changed_view(view: View, changes: Mapping[str, object], spec: StudySpec) -> View:
    """Return `view` with `changes` of its fields, validated against the study.

    Raises:
        UserError: there is no such field, metric, optimizer or batch size, or a value has the wrong type.
    """
    _check("field of a view", changes, [each.name for each in fields(View)])
    target, metric = changes.get("target"), changes.get("metric")
    if target is not None:
        if not isinstance(target, tuple) or len(target) != 2:
            raise UserError(f'target: must be a metric and a level, such as ("test_accuracy", 0.9); got {target!r}')
        _check("metric", target[:1], spec.measured())
    if metric is not None:
        _check("metric", (metric,), spec.measured())
    for name, allowed in (("optimizers", tuple(spec.optimizers)), ("batch_sizes", spec.batch_sizes)):
        values = changes.get(name, ())
        if not isinstance(values, (tuple, list)):
            raise UserError(f"{name}: must be a tuple, such as {allowed[:1]!r}; got {values!r}")
        _check(name.removesuffix("s").replace("_", " "), values, allowed)
    kept = {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}
    return replace(view, **kept)  # type: ignore[arg-type]


def _check(what: str, values: Iterable[object], allowed: Iterable[object]) -> None:
    allowed = list(allowed)
    for value in values:
        if value not in allowed:
            closest = nearest(value, map(str, allowed)) if isinstance(value, str) else None
            hint = f"; did you mean {closest!r}?" if closest else ""
            raise UserError(f"there is no {what} {value!r}{hint}\n  Allowed: {', '.join(map(str, allowed))}")
