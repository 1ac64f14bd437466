"""Further tasks of workers: starting up, measuring pack sizes, training a pack again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sensitivity.execution.costs import Sample, measure
from sensitivity.execution.loading import load
from sensitivity.execution.losses import result_with_restarts
from sensitivity.execution.prepare import Plan
from sensitivity.execution.verification import Comparison, Curve, RecordedPack, train_again
from sensitivity.execution.worker_pool import PooledWorker
from sensitivity.execution.worker_pool import workers as workers_for
from sensitivity.study.errors import UserError
from sensitivity.study.execution import ExecutionSpec
from sensitivity.study.origin import Origin
from sensitivity.study.trials import Group
from sensitivity.training.calibration import Cost


def start_workers(count: int, plan: Plan) -> None:
    """Start `count` workers, which import their modules while this process is occupied."""
    workers_for(plan.spec.execution).start(count, plan.origin.snapshot)


def _run_in_worker(plan: Plan, function: Callable[..., Any], *arguments: Any, doing: str, fix: str) -> Any:
    """Return the result of a function run in a worker.

    Args:
        plan: plan of the study.
        function: function to call.
        arguments: arguments of the function.
        doing: description of the task, for the error message.
        fix: fix in the error message.

    Raises:
        UserError: every worker is lost before it has the result.
    """
    pool, taken = workers_for(plan.spec.execution), list[PooledWorker]()

    def start() -> Any:
        taken.append(pool.take(plan.origin.snapshot))
        return taken[-1].actor.call.remote(function, *arguments)

    try:
        found = result_with_restarts(start, doing=doing, fix=fix)
    except BaseException:
        for worker in taken:
            pool.discard(worker)
        raise
    for worker in taken[:-1]:  # these were lost
        pool.discard(worker)
    taken[-1].actor.rest.remote()  # packs that share its accelerator need the memory
    pool.give_back(taken[-1])
    return found


def measure_on_cluster(plan: Plan, groups: Mapping[Group, Sequence[Sample]], *, workers: int) -> dict[Group, Cost]:
    """Run `costs.measure` in a worker.

    Raises:
        UserError: the user's code raises in training, or every worker is lost before it has the result.
    """
    costs: dict[Group, Cost] | UserError = _run_in_worker(
        plan,
        _measure_there,
        dict(groups),
        plan.origin,
        plan.spec.execution,
        workers,
        doing="measuring the pack sizes on the cluster",
        fix="Set a pack size, so that nothing is measured: [execution] pack_size = 8",
    )
    if isinstance(costs, UserError):
        raise costs
    return costs


def train_again_on_cluster(
    plan: Plan, recorded: RecordedPack, curves: Mapping[str, Curve], *, seconds: float
) -> Comparison:
    """Run `verification.train_again` in a worker.

    Raises:
        UserError: every worker is lost before it has the result.
    """
    found: Comparison = _run_in_worker(
        plan,
        _train_again_there,
        recorded,
        dict(curves),
        plan.origin,
        seconds,
        doing="training a pack again",
        fix="Every result is kept; `sensitivity verify` trains some again on this machine",
    )
    return found


def _train_again_there(
    recorded: RecordedPack, curves: Mapping[str, Curve], origin: Origin, seconds: float
) -> Comparison:
    problem = load(origin, torch.device(recorded.execution.device))
    return train_again(problem, recorded, curves, seconds=seconds)


def _measure_there(
    groups: Mapping[Group, Sequence[Sample]], origin: Origin, execution: ExecutionSpec, workers: int
) -> dict[Group, Cost] | UserError:
    try:
        return measure(groups, load(origin, torch.device(execution.device)), execution, workers=workers)
    except UserError as error:  # returned as a value, because Ray would wrap the exception
        return error
