"""Trials that are generated as a study runs: rounds of searches, and confirmations of winners.

A search proposes a round of configurations once every run of the previous rounds has ended, in any order. Its proposals
therefore depend only on results and the seed, not on workers, kills and resumptions. Several searches, one per
optimizer and batch size, keep the workers busy.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import pandas as pd

from sensitivity.execution.objectives import Values, configuration_values, run_values
from sensitivity.execution.prepare import Plan, with_recorded, with_search_seconds
from sensitivity.execution.sampler import Tried, next_configurations
from sensitivity.store.directory import first_line
from sensitivity.store.lock import WriterLock
from sensitivity.store.writer import result_row
from sensitivity.study.designs import Configuration
from sensitivity.study.errors import UserError
from sensitivity.study.results import PackResult, Status
from sensitivity.study.search import SearchSpec, lower_is_better
from sensitivity.study.section import CONFIRMATION_SEEDS, MOST_SAMPLES
from sensitivity.study.spec import StudySpec
from sensitivity.study.trials import Expander, Group, Trial

_FINAL = frozenset(status.value for status in Status if status.final)


@dataclass(frozen=True)
class Ended:
    """The outcome of a run, as a search needs it."""

    objectives: Values
    seconds: float


class Campaign:
    """One optimizer at one batch size: rounds of configurations if it is a search, then its winner's confirmations."""

    def __init__(
        self,
        spec: StudySpec,
        source: str,
        group: Group,
        trials: Iterable[Trial],
        *,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        assert spec.search is not None
        self._cancelled = cancelled
        self._spec, self._search, self._group = spec, spec.search, group
        self._expander = Expander(spec, source=source)
        self._ended: dict[str, Ended] = {}
        self._waiting: set[str] = set()
        self._tried: dict[Configuration, list[str]] = {}
        self._confirmed: set[str] = set()
        self._exhausted = self._closed = False
        self._add(trials)

    @property
    def idle(self) -> bool:
        """Whether it is ready to propose further runs."""
        return not self._waiting and not self._closed

    @property
    def finished(self) -> bool:
        """Whether nothing is pending and no more runs will be proposed."""
        return not self._waiting and (self._closed or not (self._searching or self._confirmations()))

    @property
    def timed(self) -> bool:
        """Whether the search is limited by device-hours alone and has some left."""
        return self._spec.optimizers[self._group[0]].open_ended and self._has_time

    @property
    def _searching(self) -> bool:
        return self._may_ask > 0 and not self._exhausted and self._has_time

    @property
    def _may_ask(self) -> int:
        """Number of configurations that a search may still propose."""
        arm = self._spec.optimizers[self._group[0]]
        return (arm.samples or MOST_SAMPLES) - len(self._tried) if arm.adaptive else 0

    @property
    def _has_time(self) -> bool:
        arm, tried = self._spec.optimizers[self._group[0]], list(self._tried.values())
        if arm.device_hours is None:
            return True
        # If every run fails immediately, hours would never end a search.
        idle = arm.open_ended and tried and not self._seconds(tried[-self._search.round :])
        return not idle and self._seconds(tried) < 3600 * arm.device_hours

    def _seconds(self, configurations: Sequence[Sequence[str]]) -> float:
        return sum(self._ended[run].seconds for runs in configurations for run in runs if run in self._ended)

    def record(self, trial_id: str, ended: Ended | None) -> None:
        """Record that a run has ended; None if it has no result and a later command will repeat it."""
        self._waiting.discard(trial_id)
        if ended is not None:
            self._ended[trial_id] = ended

    def more(self) -> tuple[Trial, ...]:
        """Propose the next runs after all earlier ones have ended. This can take seconds."""
        return (self._next_round() if self._searching else ()) or self._confirmations()

    def accept(self, trials: Sequence[Trial]) -> None:
        """Wait for the runs that `more` proposed; an empty proposal ends the campaign."""
        self._add(trials)
        self._closed = not trials

    def _next_round(self) -> tuple[Trial, ...]:
        name, batch_size = self._group
        arm = self._spec.optimizers[name]
        count = min(self._search.round, self._may_ask)
        found = next_configurations(
            arm,
            [Tried(*each) for each in zip(self._tried, self._values(), strict=True)],
            count,
            directions=["minimize" if lower_is_better(each) else "maximize" for each in self._search.objective],
            stream=f"{name}/{batch_size}",
            round_size=self._search.round,
            cancelled=self._cancelled,
        )
        self._exhausted = len(found) < count
        return tuple(self._expander.trial(name, each, batch_size, seed) for each in found for seed in self._spec.seeds)

    def _confirmations(self) -> tuple[Trial, ...]:
        """Return the runs of the winner on fresh seeds that are not planned yet."""
        tried = [run for runs in self._tried.values() for run in runs]
        if not self._search.confirm or all(self._ended[run].objectives is None for run in tried if run in self._ended):
            return ()
        sign = 1 if lower_is_better(self._search.objective[0]) else -1
        # If all others miss the target, a diverged run has the same score; the tie is resolved against it.
        scores = {
            configuration: (
                sign * values[0],
                sum(self._ended[run].objectives is None for run in runs if run in self._ended),
            )
            for (configuration, runs), values in zip(self._tried.items(), self._values(), strict=True)
            if values is not None
        }
        winner, (name, batch_size) = min(scores, key=lambda each: scores[each]), self._group
        trials = confirmations(self._search, self._expander, name, winner, batch_size)
        return tuple(trial for trial in trials if trial.id not in self._confirmed)

    def _values(self) -> tuple[tuple[float, ...] | None, ...]:
        runs = [[self._ended[run].objectives for run in runs if run in self._ended] for runs in self._tried.values()]
        return configuration_values(runs, self._search)

    def _add(self, trials: Iterable[Trial]) -> None:
        for trial in trials:
            self._waiting.add(trial.id)
            if trial.confirmation:
                self._confirmed.add(trial.id)
            else:
                self._tried.setdefault(trial.hyperparameters, []).append(trial.id)


class Searches:
    """All campaigns of a study. They compute in a separate thread, as fitting a Gaussian process can be slow."""

    def __init__(self, spec: StudySpec, source: str, trials: Sequence[Trial]) -> None:
        confirms = spec.search is not None and spec.search.confirm > 0
        self._cancelled = threading.Event()
        self._campaigns = {
            (name, batch_size): Campaign(
                spec,
                source,
                (name, batch_size),
                [trial for trial in trials if trial.group == (name, batch_size)],
                cancelled=self._cancelled.is_set,
            )
            for name, arm in spec.optimizers.items()
            for batch_size in spec.batch_sizes
            if arm.adaptive or confirms
        }
        self._search = spec.search
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="searches")
        self._pending: dict[Group, concurrent.futures.Future[tuple[Trial, ...]]] = {}

    def __enter__(self) -> Searches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cancelled.set()  # otherwise the process would not end before the last configuration of a round
        self._thread.shutdown(wait=False, cancel_futures=True)

    @property
    def wanted(self) -> bool:
        """Whether any campaign needs results."""
        return bool(self._campaigns)

    @property
    def open(self) -> bool:
        """Whether more trials may come."""
        return any(not campaign.finished for campaign in self._campaigns.values())

    @property
    def unbounded(self) -> bool:
        """Whether a search is limited by device-hours alone and has some left."""
        return any(campaign.timed for campaign in self._campaigns.values())

    @property
    def stage(self) -> str:
        """Empty: rounds are not described."""
        return ""

    def learn(self, runs: pd.DataFrame, curves: pd.DataFrame) -> None:
        """Load the known results from the tables of a study directory."""
        finished = runs[runs["status"].isin(_FINAL)]
        by_run = {str(name): rows.to_dict("records") for name, rows in curves.groupby("trial_id")}
        for row in finished.to_dict("records"):
            self._record((row["optimizer"], row["batch_size"]), row["trial_id"], row, by_run.get(row["trial_id"], []))

    def expect(self, plan: Plan, runs: pd.DataFrame) -> Plan:
        """Return the plan with the device-hours used so far, without searches that have none left."""
        return with_search_seconds(plan, search_seconds(runs))

    def tell(self, result: PackResult) -> None:
        """Add the results of a pack."""
        if not self.wanted:
            return  # converting the curves of a large pack is slow
        for run in result.runs:
            row = result_row(run) if run.status.final else None
            self._record(run.trial.group, run.trial.id, row, [each.row() for each in run.measurements])

    def _record(
        self, group: Group, trial_id: str, row: Mapping[Any, Any] | None, curve: Sequence[Mapping[Any, Any]]
    ) -> None:
        if group in self._campaigns:
            assert self._search is not None
            ended = row and Ended(run_values(row, curve, self._search), row["train_seconds"] + row["eval_seconds"])
            self._campaigns[group].record(trial_id, ended or None)

    def new_trials(self, *, wait: bool) -> Iterator[tuple[Trial, ...]]:
        """Yield the trials proposed since the last call; with `wait`, block until there are some.

        Raises:
            UserError: a sampler raised an exception.
        """
        for group, campaign in self._campaigns.items():
            if campaign.idle and group not in self._pending:
                self._pending[group] = self._thread.submit(campaign.more)
        if wait and self._pending:
            concurrent.futures.wait(self._pending.values(), return_when=concurrent.futures.FIRST_COMPLETED)
        for group in [group for group, future in self._pending.items() if future.done()]:
            try:
                trials = self._pending.pop(group).result()
            except Exception as error:  # Optuna's numerics may raise anything
                raise UserError(
                    f"optimizers.{group[0]} at batch size {group[1]}: its search can't continue "
                    f"({type(error).__name__}: {first_line(error)})\n"
                    "  Reported results are kept. Use another design, under another name, and run again"
                ) from error
            self._campaigns[group].accept(trials)
            if trials:
                yield trials


