"""Interface of sources that generate trials while a study runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import pandas as pd

from sensitivity.execution.prepare import Plan
from sensitivity.store.lock import WriterLock
from sensitivity.study.results import PackResult
from sensitivity.study.spec import StudySpec
from sensitivity.study.trials import Expander, Trial


class TrialSource(AbstractContextManager["TrialSource"], Protocol):
    """Generates trials from results: searches and confirmations of winners, or a settlement."""

    @property
    def wanted(self) -> bool:
        """Whether it needs results."""

    @property
    def open(self) -> bool:
        """Whether more trials may be generated."""

    @property
    def unbounded(self) -> bool:
        """Whether the number of its trials is unknown before it ends."""

    @property
    def stage(self) -> str:
        """Description of the current activity, for a line of progress; may be empty."""

    def learn(self, runs: pd.DataFrame, curves: pd.DataFrame) -> None:
        """Load the results of earlier commands from the tables of a study directory."""

    def expect(self, plan: Plan, runs: pd.DataFrame) -> Plan:
        """Return the plan with the trials that will be generated, as far as known; call after `learn`."""

    def tell(self, result: PackResult) -> None:
        """Add the results of a pack."""

    def new_trials(self, *, wait: bool) -> Iterator[tuple[Trial, ...]]:
        """Yield the trials generated since the last call; with `wait`, block until there are some.

        Raises:
            UserError: the source can't continue.
        """


SourceOf = Callable[[Plan, pd.DataFrame | None, WriterLock], tuple[Plan, TrialSource]]
"""Creates the source of a plan's further trials, and adds the trials of earlier commands to the plan.

Its arguments are the plan, the table of planned runs of an earlier command (None if there was none), and the lock of
the study directory.
"""


def planned_trials(planned: pd.DataFrame, spec: StudySpec, source: str) -> tuple[Trial, ...]:
    """Return the trials of a table of planned runs whose identity matches the current study."""
    expander, found = Expander(spec, source=source), list[Trial]()
    for row in planned.to_dict("records"):
        name, batch_size = str(row["optimizer"]), int(row["batch_size"])
        arm = spec.optimizers.get(name)
        if arm is None:
            continue
        configuration = tuple((each, float(row.get(f"param.{each}", float("nan")))) for each in arm.axes())
        trial = expander.trial(name, configuration, batch_size, int(row["seed"]))
        if trial.id == row["trial_id"]:
            found.append(trial)
    return tuple(found)
