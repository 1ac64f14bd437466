"""The source of a settlement's runs: it asks for the steps of the procedure, and keeps the ledger as it grows."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType

import pandas as pd

from sensitivity.execution.prepare import Plan
from sensitivity.execution.replay import Replay
from sensitivity.store.directory import Place, patiently
from sensitivity.store.ledger import read_ledger, write_freeze, write_ledger
from sensitivity.store.schema import CURVE_COLUMNS, further_metrics
from sensitivity.store.writer import result_row, trial_row
from sensitivity.study.amendments import DEFAULT_SETTLING_RUNS, Freeze, Step
from sensitivity.study.errors import UserError
from sensitivity.study.ledger import Declared, Ledger, LedgerEntry, StepCost
from sensitivity.study.results import PackResult
from sensitivity.study.trials import Group, Trial
from sensitivity.study.words import count, duration
from sensitivity.training.cost import run_cost


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a settlement may take; it ends before a step that does not fit.

    None is no limit, but of all three, which is ``DEFAULT_SETTLING_RUNS``.
    """

    runs: int | None = None
    """Of the whole settlement, those of earlier commands included."""
    flops: float | None = None
    """Of the whole settlement."""
    seconds: float | None = None
    """Of this command, on the clock."""

    @property
    def most_runs(self) -> int | None:
        """The limit to runs that holds; None for none."""
        return DEFAULT_SETTLING_RUNS if (self.runs, self.flops, self.seconds) == (None, None, None) else self.runs


