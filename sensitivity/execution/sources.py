"""Where trials come from that no plan can list before a study runs."""

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
    """Comes up with trials as results arrive: searches and confirmations of winners, or a settlement."""

    @property
    def wanted(self) -> bool:
        """Whether it needs to be told of results."""

    @property
    def open(self) -> bool:
        """Whether more trials may come."""

    @property
    def unbounded(self) -> bool:
        """Whether the number of its trials can't be told before it ends."""

    @property
    def stage(self) -> str:
        """What it is doing now, for a line of progress; empty where there is nothing to say."""

    def learn(self, runs: pd.DataFrame, curves: pd.DataFrame) -> None:
        """Take in the results of earlier commands, from the tables of a study directory."""

    def expect(self, plan: Plan, runs: pd.DataFrame) -> Plan:
        """Return the plan with what is known of the trials to come, once `learn` was told."""

    def tell(self, result: PackResult) -> None:
        """Take in a pack's results."""

    def new_trials(self, *, wait: bool) -> Iterator[tuple[Trial, ...]]:
        """Yield the trials it has come up with since the last call; if `wait`, only once there are some.

        Raises:
            UserError: it can't go on.
        """


SourceOf = Callable[[Plan, pd.DataFrame | None, WriterLock], tuple[Plan, TrialSource]]
"""Makes the source of a plan's further trials, and completes the plan with those of earlier commands.

Its arguments are the plan, the table of planned runs that an earlier command left, if there was one, and the lock that
the directory is written under.
"""


def planned_trials(planned: pd.DataFrame, spec: StudySpec, source: str) -> tuple[Trial, ...]:
    """Return the trials of a table of planned runs that fit today's study: those whose identity is still the same."""
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
