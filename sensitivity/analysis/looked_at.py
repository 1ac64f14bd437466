"""``LookedAt``: a study under a view, which decides what every answer is about (``study_results``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

import numpy as np
import pandas as pd

from sensitivity.analysis.memo import Memo, kept
from sensitivity.analysis.outcomes import available_metrics, counted_values, untrained_values
from sensitivity.analysis.tables import Tables
from sensitivity.analysis.times import TimeUnit, known_units
from sensitivity.analysis.view import Target, View, changed_view
from sensitivity.store.manifest import Manifest
from sensitivity.study.metrics import Metric
from sensitivity.study.spec import MarginsSpec, StudySpec

T = TypeVar("T")
_MOST_VIEWS = 8
"""Sets of filtered runs that are kept with their answers: each is a copy, and dragging a slider makes many."""


@dataclass(frozen=True)
class LookedAt:
    """A study as `view` looks at it: which runs, metric, target and margins. Safe to share between threads."""

    tables: Tables = field(repr=False)
    view: View = field(default_factory=View)
    memo: Memo = field(default_factory=lambda: Memo(_MOST_VIEWS), repr=False, compare=False)

    def under(self, **changes: Any) -> Self:
        """Return the same under another view: fields of ``View``, of which those not given stay as they are.

        Raises:
            UserError: there is no such field, or the study has no such metric, optimizer or batch size.
        """
        return replace(self, view=changed_view(self.view, changes, self.manifest.spec)) if changes else self

    @property
    def manifest(self) -> Manifest:
        """What study.json holds."""
        return self.tables.manifest

    @property
    def spec(self) -> StudySpec:
        """The study as it was declared, with the margins of the view."""
        spec = self.manifest.spec
        return spec if self.view.margins is None else spec.model_copy(update={"margins": self.view.margins})

    @property
    def margins(self) -> MarginsSpec:
        """How large a difference has to be to matter."""
        return self.spec.margins

    # What is looked at.

    @property
    def optimizers(self) -> tuple[str, ...]:
        """The optimizers that are looked at, in the order of the study."""
        return tuple(name for name in self.spec.optimizers if name in (self.view.optimizers or self.spec.optimizers))

    @property
    @kept()
    def metrics(self) -> tuple[Metric, ...]:
        """Those that some run has a value of, the target's first, then the most telling."""
        target = self.spec.primary_target
        known = available_metrics(self.searched, self.spec.measured())
        return tuple(sorted(known, key=lambda metric: target is None or metric.name != target[0]))

    @property
    def metric(self) -> Metric:
        """The one asked for, else the primary target's where some run measured it, else the most telling measured."""
        declared = self.spec.primary_target or (self.spec.measured()[0], 0.0)
        measured = next(iter(self.metrics), declared[0])
        return measured if self.view.metric is None else self.spec.metric(self.view.metric)

    @property
    def target(self) -> Target | None:
        """The one asked for, else the primary target; None where the study declares none."""
        if self.view.target is None:
            return self.spec.primary_target
        return self.spec.metric(self.view.target[0]), self.view.target[1]

    @property
    def targets(self) -> tuple[Target, ...]:
        """All declared targets, in the order of the study, and the one that is looked at."""
        declared = [(self.spec.metric(name), at) for name, levels in self.spec.targets.items() for at in levels]
        return tuple(dict.fromkeys([*declared, *([self.target] if self.target else [])]))

    @property
    def tolerance(self) -> float | None:
        """What is good enough, in units of the metric below the best; None is the default (``maps``)."""
        if self.view.tolerance is None:
            return None
        share = self.view.tolerance / 100
        return self.metric.quantity.tolerance(
            share, float(untrained_values(self.searched, self._start(), self.metric).median())
        )

    @property
    def chosen(self) -> bool:
        """Whether what is looked at was chosen after results were seen, so that every verdict is exploratory."""
        spec = self.manifest.spec
        margins = self.view.margins not in (None, spec.margins)
        after = spec.observed is not None and not spec.observed.planned
        return after or margins or self.target != spec.primary_target or len(self.runs) < len(self.tables.runs)

    @property
    @kept()
    def runs(self) -> pd.DataFrame:
        """The planned runs that the filters leave, confirmations included."""
        return self.view.filtered(self.tables.runs)

    @property
    @kept()
    def searched(self) -> pd.DataFrame:
        """The same without runs that confirm winners."""
        confirming = self.runs["confirmation"].astype(bool)
        return self.runs[~confirming] if confirming.any() else self.runs

    @property
    def has_values(self) -> bool:
        """Whether some run has a value of the metric."""
        return bool(np.isfinite(self.searched[self.metric.name].to_numpy(dtype=float)).any())

    @property
    @kept()
    def units(self) -> tuple[TimeUnit, ...]:
        """The units in which it is known how long runs trained; all, while none has a result."""
        return known_units(self.runs)

    def counted(self, metric: Metric) -> pd.Series[float]:
        """Return what each run counts with in a metric, by the index of the runs that are searched."""
        return counted_values(self.searched, self._of_runs(self.tables.at_start(metric)), metric)

    def _start(self) -> pd.DataFrame:
        return self._of_runs(self.tables.at_start(self.metric))

    def _of_runs(self, rows: pd.DataFrame) -> pd.DataFrame:
        return rows if len(self.runs) == len(self.tables.runs) else rows[rows["trial_id"].isin(self.runs["trial_id"])]

    def _of_metric(self, compute: Callable[..., tuple[T, ...]], **further: object) -> tuple[T, ...]:
        """Return what `compute` makes of the runs and the metric; nothing while no run has a value of it."""
        return compute(self.searched, self._start(), self.metric, **further) if self.has_values else ()
