"""What answers need of a study that has been read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import pandas as pd

from sensitivity.store.manifest import Manifest
from sensitivity.study.ledger import Ledger
from sensitivity.study.metrics import MetricName


class Tables(Protocol):
    """A study as it was read: its runs, and its curves as far as they are asked for (``evaluations``, ``reader``).

    Evaluations that don't matter to a question may be missing from its answer; what analysis makes of them is the same.
    """

    @property
    def manifest(self) -> Manifest:
        """What study.json holds."""

    @property
    def runs(self) -> pd.DataFrame:
        """One row a planned run."""

    @property
    def unplanned(self) -> int:
        """Runs that are kept but belong to no cell of the present plan."""

    @property
    def ledger(self) -> Ledger | None:
        """How far the study has been settled; None where nobody has begun."""

    @property
    def running(self) -> bool:
        """Whether its results were being written when it was read."""

    @property
    def settling_runs(self) -> pd.DataFrame | None:
        """One row a run of the settlement, whose plan is its own; None where it has none."""

    def at_start(self, metric: MetricName) -> pd.DataFrame:
        """Return the evaluations of untrained networks."""

    def meeting(self, metric: MetricName, target: float) -> pd.DataFrame:
        """Return the evaluations that decide when runs meet a target."""

    def best(self, metric: MetricName) -> pd.DataFrame:
        """Return the first and the best evaluation of each run."""

    def rates(self) -> pd.DataFrame:
        """Return what evaluations say of the effective learning rate."""

    def curves_of(self, trial_ids: Iterable[str]) -> pd.DataFrame:
        """Return the whole curves of some runs."""
