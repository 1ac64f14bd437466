"""The work of one command on a study directory: plan, lock, known results and further trials."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import logging
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sensitivity.execution.costs import measure_here, pack_sizes, samples
from sensitivity.execution.executor import Sessions, one_session
from sensitivity.execution.interruption import Interruptible
from sensitivity.execution.pack_scheduler import PackScheduler
from sensitivity.execution.prepare import Plan, available_workers
from sensitivity.execution.progress import Part, Progress, Share, Show, part_of
from sensitivity.execution.sources import SourceOf, TrialSource
from sensitivity.execution.verification import (
    Comparison,
    budget_seconds,
    choose,
    curves_of,
    recorded_packs,
    train_again,
    trained_parts,
)
from sensitivity.store.checkpoints import sweep_checkpoints
from sensitivity.store.counting import StudyStatuses, finished_trials, read_statuses
from sensitivity.store.directory import Place, first_line, patiently
from sensitivity.store.lock import WriterLock
from sensitivity.store.manifest import MANIFEST, Manifest, record_determinism, write_manifest
from sensitivity.store.memory import release_memory
from sensitivity.store.merging import merge_parts
from sensitivity.store.reader import read_plan, read_study
from sensitivity.store.schema import RUNS
from sensitivity.store.writer import write_plan
from sensitivity.study.errors import StorageError
from sensitivity.study.schedule import total_steps
from sensitivity.study.trials import Group, Pack, Trial, group
from sensitivity.training.calibration import Cost
from sensitivity.training.cost import example_cost

logger = logging.getLogger(__name__)

_MANY = 100_000
"""Number of trials from which on it is worth a second to free them at once."""
_MOST_COMPARED = 100
"""Most parts among whose packs one is chosen to be trained again; describing all of a large study takes long."""


@dataclass(frozen=True, kw_only=True)
class Machines:
    """The machines on which packs are trained."""

    address: str | None = None
    """Address of a running Ray cluster; None starts Ray on this machine."""
    workers: int | None = None
    """Number of packs at a time; None for as many as fit, with `threads` cores per pack."""
    sessions: Sessions = one_session
    """Provides Ray."""


class StudyRun:
    """A study directory locked by one command."""

    def __init__(
        self,
        plan: Plan,
        directory: Place,
        lock: WriterLock,
        manifest: Manifest,
        source: TrialSource,
        finished: frozenset[str],
    ) -> None:
        self.plan = plan
        self.directory = directory
        self.source = source
        self.finished = finished
        """Ids of the trials that had a result before this command."""
        self._lock, self._manifest = lock, manifest
        self._planned = list(plan.trials)
        self._parts_before = frozenset(directory.child(RUNS).files(".parquet"))

    @classmethod
    @contextlib.contextmanager
    def begin(cls, plan: Plan, directory: Place, source_of: SourceOf) -> Iterator[StudyRun]:
        """Acquire the directory's lock, write the manifest and the plan, and load the known results.

        Raises:
            UserError: the directory can't be written, is damaged, or contains another study.
        """
        with WriterLock(directory) as lock:
            lock.sweep()
            finished = finished_trials(
                directory
            )  # before anything is written, so that a damaged part stops the command
            planned = read_plan(directory) if directory.exists(MANIFEST) else None
            manifest = write_manifest(directory, plan.spec, plan.source, plan.origin)
            plan, source = source_of(plan, planned, lock)
            write_plan(directory, plan.trials, plan.spec.hyperparameters)
            if source.wanted:
                known = read_study(directory)
                source.learn(known.runs, known.curves)
                plan = source.expect(plan, known.runs)
            yield cls(plan, directory, lock, manifest, source, finished)
            lock.sweep()  # files of workers that were killed meanwhile

    @property
    def anything_missing(self) -> bool:
        """Whether there is anything to train."""
        return self.source.open or any(trial.id not in self.finished for trial in self.plan.trials)

    def forget_trials(self, given: Plan) -> None:
        """Release the trials, also those of the plan that `begin` was given, and their memory; call after `train`."""
        many = len(self.plan.trials) > _MANY
        for plan in (given, self.plan):
            plan.forget_trials()
        self._planned.clear()
        if many:
            gc.collect()  # Tune's objects, which refer to trials, refer to one another
            release_memory()

    def merge(self) -> None:
        """Merge small parts, unless the place fails; all results are still there then, and after an interruption."""
        try:
            merge_parts(self.directory, require=self._lock.require)
        except StorageError as error:
            logger.warning("parts were not merged: %s", first_line(error))
        release_memory()

    def end(self) -> StudyStatuses:
        """Return the statuses of the study's runs, and delete checkpoints that will not be resumed."""
        study = read_statuses(self.directory)
        sweep_checkpoints(self.directory, study.unfinished)
        return study

    def train(self, machines: Machines, *, show: Show, stop: Interruptible) -> None:
        """Train all missing and newly generated runs, then train one pack again to compare.

        Args:
            machines: machines on which packs are trained.
            show: displays progress.
            stop: block entered by the caller; its handlers are installed again after Ray has replaced them, and it is
                stopped if a process of Ray is lost.

        Raises:
            KeyboardInterrupt: a stop was requested.
            UserError: the directory can't be written, the cluster does not answer, or workers are lost repeatedly.
        """
        execution, workers = self.plan.spec.execution, machines.workers
        if machines.address is None:
            workers = workers or available_workers(execution.threads)
        ray = machines.sessions(address=machines.address, workers=workers, execution=execution, on_loss=stop.stop)
        with ray as (at_once, scratch):
            # These modules import Ray, whose environment is set by now.
            from sensitivity.execution.preflight import check_nodes
            from sensitivity.execution.runner import Destination, run_packs
            from sensitivity.execution.worker_tasks import train_again_on_cluster

            stop.arm()
            if machines.address is not None:
                check_nodes(self.plan, self.directory)
            here = machines.address is None and execution.device == "cpu"
            costs = self._costs(at_once, here=here)
            sizes = pack_sizes(costs)
            progress = self._progress(costs, at_once)
            with show(progress) as on_change:
                on_change()
                run_packs(
                    self.plan,
                    PackScheduler(
                        self._packs(sizes, at_once),
                        workers=at_once,
                        source=self.source,
                        cut=functools.partial(self._cut, sizes, at_once, progress),
                    ),
                    Destination(directory=self.directory, manifest=self._manifest, lock=self._lock),
                    workers=at_once,
                    scratch=scratch,
                    progress=progress,
                    on_change=on_change,
                    stopped=lambda: stop.requested,
                )
            again = functools.partial(train_again, self.plan.problem)
            if not here:
                again = functools.partial(train_again_on_cluster, self.plan)
            self._check_determinism(again, seconds=budget_seconds(progress.elapsed))

    def _costs(self, at_once: int, *, here: bool) -> dict[Group, Cost]:
        """Measure the cost of the missing runs where the packs will run; `here` avoids starting a worker."""
        from sensitivity.execution.worker_tasks import measure_on_cluster, start_workers

        chosen = samples(self.plan, finished=self.finished)
        groups = {key: some for key, some in chosen.items() if some[0].trials[0].id not in self.finished}
        if here:
            start_workers(at_once - 1, self.plan)  # one core is for the measurement
        if self.plan.spec.execution.pack_size:
            return {}
        return (measure_here if here else measure_on_cluster)(self.plan, groups, workers=at_once)

    def _packs(self, sizes: Mapping[Group, int], at_once: int) -> tuple[Pack, ...]:
        missing = {trial.id for trial in self.plan.trials if trial.id not in self.finished}
        begun = sweep_checkpoints(self.directory, missing)
        return self.plan.packs(sizes, finished=self.finished, workers=at_once, begun=begun)

    def _cut(
        self, sizes: Mapping[Group, int], at_once: int, progress: Progress, trials: Sequence[Trial]
    ) -> Sequence[Pack]:
        """Write new trials to the plan before any of them starts, and group them into packs."""
        self._planned.extend(trials)
        if self.source.stage:
            progress.begin(self.source.stage, trials)

        def write() -> None:
            self._lock.require()
            write_plan(self.directory, self._planned, self.plan.spec.hyperparameters)

        patiently(write)
        fair = -(-len(trials) // at_once)
        own = self.plan.spec.execution.pack_size
        return group(trials, {trial.group: own or min(sizes.get(trial.group, fair), fair) for trial in trials})

    def _check_determinism(self, again: Callable[..., Comparison], *, seconds: float) -> None:
        """Train one of this command's packs again, within `seconds`, and record the comparison."""
        try:
            draw = random.Random(self._manifest.spec_hash)
            new = [name for name in self.directory.child(RUNS).files(".parquet") if name not in self._parts_before]
            parts = trained_parts(self.directory, draw.sample(new, min(len(new), _MOST_COMPARED)))
            wanted = {id_ for ids in parts.values() for id_ in ids}
            trials = {trial.id: trial for trial in self._planned if trial.id in wanted}
            chosen = choose(recorded_packs(self.directory, self._manifest, parts, trials), seconds, draw)
            if chosen is not None:
                found = again(chosen, curves_of(self.directory, chosen), seconds=seconds)
                self._lock.require()
                record_determinism(self.directory, self._manifest, found.content())
        except (Exception, SystemExit) as error:  # an error here must not affect the results
            logger.warning("no run could be trained again for comparison: %s", first_line(error))

    def _progress(self, costs: Mapping[Group, Cost], workers: int) -> Progress:
        """Return this command's initial progress, with durations estimated from the measured costs."""
        plan, weigh = self.plan, self._weigher(costs)
        shares: dict[Part, Share] = {}
        for name, batch_size in itertools.product(plan.spec.optimizers, plan.spec.batch_sizes):
            key, left = (name, batch_size), plan.seconds_left((name, batch_size))
            shares[key, True], shares[key, False] = Share(), Share()
            if left is not None:
                before = plan.search_seconds.get(key, 0.0)
                endless = plan.spec.optimizers[name].open_ended and left != 0
                shares[key, False] = Share(limit=before + left, before=before, work=math.inf if endless else 0)
        for trial in plan.expected:
            if trial.id not in self.finished:
                shares[part_of(trial)].work += weigh(trial.group)
        return Progress(
            planned=None if self.source.unbounded else len(plan.expected),
            finished_before=sum(trial.id in self.finished for trial in plan.trials),
            shares=shares,
            weigh=weigh,
            workers=workers if costs else None,
            stage=self.source.stage,
        )

    def _weigher(self, costs: Mapping[Group, Cost]) -> Callable[[Group], float]:
        """Return a function from an optimizer and batch size to a run's weight in the progress.

        It is the measured device-seconds, with those of groups that were not measured in proportion to the FLOPs of
        their gradients; without any measurement, these FLOPs.
        """
        per_example = example_cost(self.plan.problem).gradient_flops
        train_size = self.plan.problem.dataset.train_size
        budget = self.plan.spec.required_budget

        def flops(group: Group) -> float:
            return per_example * group[1] * total_steps(budget, train_size=train_size, batch_size=group[1])

        measured = sum(flops(group) for group in costs)
        rate = sum(cost.seconds for cost in costs.values()) / measured if measured else 1.0

        @functools.cache
        def weight(group: Group) -> float:
            return costs[group].seconds if group in costs else rate * flops(group)

        return weight
