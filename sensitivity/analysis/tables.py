"""``Tables``: the interface through which analyses read a study."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import pandas as pd

from sensitivity.store.manifest import Manifest
from sensitivity.study.ledger import Ledger
from sensitivity.study.metrics import MetricName


class Tables(Protocol):
    """A study's runs, and the rows of its curves that an analysis needs (``evaluations``, ``reader``).

    An implementation may leave out evaluations that don't change the result of the analysis.
    """

    @property
    def manifest(self) -> Manifest:
        """Content of study.json."""

    @property
    def runs(self) -> pd.DataFrame:
        """Table of runs, one row per planned run."""

    @property
    def unplanned(self) -> int:
        """Number of stored runs that belong to no cell of the present plan."""

    @property
    def ledger(self) -> Ledger | None:
        """Progress of the settlement; None if there is no settlement."""

    @property
    def running(self) -> bool:
        """Whether another process was writing results when the study was read."""

    @property
    def settling_runs(self) -> pd.DataFrame | None:
        """One row a run of the settlement, whose plan is its own; None where it has none."""

    def at_start(self, metric: MetricName) -> pd.DataFrame:
        """Return the evaluations of untrained networks."""

    def meeting(self, metric: MetricName, target: float) -> pd.DataFrame:
        """Return the evaluations that determine when runs meet a target."""

    def best(self, metric: MetricName) -> pd.DataFrame:
        """Return the first and the best evaluation of each run."""

    def rates(self) -> pd.DataFrame:
        """Return the effective learning rates of runs with a clip: trial_id and the rate."""

    def curves_of(self, trial_ids: Iterable[str]) -> pd.DataFrame:
        """Return the whole curves of some runs."""
