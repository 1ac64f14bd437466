"""``LookedAt``: a study under a view, which selects the runs, metric, target and margins of every analysis."""

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
"""Sets of filtered runs that are cached with their results; each is a copy, and dragging a slider makes many."""


@dataclass(frozen=True)
class LookedAt:
    """A study with the runs, metric, target and margins that `view` selects. Thread-safe."""

    tables: Tables = field(repr=False)
    view: View = field(default_factory=View)
    memo: Memo = field(default_factory=lambda: Memo(_MOST_VIEWS), repr=False, compare=False)

    def under(self, **changes: Any) -> Self:
        """Return the same study under another view.

        Args:
            changes: new values of fields of ``View``; the other fields keep their values.

        Raises:
            UserError: there is no such field, or the study has no such metric, optimizer or batch size.
        """
        return replace(self, view=changed_view(self.view, changes, self.manifest.spec)) if changes else self

    @property
    def manifest(self) -> Manifest:
        """Content of study.json."""
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

    # The selection.

    @property
    def optimizers(self) -> tuple[str, ...]:
        """The selected optimizers, in the order of the study."""
        return tuple(name for name in self.spec.optimizers if name in (self.view.optimizers or self.spec.optimizers))

    @property
    @kept()
    def metrics(self) -> tuple[Metric, ...]:
        """Metrics that some run has a value of: the target's first, then the most informative first."""
        target = self.spec.primary_target
        known = available_metrics(self.searched, self.spec.measured())
        return tuple(sorted(known, key=lambda metric: target is None or metric.name != target[0]))

    @property
    def metric(self) -> Metric:
        """The view's metric; by default the primary target's if some run measured it, else the most informative one."""
        declared = self.spec.primary_target or (self.spec.measured()[0], 0.0)
        measured = next(iter(self.metrics), declared[0])
        return measured if self.view.metric is None else self.spec.metric(self.view.metric)

    @property
    def target(self) -> Target | None:
        """The view's target; by default the primary target, or None if the study declares none."""
        if self.view.target is None:
            return self.spec.primary_target
        return self.spec.metric(self.view.target[0]), self.view.target[1]

    @property
    def targets(self) -> tuple[Target, ...]:
        """All declared targets, in the order of the study, and the selected one."""
        declared = [(self.spec.metric(name), at) for name, levels in self.spec.targets.items() for at in levels]
        return tuple(dict.fromkeys([*declared, *([self.target] if self.target else [])]))

    @property
    def tolerance(self) -> float | None:
        """Tolerated difference from the best value, in units of the metric; None for the default (``maps``)."""
        if self.view.tolerance is None:
            return None
        share = self.view.tolerance / 100
        return self.metric.quantity.tolerance(
            share, float(untrained_values(self.searched, self._start(), self.metric).median())
        )

    @property
    def chosen(self) -> bool:
        """Whether the selection may have been made after results were known; all verdicts are then exploratory."""
        spec = self.manifest.spec
        margins = self.view.margins not in (None, spec.margins)
        after = spec.observed is not None and not spec.observed.planned
        return after or margins or self.target != spec.primary_target or len(self.runs) < len(self.tables.runs)

    @property
    @kept()
    def runs(self) -> pd.DataFrame:
        """Planned runs that pass the filters, including confirmation runs."""
        return self.view.filtered(self.tables.runs)

    @property
    @kept()
    def searched(self) -> pd.DataFrame:
        """Planned runs that pass the filters, without confirmation runs."""
        confirming = self.runs["confirmation"].astype(bool)
        return self.runs[~confirming] if confirming.any() else self.runs

    @property
    def has_values(self) -> bool:
        """Whether any run has a value of the metric."""
        return bool(np.isfinite(self.searched[self.metric.name].to_numpy(dtype=float)).any())

    @property
    @kept()
    def units(self) -> tuple[TimeUnit, ...]:
        """Units in which the training time of some run is known; all units while no run has a result."""
        return known_units(self.runs)

    def counted(self, metric: Metric) -> pd.Series[float]:
        """Return the value of a metric that each run counts with, with the index of `searched`."""
        return counted_values(self.searched, self._of_runs(self.tables.at_start(metric)), metric)

    def _start(self) -> pd.DataFrame:
        return self._of_runs(self.tables.at_start(self.metric))

    def _of_runs(self, rows: pd.DataFrame) -> pd.DataFrame:
        return rows if len(self.runs) == len(self.tables.runs) else rows[rows["trial_id"].isin(self.runs["trial_id"])]

    def _of_metric(self, compute: Callable[..., tuple[T, ...]], **further: object) -> tuple[T, ...]:
        """Return the result of `compute` for the runs and the metric; empty while no run has a value of it."""
        return compute(self.searched, self._start(), self.metric, **further) if self.has_values else ()
