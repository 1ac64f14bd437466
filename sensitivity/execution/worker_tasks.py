"""What is asked of a worker besides training packs: to start, to measure pack sizes, to train a pack again."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
import torch

from sensitivity.execution.costs import Sample, measure
from sensitivity.execution.loading import load
from sensitivity.execution.losses import answer
from sensitivity.execution.prepare import Plan
from sensitivity.execution.resources import request
from sensitivity.execution.verification import Comparison, Curve, RecordedPack, train_again
from sensitivity.study.errors import UserError
from sensitivity.study.execution import ExecutionSpec
from sensitivity.study.origin import Origin
from sensitivity.study.trials import Group
from sensitivity.training.calibration import Cost


def start_workers(count: int, execution: ExecutionSpec) -> None:
    """Let Ray start workers that import what packs need while this process is busy; Tune will find them idle."""
    task = ray.remote(num_cpus=execution.threads, max_retries=0)(_import_runner)
    for _ in range(count):
        task.remote()


def _import_runner() -> None:
    """Import what packs need, which takes seconds."""
    importlib.import_module("sensitivity.execution.runner")


def _task(function: Callable[..., Any], execution: ExecutionSpec) -> Any:
    """Return a function as a task of Ray that takes what a pack takes."""
    asked = request(execution)
    return ray.remote(
        num_cpus=asked.pop("CPU"),
        num_gpus=asked.pop("GPU", 0),
        resources=asked,
        label_selector=dict(execution.labels),
        max_retries=0,
    )(function)


def measure_on_cluster(plan: Plan, groups: Mapping[Group, Sequence[Sample]], *, workers: int) -> dict[Group, Cost]:
    """Measure as `costs.measure` does, in a worker on the Ray that is there.

    Raises:
        UserError: the user's code raises in training, or no worker lives long enough to measure.
    """
    task = _task(_measure_there, plan.spec.execution)
    costs: dict[Group, Cost] | UserError = answer(
        lambda: task.remote(dict(groups), plan.origin, plan.spec.execution, workers),
        doing="measuring the pack sizes on the cluster",
        fix="Give the study a size, and nothing is measured: [execution] pack_size = 8",
    )
    if isinstance(costs, UserError):
        raise costs
    return costs


def again_there(plan: Plan, recorded: RecordedPack, curves: Mapping[str, Curve], *, seconds: float) -> Comparison:
    """Train a pack again as `verification.train_again` does, in a worker on the Ray that is there.

    Raises:
        UserError: no worker lives long enough.
    """
    task = _task(_again, plan.spec.execution)
    found: Comparison = answer(
        lambda: task.remote(recorded, dict(curves), plan.origin, seconds),
        doing="training a pack again",
        fix="Every result is kept; `sensitivity verify` trains some again on this machine",
    )
    return found


def _again(recorded: RecordedPack, curves: Mapping[str, Curve], origin: Origin, seconds: float) -> Comparison:
    problem = load(origin, torch.device(recorded.execution.device))
    return train_again(problem, recorded, curves, seconds=seconds)


def _measure_there(
    groups: Mapping[Group, Sequence[Sample]], origin: Origin, execution: ExecutionSpec, workers: int
) -> dict[Group, Cost] | UserError:
    try:
        return measure(groups, load(origin, torch.device(execution.device)), execution, workers=workers)
    except UserError as error:  # as a value: Ray would wrap it in its own
        return error
