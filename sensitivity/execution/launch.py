"""Trains a study's missing runs until all have results or a stop is requested."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from sensitivity.execution.interruption import Interruptible
from sensitivity.execution.prepare import Plan
from sensitivity.execution.progress import Show
from sensitivity.execution.searches import with_searches
from sensitivity.execution.sources import SourceOf
from sensitivity.execution.study_run import Machines, StudyRun
from sensitivity.store.counting import read_statuses
from sensitivity.store.directory import Place
from sensitivity.store.memory import returning_memory
from sensitivity.study.errors import UserError


@dataclass(frozen=True)
class Outcome:
    """The state of a study at the end of a command."""

    study: str
    directory: str
    planned: int
    statuses: dict[str, int]
    causes: dict[str, int]
    """Messages of failed and interrupted runs with their counts, the most frequent first."""
    interrupted: bool
    determinism: dict[str, Any] | None = None
    """Result of training some runs again, by this command or the latest one that did."""

    @property
    def trained(self) -> bool:
        """Whether any run was trained, is still pending, or no runs were requested."""
        return not self.statuses or any(status not in ("failed", "interrupted") for status in self.statuses)


def launch(
    plan: Plan,
    directory: Place,
    machines: Machines,
    *,
    show: Show,
    source_of: SourceOf = with_searches,
) -> Outcome:
    """Train a plan's missing runs and store them in `directory`; Ray is not started if none are missing.

    Args:
        plan: plan of the study; it has no trials afterwards.
        directory: study directory.
        machines: machines on which packs are trained.
        show: displays progress.
        source_of: creates the source of trials that are generated while the study runs.

    Raises:
        UserError: the directory can't be written or contains another study, or the cluster does not answer.
    """
    interrupted = False
    with returning_memory(), StudyRun.begin(plan, directory, source_of) as work:
        if work.anything_missing:
            stop = Interruptible()
            try:
                with stop, work.source:
                    work.train(machines, show=show, stop=stop)
            except KeyboardInterrupt:
                interrupted = True
            except UserError:
                if not stop.cause:
                    raise
            except Exception:  # raised by Ray during the interruption, or by a closed terminal
                if not stop.cause and not stop.requested:
                    raise
                interrupted = True
            if stop.cause:
                raise _lost(stop.cause, directory)
        # A million trials take as much memory as merging and counting their results.
        work.forget_trials(plan)
        if not interrupted:
            try:
                work.merge()
            except KeyboardInterrupt:
                interrupted = True
        study = work.end()
    return Outcome(
        study=plan.spec.name,
        directory=directory.uri,
        planned=study.planned,
        statuses=dict(study.by_status),
        causes=dict(itertools.islice(study.causes.items(), 3)),
        interrupted=interrupted,
        determinism=study.manifest.determinism,
    )


def _lost(cause: str, directory: Place) -> UserError:
    study = read_statuses(directory)
    there = study.planned - len(study.unfinished)
    return UserError(
        f"{cause}\n"
        f"  No reported result is lost: {there} of {study.planned} runs have a result in {directory.uri}\n"
        "  Run the same command again to continue. If the memory was full (see `dmesg`), use fewer --workers"
    )
