"""Cost of trials on a device, from a short measurement; it determines pack sizes and the price of a plan."""

from __future__ import annotations

import itertools
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sensitivity.execution.cost_cache import CostCache
from sensitivity.execution.loading import load
from sensitivity.execution.prepare import Plan
from sensitivity.study.arms import OWN, TABLES, declared_kind
from sensitivity.study.errors import UserError
from sensitivity.study.execution import ExecutionSpec
from sensitivity.study.hyperparameters import MODEL_ARGUMENTS, hyperparameter
from sensitivity.study.trials import Group, Trial
from sensitivity.study.users_code import users_code
from sensitivity.study.words import count
from sensitivity.training.calibration import Cost, calibrate
from sensitivity.training.cost import run_cost
from sensitivity.training.memory import keep_freed_memory
from sensitivity.training.precision import set_tf32
from sensitivity.training.problems import Problem

logger = logging.getLogger(__name__)

_LARGEST_MEASURED = 64
"""Largest pack whose speed is measured."""
_LARGEST_PACK = 1024
"""Largest pack of runs that take almost no time; as large as a study file may set it."""
_SHORTEST_PACK_S = 1.0
"""Distributing and recording a pack takes 0.1 s, so larger packs are faster even if training itself does not gain."""
_MAX_MODELS = 3
"""Most models of different arguments that are measured; others have the cost of the nearest one."""
_SHARE_OF_MEMORY = 0.5
"""Share of the machine's memory that all packs together may use."""
_SHARE_OF_ACCELERATOR = 0.8
"""Share of an accelerator's free memory that packs may use."""


@dataclass(frozen=True, kw_only=True)
class PriceLine:
    """The price of one arm at one batch size."""

    optimizer: str
    batch_size: int
    planned: int
    """Number of runs of the study."""
    missing: int
    """Number of runs without a result, which are priced."""
    cost: Cost
    limit: float | None = None
    """Device-seconds after which a search proposes no further runs, plus those of its last round."""
    estimated: bool = False
    """Whether the numbers of runs are estimated from a search's device-hours."""

    @property
    def device_seconds(self) -> float:
        """Device-seconds of the missing runs."""
        whole = self.missing * self.cost.seconds
        return whole if self.limit is None else min(whole, self.limit)

    @property
    def pack_size(self) -> int:
        """Number of trials in a pack."""
        return _pack_size(self.cost)

    @property
    def pack_bytes(self) -> float:
        """Peak memory of a pack in bytes, without the process and the data set."""
        return self.pack_size * self.cost.member_bytes


@dataclass(frozen=True, kw_only=True)
class Price:
    """The price of a plan, for `workers` packs at a time on this machine."""

    lines: tuple[PriceLine, ...]
    workers: int

    @property
    def device_seconds(self) -> float:
        """Device-seconds of all missing runs."""
        return sum(line.device_seconds for line in self.lines)

    @property
    def wall_seconds(self) -> float:
        """Time on this machine without Ray's start; an upper bound, because diverged runs end early."""
        return self.device_seconds / self.workers


def price(plan: Plan, costs: Mapping[Group, Cost], *, finished: AbstractSet[str], workers: int) -> Price:
    """Return the cost of the runs of a plan that are not in `finished`."""
    lines = []
    for (arm, batch_size), cost in costs.items():
        trials = [trial for trial in plan.expected if trial.group == (arm, batch_size)]
        missing = [trial for trial in trials if trial.id not in finished]
        left, search = plan.seconds_left((arm, batch_size)), plan.spec.search
        limit = None
        if left is not None and search is not None:
            limit = left + (search.round * len(plan.spec.seeds) + search.confirm) * cost.seconds
        estimated = bool(left) and plan.spec.optimizers[arm].open_ended
        further = _further_runs(plan, trials, missing, (left or 0.0) / cost.seconds) if estimated else 0
        lines.append(
            PriceLine(
                optimizer=arm,
                batch_size=batch_size,
                planned=len(trials) + further,
                missing=len(missing) + further,
                cost=cost,
                limit=limit,
                estimated=estimated,
            )
        )
    return Price(lines=tuple(lines), workers=workers)


