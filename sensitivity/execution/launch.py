"""Running a study from its plan to its directory: lock, manifest, plan, and whatever is missing."""

from __future__ import annotations

import functools
import itertools
import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from sensitivity.execution.costs import measure_here, pack_sizes, samples
from sensitivity.execution.executor import Sessions, one_session
from sensitivity.execution.interruption import Interruptible
from sensitivity.execution.prepare import Plan, available_workers, with_recorded, with_search_seconds
from sensitivity.execution.progress import Part, Progress, Share, part_of
from sensitivity.execution.searches import Searches, recorded_trials, search_seconds
from sensitivity.execution.supply import Supply
from sensitivity.execution.verification import (
    Comparison,
    budget_seconds,
    choose,
    curves_of,
    recorded_packs,
    train_again,
)
from sensitivity.store.checkpoints import sweep_checkpoints
from sensitivity.store.directory import Place, first_line, patiently
from sensitivity.store.lock import WriterLock
from sensitivity.store.manifest import MANIFEST, Manifest, record_determinism, write_manifest
from sensitivity.store.reader import finished_trials, read_plan, read_runs, read_study
from sensitivity.store.writer import write_plan
from sensitivity.study.errors import UserError
from sensitivity.study.results import Status
from sensitivity.study.schedule import total_steps
from sensitivity.study.trials import Group, Pack, Trial, group
from sensitivity.training.calibration import Cost
from sensitivity.training.cost import example_cost

logger = logging.getLogger(__name__)

Show = Callable[[Progress], AbstractContextManager[Callable[[], None]]]
"""Shows progress while inside, and gives what to call when it has changed."""


_UNFINISHED = [status.value for status in Status if not status.final]


@dataclass(frozen=True)
class Outcome:
    """How a study stands at the end of a command."""

    study: str
    directory: str
    planned: int
    statuses: dict[str, int]
    causes: dict[str, int]
    """What failed and interrupted runs say, the most frequent first, with their counts."""
    interrupted: bool
    determinism: dict[str, Any] | None = None
    """What came of training some runs again, by this command or the last that trained any."""

    @property
    def trained(self) -> bool:
        """Whether any run has a result of training, or waits for one."""
        return any(status not in ("failed", "interrupted") for status in self.statuses)


def launch(
    plan: Plan,
    directory: Place,
    *,
    address: str | None,
    workers: int | None,
    show: Show,
    sessions: Sessions = one_session,
) -> Outcome:
    """Run what is missing of a plan and keep it in `directory`; without anything missing, do not start Ray.

    Args:
        plan: of the study.
        directory: the study's own.
        address: of a running Ray cluster; None starts Ray on this machine.
        workers: packs at a time; None takes one for each core (`threads` cores a pack).
        show: shows progress.
        sessions: gives Ray.

    Raises:
        UserError: the directory can't be written or holds another study, or the cluster does not answer.
    """
    interrupted = False
    with WriterLock(directory) as lock:
        lock.sweep()
        finished = finished_trials(directory)  # first: a damaged part stops the command before anything is written
        recorded = read_plan(directory) if directory.exists(MANIFEST) else None
        manifest = write_manifest(directory, plan.spec, plan.source, plan.origin)
        if recorded is not None:
            plan = with_recorded(plan, recorded_trials(recorded, plan.spec, plan.source))
        write_plan(directory, plan.trials, plan.spec.hyperparameters)
        searches = Searches(plan.spec, plan.source, plan.trials)
        if searches.wanted:
            known = read_study(directory)
            searches.learn(known.runs, known.curves)
            plan = with_search_seconds(plan, search_seconds(known.runs))
        if searches.open or any(trial.id not in finished for trial in plan.trials):
            stop = Interruptible()
            try:
                with stop, searches:
                    _run_missing(
                        plan,
                        finished,
                        directory,
                        manifest,
                        lock,
                        searches,
                        address=address,
                        workers=workers,
                        show=show,
                        sessions=sessions,
                        stop=stop,
                    )
            except KeyboardInterrupt:
                interrupted = True
            except UserError:
                if not stop.cause:
                    raise
            except Exception:  # Ray's own on the way to the interruption, or those of a terminal that was closed
                if not stop.cause and not stop.requested:
                    raise
                interrupted = True
            if stop.cause:
                raise _lost(stop.cause, directory)
        study = read_study(directory)
        lock.sweep()  # of workers that were killed meanwhile
        sweep_checkpoints(directory, set(study.runs.loc[study.runs["status"].isin(_UNFINISHED), "trial_id"]))
    runs = study.runs
    statuses = runs["status"].value_counts()
    causes = runs.loc[runs["status"].isin(["failed", "interrupted"]), "message"].value_counts()
    return Outcome(
        study=plan.spec.name,
        directory=directory.uri,
        planned=len(runs),
        statuses={str(status): int(count) for status, count in statuses.items()},
        causes={str(message): int(count) for message, count in causes.head(3).items()},
        interrupted=interrupted,
        determinism=study.manifest.determinism,
    )


def _lost(cause: str, directory: Place) -> UserError:
    statuses = read_runs(directory).runs["status"]
    there = int((~statuses.isin(_UNFINISHED)).sum())
    return UserError(
        f"{cause}\n"
        f"  No reported result is lost: {there} of {len(statuses)} runs have theirs in {directory.uri}\n"
        "  Run the same again, and it goes on from there. If the memory was full (`dmesg` tells), give fewer --workers"
    )