def with_searches(plan: Plan, planned: pd.DataFrame | None, lock: WriterLock) -> tuple[Plan, Searches]:
    """Return a plan with the trials that earlier searches and confirmations generated, and their source.

    Args:
        plan: plan of a study.
        planned: table of planned runs of an earlier command; None if there was none.
        lock: lock of the study directory, which searches do not use.
    """
    if planned is not None:
        plan = with_recorded(plan, recorded_trials(planned, plan.spec, plan.source))
    return plan, Searches(plan.spec, plan.source, plan.trials)


def confirmations(
    search: SearchSpec, expander: Expander, arm: str, configuration: Configuration, batch_size: int
) -> tuple[Trial, ...]:
    """Return the runs of a configuration on fresh seeds."""
    seeds = range(CONFIRMATION_SEEDS, CONFIRMATION_SEEDS + search.confirm)
    return tuple(expander.trial(arm, configuration, batch_size, seed) for seed in seeds)


def search_seconds(runs: pd.DataFrame) -> dict[Group, float]:
    """Return the device-seconds that count towards each search's `device_hours`, by optimizer and batch size.

    They are those of all runs with a final result, without confirmations.
    """
    counted = runs[runs["status"].isin(_FINAL) & ~runs["confirmation"].astype(bool)]
    seconds = counted["train_seconds"] + counted["eval_seconds"]
    totals: defaultdict[Group, float] = defaultdict(float)
    for name, batch_size, taken in zip(counted["optimizer"], counted["batch_size"], seconds, strict=True):
        totals[str(name), int(batch_size)] += float(taken)
    return dict(totals)