class Settler:
    """Asks for the runs of one step after the other, and keeps the ledger of a study directory."""

    wanted = True
    unbounded = True

    def __init__(
        self,
        plan: Plan,
        declared: Declared,
        directory: Place,
        *,
        require: Callable[[], None],
        budget: Budget,
        on_entry: Callable[[LedgerEntry], None] = lambda _: None,
    ) -> None:
        """Begin, or go on from what `learn` is told.

        Args:
            plan: of the settlement's runs so far.
            declared: what was declared before the first of them.
            directory: the study's own, whose ledger is written.
            require: raises if the lock of the settlement's folder was lost.
            budget: limits.
            on_entry: called with each new entry of the ledger.
        """
        self._plan, self._declared, self._directory = plan, declared, directory
        self._require, self._budget, self._on_entry = require, budget, on_entry
        self._replay = Replay(plan.spec, plan.source, declared)
        self._asked = {trial.id for trial in plan.trials}
        self._entries: list[LedgerEntry] = []
        self._before: tuple[LedgerEntry, ...] = ()
        self._ended_before = False
        self._lost = 0
        self._began = time.monotonic()

    def __enter__(self) -> Settler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing open."""

    @property
    def open(self) -> bool:
        """Whether more runs may come in this command: a step that has lost a run waits for the next one."""
        return self._replay.step is not None and not self._lost

    @property
    def stage(self) -> str:
        """The step that is being taken."""
        step = self._replay.step
        return "" if step is None else f"step {step.number} ({step.phase.replace('_', ' ')})"

    @property
    def ledger(self) -> Ledger:
        """How far the study has been settled."""
        return Ledger(declared=self._declared, entries=tuple(self._entries), settlement=self._replay.settlement)

    def learn(self, runs: pd.DataFrame, curves: pd.DataFrame) -> None:
        """Take in the runs of earlier commands, and follow the ledger that they left.

        Raises:
            UserError: the runs no longer lead to the steps that the ledger has.
        """
        before = read_ledger(self._directory)
        self._before = before.entries if before is not None else ()
        self._ended_before = before is not None and before.settlement is not None
        self._replay.take_in(runs, curves)
        self._advance()

    def expect(self, plan: Plan, runs: pd.DataFrame) -> Plan:
        """Return the plan with the runs of the step, which stand for all that come."""
        return replace(plan, stand_ins=tuple(each for each in self._replay.missing if each.id not in self._asked))

    def tell(self, result: PackResult) -> None:
        """Take in a pack's results."""
        self._lost += sum(not run.status.final for run in result.runs)
        rows = [{**trial_row(run.trial), **result_row(run)} for run in result.runs]
        curves = [{"trial_id": run.trial.id, **each.row()} for run in result.runs for each in run.measurements]
        self._replay.take_in(
            pd.DataFrame(rows),
            pd.DataFrame(curves, columns=[*CURVE_COLUMNS, *further_metrics(self._plan.spec.measured())]),
        )

    def new_trials(self, *, wait: bool) -> Iterator[tuple[Trial, ...]]:
        """Yield the runs of the next step once all of the step before have ended.

        Raises:
            UserError: the ledger can't be written.
        """
        self._advance()
        step = self._replay.step
        if step is None:
            return
        new = tuple(trial for trial in self._replay.missing if trial.id not in self._asked)
        reason = self._beyond(step, new) if new else ""
        if reason:
            self._replay.stop(reason)
            self._write()
        elif new:
            if self._ended_before:  # the answers of a smaller budget don't stand while it goes on
                self._ended_before = False
                self._write()
            self._asked.update(trial.id for trial in new)
            yield new

    def _advance(self) -> None:
        """Answer every step whose runs are all there."""
        known = len(self._entries)
        for entry in self._replay.advance(self._keep):
            place = len(self._entries)
            self._entries.append(entry)
            if place >= len(self._before):
                self._on_entry(entry)
            elif entry.step != self._before[place].step:
                raise UserError(
                    f"{self._directory.uri}: the runs that are there no longer lead to step {entry.step.number} of"
                    " its ledger\n  Restore the study directory from a copy, or settle the study under another name"
                )
        if len(self._entries) > max(known, len(self._before)):
            self._write()

    def _keep(self, freeze: Freeze) -> None:
        self._patiently(lambda: write_freeze(self._directory, freeze))

    def _write(self) -> None:
        self._patiently(lambda: write_ledger(self._directory, self.ledger))

    def _patiently(self, write: Callable[[], None]) -> None:
        def under_lock() -> None:
            self._require()
            write()

        patiently(under_lock)

    def _beyond(self, step: Step, new: Sequence[Trial]) -> str:
        """Return in words why a step does not fit the budget; nothing if it does."""
        budget, spent = self._budget, StepCost.total(entry.cost for entry in self._entries)
        what = f"step {step.number} takes {count(len(new), 'run')} more"
        most = budget.most_runs
        if most is not None and spent.runs + len(step.points) > most:
            return f"the budget of {count(most, 'run')} ends here: {what}, after {spent.runs:,}"
        if budget.flops is not None:
            needed = self._flops(new)
            if spent.flops + needed > budget.flops:
                return (
                    f"the budget of {budget.flops:.3g} FLOP ends here: {what}, up to {needed:.2g} FLOP, after"
                    f" {spent.flops:.3g}"
                )
        if budget.seconds is not None:
            elapsed, needed = time.monotonic() - self._began, self._seconds(new)
            if elapsed + needed > budget.seconds:
                return (
                    f"the time of {duration(budget.seconds)} ends here: {what}, about {duration(needed)}, after"
                    f" {duration(elapsed)}"
                )
        return ""

    def _flops(self, trials: Sequence[Trial]) -> float:
        """Return what trials take at most: a diverged one ends early."""
        many = Counter((trial.group, trial.structure) for trial in trials)
        one = {(trial.group, trial.structure): trial for trial in trials}
        return sum(number * run_cost(one[key], self._plan.problem)[1] for key, number in many.items())

    def _seconds(self, trials: Sequence[Trial]) -> float:
        """Return how long trials take on the clock, judged by those of their optimizer and batch size that have ended.

        A device-second has taken this command so much on the clock as its steps show, what is between them included.
        """
        taken: defaultdict[Group, list[float]] = defaultdict(list)
        for entry in self._entries:
            for trial in self._replay.trials(entry.step):
                taken[trial.group].append(self._replay.device_seconds(trial) or 0.0)
        each = {group: sum(some) / len(some) for group, some in taken.items()}
        here = sum(entry.cost.device_seconds for entry in self._entries[len(self._before) :])
        pace = (time.monotonic() - self._began) / here if here else 1.0
        return pace * sum(each.get(trial.group, 0.0) for trial in trials)