def _run_missing(
    plan: Plan,
    finished: frozenset[str],
    directory: Place,
    manifest: Manifest,
    lock: WriterLock,
    searches: Searches,
    *,
    address: str | None,
    workers: int | None,
    show: Show,
    sessions: Sessions,
    stop: Interruptible,
) -> None:
    execution = plan.spec.execution
    if address is None:
        workers = workers or available_workers(execution.threads)
    ray = sessions(address=address, workers=workers, execution=execution, on_loss=stop.stop)
    with ray as (at_once, scratch):
        # These import Ray, which by now has read the environment.
        from sensitivity.execution.preflight import check_nodes
        from sensitivity.execution.runner import Destination, run_packs
        from sensitivity.execution.worker_tasks import again_there, measure_on_cluster, start_workers

        stop.arm()  # Ray's start has put handlers of its own in place of ours
        if address is not None:
            check_nodes(plan, directory)
        groups = {g: some for g, some in samples(plan, finished=finished).items() if some[0].id not in finished}
        # Where the packs will run, so that the sizes suit that machine; here it saves a worker's start.
        here = address is None and execution.device == "cpu"
        measure = measure_here if here else measure_on_cluster
        if here:
            start_workers(at_once - 1, execution)  # one core is for the measurement
        costs = {} if execution.pack_size else measure(plan, groups, workers=at_once)
        sizes = pack_sizes(costs)
        begun = sweep_checkpoints(directory, {trial.id for trial in plan.trials if trial.id not in finished})
        packs = plan.packs(sizes, finished=finished, workers=at_once, begun=begun)
        progress = _progress(plan, finished, costs)
        known = list(plan.trials)

        def cut(trials: Sequence[Trial]) -> Sequence[Pack]:
            """Write what a search has come up with into the plan, before anything of it starts, and pack it."""
            known.extend(trials)

            def write() -> None:
                lock.require()
                write_plan(directory, known, plan.spec.hyperparameters)

            patiently(write)
            fair = -(-len(trials) // at_once)
            return group(trials, execution.pack_size or min(sizes.get(trials[0].group, fair), fair))

        with show(progress) as on_change:
            on_change()
            run_packs(
                plan,
                Supply(packs, workers=at_once, searches=searches, cut=cut),
                Destination(directory=directory, manifest=manifest, lock=lock),
                workers=at_once,
                scratch=scratch,
                progress=progress,
                on_change=on_change,
                stopped=lambda: stop.requested,
            )
        again = functools.partial(train_again, plan.problem) if here else functools.partial(again_there, plan)
        _check_determinism(again, finished, directory, manifest, lock, seconds=budget_seconds(progress.elapsed))


def _check_determinism(
    again: Callable[..., Comparison],
    finished: AbstractSet[str],
    directory: Place,
    manifest: Manifest,
    lock: WriterLock,
    *,
    seconds: float,
) -> None:
    """Train a pack that was not `finished` before again, as far as `seconds` allow, and keep what came of it."""
    try:
        new = [each for each in recorded_packs(directory, manifest) if not each.statuses.keys() <= finished]
        chosen = choose(new, seconds, random.Random(manifest.spec_hash))
        if chosen is not None:
            found = again(chosen, curves_of(directory, chosen), seconds=seconds)
            lock.require()
            record_determinism(directory, manifest, found.content())
    except (Exception, SystemExit) as error:  # all results are there: nothing that happens here may cost them
        logger.warning("no run could be trained again to compare: %s", first_line(error))


def _progress(plan: Plan, finished: AbstractSet[str], costs: Mapping[Group, Cost]) -> Progress:
    """Return the progress of a command that begins with `finished`; what was measured tells how long its work takes."""
    arms, weigh = plan.spec.optimizers, _weigher(plan)
    shares: dict[Part, Share] = {}
    for name, batch_size in itertools.product(arms, plan.spec.batch_sizes):
        group, left = (name, batch_size), plan.seconds_left((name, batch_size))
        shares[group, True], shares[group, False] = Share(), Share()
        if left is not None:
            before = plan.search_seconds.get(group, 0.0)
            shares[group, False] = Share(limit=before + left, before=before, work=math.inf if _open(plan, group) else 0)
    for trial in plan.expected:
        if trial.id not in finished:
            shares[part_of(trial)].work += weigh(trial.batch_size)
    work = sum(weigh(batch_size) for _, batch_size in costs)
    return Progress(
        planned=None if any(_open(plan, group) for group, _ in shares) else len(plan.expected),
        finished_before=sum(trial.id in finished for trial in plan.trials),
        shares=shares,
        weigh=weigh,
        expected_rate=sum(cost.seconds for cost in costs.values()) / work if costs else None,
    )


def _open(plan: Plan, group: Group) -> bool:
    """Whether a search goes on for as long as its hours last, and has some left."""
    return plan.spec.optimizers[group[0]].open_ended and plan.seconds_left(group) != 0


def _weigher(plan: Plan) -> Callable[[int], float]:
    """Return what gives the FLOPs of a run's gradients by its batch size: its weight in the progress."""
    per_example = example_cost(plan.problem).gradient_flops
    train_size = plan.problem.dataset.train_size
    budget = plan.spec.required_budget

    @functools.cache
    def weight(batch_size: int) -> float:
        return per_example * batch_size * total_steps(budget, train_size=train_size, batch_size=batch_size)

    return weight
