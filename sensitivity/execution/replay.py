"""Replay of a settlement from its declaration and the stored runs, up to the first step with missing runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd

from sensitivity.settling import Settling
from sensitivity.settling.observing import observe
from sensitivity.study.amendments import Freeze, Observation, Settlement, Step
from sensitivity.study.ledger import Declared, LedgerEntry, StepCost
from sensitivity.study.results import Status
from sensitivity.study.spec import StudySpec
from sensitivity.study.trials import Expander, Trial

_FINAL = frozenset(status.value for status in Status if status.final)


@dataclass(frozen=True)
class _Found:
    """Observation and cost of a run."""

    observation: Observation
    device_seconds: float
    flops: float


class Replay:
    """The settling procedure, answered from runs as they become known. It writes and trains nothing."""

    def __init__(self, spec: StudySpec, source: str, declared: Declared) -> None:
        """Start at the first step.

        Args:
            spec: the study.
            source: hash of the problem's own code, which is part of the trial ids.
            declared: the declaration of the settlement.
        """
        self._settling = Settling(declared.declaration, declared.known)
        name, level = declared.declaration.target
        self._target = spec.metric(name), level
        self._expander = Expander(spec, source=source)
        self._found: dict[str, _Found] = {}
        self._trials: dict[int, tuple[Trial, ...]] = {}
        self._paid: set[str] = set()
        """Ids of the runs whose cost is part of an earlier step."""

    @property
    def step(self) -> Step | None:
        """The current step; None once there is a settlement."""
        return self._settling.next_step

    @property
    def settlement(self) -> Settlement | None:
        """The settlement with its answers; None before the end."""
        return self._settling.settlement

    @property
    def missing(self) -> tuple[Trial, ...]:
        """The runs of the current step that have no result, each once even if the step asks for it twice."""
        step = self.step
        asked = () if step is None else self.trials(step)
        return tuple({each.id: each for each in asked if each.id not in self._found}.values())

    def trials(self, step: Step) -> tuple[Trial, ...]:
        """Return the runs of a step, cached, because Tune's loop asks often and computing ids is expensive."""
        if step.number not in self._trials:
            self._trials[step.number] = tuple(
                self._expander.trial(point.arm, point.hyperparameters, point.batch_size, point.seed)
                for point in step.points
            )
        return self._trials[step.number]

    def device_seconds(self, trial: Trial) -> float | None:
        """Return the device-seconds of a run; None for one without a result."""
        found = self._found.get(trial.id)
        return None if found is None else found.device_seconds

    def add_runs(self, runs: pd.DataFrame, curves: pd.DataFrame) -> None:
        """Add runs from the tables of a study directory."""
        done = runs[runs["status"].isin(_FINAL)]
        if done.empty:
            return
        observations = observe(done, curves, self._target)
        taken = done[["trial_id", "train_seconds", "eval_seconds", "flops"]].fillna(0.0)
        for trial_id, training, evaluation, flops in taken.itertuples(index=False):
            self._found[trial_id] = _Found(observations[trial_id], float(training) + float(evaluation), float(flops))

    def advance(self, keep: Callable[[Freeze], None] = lambda _: None) -> Iterator[LedgerEntry]:
        """Answer every step whose runs all have results, and yield its ledger entries.

        Args:
            keep: called with the freeze before judging, to persist it.
        """
        while (step := self.step) is not None:
            trials = self.trials(step)
            found = [self._found[trial.id] for trial in trials if trial.id in self._found]
            if len(found) < len(step.points):
                return
            if step.freeze is not None:
                keep(step.freeze)
            shown = self._settling.answer([each.observation for each in found])
            # A step may ask for a run of an earlier one: of a setting that is predicted and observed to be the fastest.
            new = [self._found[id_] for id_ in dict.fromkeys(trial.id for trial in trials) if id_ not in self._paid]
            self._paid.update(trial.id for trial in trials)
            cost = StepCost(
                runs=len(new),
                device_seconds=sum(each.device_seconds for each in new),
                flops=sum(each.flops for each in new),
            )
            yield LedgerEntry(step=step, shown=shown, cost=cost)

    def stop(self, reason: str) -> None:
        """End the settlement before the runs of the current step; the answers of the latest look are final."""
        self._settling.stop(reason)
