"""Source of a settlement's trials: requests the runs of each step of the procedure, and writes the ledger."""

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
from sensitivity.store.effective import FINAL
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
    """Budget of a settlement, which ends before a step that exceeds it.

    None is no limit; without any limit, ``DEFAULT_SETTLING_RUNS`` applies.
    """

    runs: int | None = None
    """Runs of the whole settlement, including earlier commands."""
    flops: float | None = None
    """FLOPs of the whole settlement."""
    seconds: float | None = None
    """Wall-clock seconds of this command."""

    @property
    def most_runs(self) -> int | None:
        """The effective limit on runs; None for no limit."""
        return DEFAULT_SETTLING_RUNS if (self.runs, self.flops, self.seconds) == (None, None, None) else self.runs


class Settler:
    """Requests the runs of one step after another, and writes the ledger of a study directory."""

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
        """Start a settlement; `learn` adds the runs of earlier commands.

        Args:
            plan: plan of the settlement's runs so far.
            declared: the declaration of the settlement.
            directory: study directory, whose ledger is written.
            require: raises if the lock of the settlement's folder was lost.
            budget: limits of the settlement.
            on_entry: called with each new entry of the ledger.
        """
        self._plan, self._declared, self._directory = plan, declared, directory
        self._require, self._budget, self._on_entry = require, budget, on_entry
        self._replay = Replay(plan.spec, plan.source, declared)
        self._requested = {trial.id for trial in plan.trials}
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
        """Do nothing: there are no resources to release."""

    @property
    def open(self) -> bool:
        """Whether this command may generate more runs; a step with a lost run waits for the next command."""
        return self._replay.step is not None and not self._lost

    @property
    def stage(self) -> str:
        """Description of the current step."""
        step = self._replay.step
        return "" if step is None else f"step {step.number} ({step.phase.replace('_', ' ')})"

    @property
    def ledger(self) -> Ledger:
        """The ledger so far."""
        return Ledger(declared=self._declared, entries=tuple(self._entries), settlement=self._replay.settlement)

    def learn(self, runs: pd.DataFrame, curves: pd.DataFrame) -> None:
        """Add the runs of earlier commands, and replay the ledger that they wrote.

        Raises:
            UserError: the runs do not reproduce the steps of the ledger.
        """
        before = read_ledger(self._directory)
        self._before = before.entries if before is not None else ()
        self._ended_before = before is not None and before.settlement is not None
        self._replay.add_runs(runs, curves)
        self._advance()
        if self._replay.step is not None:  # before Ray is started for nothing
            self._stop_at_budget(self._replay.step, self._replay.missing)

    def expect(self, plan: Plan, runs: pd.DataFrame) -> Plan:
        """Return the plan with the missing runs of the current step, as placeholders for all later ones.

        After the settlement has ended, the plan has no missing runs, though an earlier command may have left some of a
        step that this one's budget does not allow.
        """
        if self._replay.step is None:
            have = frozenset(runs.loc[runs["status"].isin(FINAL), "trial_id"])
            return replace(plan, trials=tuple(trial for trial in plan.trials if trial.id in have), stand_ins=())
        return replace(plan, stand_ins=tuple(each for each in self._replay.missing if each.id not in self._requested))

    def tell(self, result: PackResult) -> None:
        """Add the results of a pack."""
        self._lost += sum(not run.status.final for run in result.runs)
        rows = [{**trial_row(run.trial), **result_row(run)} for run in result.runs]
        curves = [{"trial_id": run.trial.id, **each.row()} for run in result.runs for each in run.measurements]
        self._replay.add_runs(
            pd.DataFrame(rows),
            pd.DataFrame(curves, columns=[*CURVE_COLUMNS, *further_metrics(self._plan.spec.measured())]),
        )

    def new_trials(self, *, wait: bool) -> Iterator[tuple[Trial, ...]]:
        """Yield the runs of the next step once all runs of the previous step have ended.

        Raises:
            UserError: the ledger can't be written.
        """
        self._advance()
        step = self._replay.step
        if step is None:
            return
        new = tuple(trial for trial in self._replay.missing if trial.id not in self._requested)
        if new and not self._stop_at_budget(step, new):
            if self._ended_before:  # the answers of a smaller budget are no longer final
                self._ended_before = False
                self._write()
            self._requested.update(trial.id for trial in new)
            yield new

    def _stop_at_budget(self, step: Step, new: Sequence[Trial]) -> bool:
        """Stop before runs of the current step if they exceed the budget; return whether they do."""
        reason = self._budget_problem(step, new) if new else ""
        if reason:
            self._replay.stop(reason)
            self._write()
        return bool(reason)

    def _advance(self) -> None:
        """Answer every step whose runs all have results."""
        known = len(self._entries)
        for entry in self._replay.advance(self._write_freeze):
            place = len(self._entries)
            self._entries.append(entry)
            if place >= len(self._before):
                self._on_entry(entry)
            elif entry.step != self._before[place].step:
                raise UserError(
                    f"{self._directory.uri}: the stored runs no longer reproduce step {entry.step.number} of its"
                    " ledger\n  Restore the study directory from a copy, or settle the study under another name"
                )
        if len(self._entries) > max(known, len(self._before)):
            self._write()

    def _write_freeze(self, freeze: Freeze) -> None:
        self._write_under_lock(lambda: write_freeze(self._directory, freeze))

    def _write(self) -> None:
        self._write_under_lock(lambda: write_ledger(self._directory, self.ledger))

    def _write_under_lock(self, write: Callable[[], None]) -> None:
        def under_lock() -> None:
            self._require()
            write()

        patiently(under_lock)

    def _budget_problem(self, step: Step, new: Sequence[Trial]) -> str:
        """Return the reason why a step exceeds the budget; empty if it does not."""
        budget, spent = self._budget, StepCost.total(entry.cost for entry in self._entries)
        what = f"step {step.number} takes {count(len(new), 'more run')}"
        most = budget.most_runs
        if most is not None and (in_all := spent.runs + len(step.points)) > most:
            total = "" if in_all == len(new) else f", {in_all:,} in all"
            return f"the budget of {count(most, 'run')} ends here: {what}{total}"
        if budget.flops is not None:
            needed = self._flops(new)
            if spent.flops + needed > budget.flops:
                return (
                    f"the budget of {budget.flops:.3g} FLOP ends here: {what}, up to {needed:.3g} FLOP and"
                    f" {spent.flops + needed:.3g} in all"
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
        """Return an upper bound on the FLOPs of trials; diverged ones end early."""
        many = Counter((trial.group, trial.structure) for trial in trials)
        one = {(trial.group, trial.structure): trial for trial in trials}
        return sum(number * run_cost(one[key], self._plan.problem)[1] for key, number in many.items())

    def _seconds(self, trials: Sequence[Trial]) -> float:
        """Estimate the wall-clock seconds of trials, from finished ones with the same optimizer and batch size.

        Device-seconds are converted at the rate of this command's steps so far, including the time between them.
        """
        taken: defaultdict[Group, list[float]] = defaultdict(list)
        for entry in self._entries:
            for trial in self._replay.trials(entry.step):
                taken[trial.group].append(self._replay.device_seconds(trial) or 0.0)
        each = {group: sum(some) / len(some) for group, some in taken.items()}
        here = sum(entry.cost.device_seconds for entry in self._entries[len(self._before) :])
        pace = (time.monotonic() - self._began) / here if here else 1.0
        return pace * sum(each.get(trial.group, 0.0) for trial in trials)