def recorded_trials(plan: pd.DataFrame, spec: StudySpec, source: str) -> tuple[Trial, ...]:
    """Return the trials that earlier commands generated, from their plan, for the study's current seeds.

    Rows that do not match the current study file, such as those outside a smaller box, are omitted.
    """
    expander, found = Expander(spec, source=source), dict[str, Trial]()
    for row in plan.to_dict("records"):
        name, batch_size, seed = str(row["optimizer"]), int(row["batch_size"]), int(row["seed"])
        arm = spec.optimizers.get(name)
        fresh = seed >= CONFIRMATION_SEEDS
        if arm is None or batch_size not in spec.batch_sizes or not (arm.adaptive or fresh):
            continue
        configuration = tuple((each, float(row.get(f"param.{each}", float("nan")))) for each in arm.axes())
        if expander.trial(name, configuration, batch_size, seed).id != row["trial_id"]:
            continue
        if not all(arm.axes()[each].holds(value) for each, value in configuration):
            continue
        if not fresh:
            trials = tuple(expander.trial(name, configuration, batch_size, each) for each in spec.seeds)
        else:
            trials = confirmations(spec.search, expander, name, configuration, batch_size) if spec.search else ()
        found |= {trial.id: trial for trial in trials}
    return tuple(found.values())