def _further_runs(plan: Plan, trials: Sequence[Trial], missing: Sequence[Trial], most: float) -> int:
    """Return the number of runs of a search beyond `trials`, if its hours are used up after `most` missing runs.

    The last of `trials` represent one round. The search continues in whole rounds until the time is used up.
    """
    arm, seeds = plan.spec.optimizers[trials[0].arm], len(plan.spec.seeds)
    runs_per_round = plan.spec.search.round * seeds if plan.spec.search else 1
    known = sum(not trial.confirmation for trial in missing) - runs_per_round
    further = (max(math.ceil((most - known) / runs_per_round), 0) - 1) * runs_per_round
    cells = arm.most_cells()  # number of settings if all axes are lists, otherwise 0
    return min(further, max(0, cells * seeds - len(trials))) if cells else further


def _pack_size(cost: Cost) -> int:
    """Return the size of packs: the measured one, or more within memory if packs would take almost no time."""
    return max(cost.pack_size, min(_LARGEST_PACK, cost.most, math.ceil(_SHORTEST_PACK_S / cost.seconds)))


def pack_sizes(costs: Mapping[Group, Cost]) -> dict[Group, int]:
    """Return the size of the packs of each group."""
    return {group: _pack_size(cost) for group, cost in costs.items()}


@dataclass(frozen=True)
class Sample:
    """Trials that represent an arm at a batch size, at most as many as the largest measured pack has."""

    trials: tuple[Trial, ...]
    """Trials of equal structure."""
    share: float
    """Share of the arm's runs at the batch size that they represent."""


def samples(plan: Plan, *, finished: AbstractSet[str]) -> dict[Group, tuple[Sample, ...]]:
    """Return samples that represent each arm and batch size, one per model, at most three.

    Other structural hyperparameters have the middle one of the study's values.
    """
    most = plan.spec.execution.pack_size or _LARGEST_MEASURED
    by_group: dict[Group, list[Trial]] = {}
    for trial in plan.expected:
        by_group.setdefault(trial.group, []).append(trial)
    chosen = {}
    for group, trials in by_group.items():
        wanted = [trial for trial in trials if trial.id not in finished] or trials
        chosen[group] = tuple(_samples(wanted, most))
    return chosen


def _samples(trials: Sequence[Trial], most: int) -> Iterator[Sample]:
    by_model: dict[tuple[tuple[str, float], ...], list[Trial]] = {}
    for trial in trials:
        model = tuple(item for item in trial.structure if hyperparameter(item[0]).table == MODEL_ARGUMENTS)
        by_model.setdefault(model, []).append(trial)
    models = sorted(by_model)
    for low, high in itertools.pairwise(round(k * len(models) / _MAX_MODELS) for k in range(_MAX_MODELS + 1)):
        alike = models[low:high]
        if not alike:
            continue
        chosen = alike[-1] if high == len(models) else alike[len(alike) // 2]  # the largest determines what fits
        structures = sorted({trial.structure for trial in by_model[chosen]})
        middle = structures[len(structures) // 2]
        share = sum(len(by_model[model]) for model in alike) / len(trials)
        yield Sample(tuple([trial for trial in trials if trial.structure == middle][:most]), share)


def _average_cost(costs: Sequence[tuple[Cost, float]]) -> Cost:
    """Return the cost of an average trial from weighted costs; a pack of each kind must fit in memory."""

    def mean(of: Callable[[Cost], float]) -> float:
        return sum(of(cost) * share for cost, share in costs)

    seconds = mean(lambda cost: cost.step_seconds)
    return Cost(
        steps=costs[0][0].steps,
        flops=mean(lambda cost: cost.flops),
        step_seconds=seconds,
        evaluation_seconds=mean(lambda cost: cost.evaluation_seconds),
        pack_size=min(cost.pack_size for cost, _ in costs),
        most=min(cost.most for cost, _ in costs),
        gain=mean(lambda cost: cost.gain * cost.step_seconds) / seconds if seconds else costs[0][0].gain,
        member_bytes=max(cost.member_bytes for cost, _ in costs),
    )


def measure_here(plan: Plan, groups: Mapping[Group, Sequence[Sample]], *, workers: int) -> dict[Group, Cost]:
    """Measure on this machine, as `measure` does.

    Raises:
        UserError: the device is not available, or the user's code raises in training.
    """
    execution = plan.spec.execution
    if execution.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            'execution.device = "cuda", but this machine has no accelerator to measure on\n'
            '  For times and memory, plan on a machine that has one, or set device = "cpu"; --tflops gives a price\n'
            + _counted(plan)
        )
    problem = plan.problem
    if execution.device != "cpu":
        problem = load(plan.origin, torch.device(execution.device))
    return measure(groups, problem, execution, workers=workers)


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Counts of one arm at one batch size, known without measuring."""

    optimizer: str
    batch_size: int
    runs: int
    """Number of runs; 0 for a search that only its device-hours limit."""
    steps: int
    flops: float
    """FLOPs of training one run."""


def counted(plan: Plan) -> tuple[Counted, ...]:
    """Return the counts of a study that are known without measuring."""
    runs, found = Counter(trial.group for trial in plan.counted), []
    for group, of_group in samples(plan, finished=frozenset()).items():
        each = [(*run_cost(sample.trials[0], plan.problem), sample.share) for sample in of_group]
        flops = sum(flops * share for _, flops, share in each)
        optimizer, size = group
        found.append(Counted(optimizer=optimizer, batch_size=size, runs=runs[group], steps=each[0][0], flops=flops))
    return tuple(found)


def _counted(plan: Plan) -> str:
    """Describe the counts of a study that are known without measuring."""
    found, lines = counted(plan), []
    for one in found:
        hours = plan.spec.optimizers[one.optimizer].device_hours
        many = count(one.runs, "run") if one.runs else f"{hours:g} device-hours"
        each = f"{count(one.steps, 'step')}, {one.flops:.2g} FLOP each"
        lines.append(f"    {one.optimizer} at batch size {one.batch_size}: {many} of {each}")
    runs, total = sum(one.runs for one in found), sum(one.runs * one.flops for one in found)
    return "\n".join([f"  Known without measuring: {count(runs, 'run')}, {total:.2g} FLOP in all", *lines])


def measure(
    groups: Mapping[Group, Sequence[Sample]], problem: Problem, execution: ExecutionSpec, *, workers: int
) -> dict[Group, Cost]:
    """Choose each group's pack size by measuring training as in a worker, unless it is cached.

    Args:
        groups: samples that represent each arm and batch size.
        problem: the problem, on the device.
        execution: with a `pack_size`, only that size is measured, and compared with a single trial.
        workers: number of packs at a time, which share the machine's memory.

    Raises:
        UserError: the user's problem raises in training.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(execution.threads)
    keep_freed_memory()  # as in workers
    set_tf32(next(iter(groups.values()))[0].trials[0].workload.problem.precision)
    cache = CostCache(problem, execution, workers=workers)
    sizes = {} if execution.pack_size is None else {"sizes": (execution.pack_size,)}
    costs: dict[Group, Cost] = {}

    def calibrated(trials: Sequence[Trial]) -> Cost:
        memory = _memory(execution, workers)
        return calibrate(trials, problem, memory_bytes=memory, micro_batch=execution.micro_batch, **sizes)

    def one(trials: Sequence[Trial]) -> Cost:
        if (known := cache.get(trials)) is not None:
            return known
        try:
            with users_code(f"{trials[0].label()}: training"):
                cost = calibrated(trials)
        except UserError as error:
            if declared_kind(trials[0].settings["kind"]) != OWN:
                raise
            # Other optimizers of the study may work, and so may other settings of this one.
            logger.warning("%s\n  Its runs are still trained, and are priced like SGD's", error)
            return calibrated([_as_sgd(trial) for trial in trials])
        cache.put(trials, cost)
        return cost

    try:
        for group, of_group in groups.items():
            measured = [(one(sample.trials), sample.share) for sample in of_group]
            costs[group] = measured[0][0] if len(measured) == 1 else _average_cost(measured)
    finally:
        torch.set_num_threads(threads)
    return costs


def _as_sgd(trial: Trial) -> Trial:
    """Return a trial of SGD on the same problem."""
    tables = {name: trial.settings[name] for name in TABLES if name in trial.settings}
    kept = {name: value for name, value in trial.hyperparameters if name == "lr" or hyperparameter(name).table}
    numbers = tuple({**kept, "momentum": 0.0, "weight_decay": 0.0}.items())
    return replace(trial, settings={"kind": "sgd", "nesterov": False, **tables}, hyperparameters=numbers)


def _memory(execution: ExecutionSpec, workers: int) -> float:
    """Return the memory available to a pack, in bytes."""
    if execution.device == "cuda":
        return torch.cuda.mem_get_info()[0] * _SHARE_OF_ACCELERATOR * execution.accelerator_share
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limit = Path("/sys/fs/cgroup/memory.max")  # of a container
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        total = min(total, float(text))
    return total * _SHARE_OF_MEMORY / workers
