"""Short measurement, on the device that will train, of the best pack size, the time of a step, and its memory.

Sizes grow from 1 by factors of four until one does not fit in memory or would take long to measure. Whole periods of
the optimizer's updates are timed after two warm-up steps, or on an accelerator after enough steps to record all kinds
of steps as graphs. The fastest period counts, because other load on the machine can only make it slower.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from sensitivity.study.schedule import evaluation_steps, total_steps, training_steps
from sensitivity.study.trials import Pack, Trial
from sensitivity.training.batches import PackBatches
from sensitivity.training.cost import step_flops
from sensitivity.training.device_errors import out_of_memory
from sensitivity.training.evaluation import evaluate
from sensitivity.training.memory import peak_bytes, release_unused
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.problems import Problem
from sensitivity.training.recorded_steps import Steps
from sensitivity.training.step import make_optimizer

_SIZES = (1, 4, 16, 64)
_MEASURE_S = 0.15
_LONG_S = 0.4
"""A period of at least this length is measured only once, because it is already an average."""
_LONGEST_S = 2.0
"""Maximum duration of a measurement; a pack this slow does not gain from being larger."""
_WORTH_IT = 1.05
"""Minimum speedup for which a larger size is chosen."""
_EVALUATED = {"cpu": 1_000, "cuda": 10_000}
"""Minimum number of examples of each split in a timed evaluation."""
_MEMORY_SIZE = 4
"""Size of the pack in which memory is measured; memory is linear in the number of members (benchmarks/packs.py)."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of one trial in a pack of the chosen size."""

    steps: int
    flops: float
    """FLOPs of training: gradients and optimizer."""
    step_seconds: float
    """Device-seconds per step and trial in a pack of the chosen size."""
    evaluation_seconds: float
    """Device-seconds of all the trial's evaluations."""
    pack_size: int
    most: int
    """Number of members of the largest pack that fits in memory."""
    gain: float
    """Throughput in trial-steps per second relative to packs of one."""
    member_bytes: float
    """Peak memory of a member's tensors: parameters, optimizer state, activations, and temporaries of a step.

    The host's allocator may use up to a third more.
    """

    @property
    def seconds(self) -> float:
        """Device-seconds of the whole trial."""
        return self.steps * self.step_seconds + self.evaluation_seconds


def calibrate(
    trials: Sequence[Trial],
    problem: Problem,
    *,
    sizes: Sequence[int] = _SIZES,
    memory_bytes: float,
    micro_batch: int | None = None,
) -> Cost:
    """Choose a pack size for `trials`, of one workload, arm and batch size, and extrapolate the cost of each.

    Args:
        trials: enough trials to fill the largest pack.
        problem: the problem of their workload.
        sizes: pack sizes to try, increasing; larger ones than the number of trials are reduced to it.
        memory_bytes: memory available to a pack.
        micro_batch: examples of each member that are differentiated at once.
    """
    sizes = sorted({min(size, len(trials)) for size in sizes})
    each_bytes = member_bytes(trials, problem, micro_batch=micro_batch)
    most = max(1, int(memory_bytes / each_bytes))
    best = alone = 0.0
    chosen: _Bench | None = None
    for size in sizes:
        if chosen is not None and (size > most or 2 * best * size * chosen.optimizer.period > _LONGEST_S):
            break
        bench, seconds = _measured(trials[:size], problem, micro_batch)
        if chosen is None:
            chosen, best = bench, seconds
            alone = seconds if bench.size == 1 else _step_seconds(_Bench(trials[:1], problem, micro_batch))
        elif best / seconds >= _WORTH_IT:
            chosen, best = bench, seconds
        if bench.size < size:
            most = bench.size
            break
        del bench  # frees the memory of a rejected pack before the next one is built
    assert chosen is not None
    workload, batch_size = trials[0].workload, trials[0].batch_size
    lengths = {"train_size": problem.dataset.train_size, "batch_size": batch_size}
    total = total_steps(workload.budget, **lengths)
    evaluations = 1 + len(evaluation_steps(workload.evaluation, total=total, **lengths))
    of_training = 1 + len(training_steps(workload.evaluation, total=total, **lengths))
    if workload.training_asked:
        of_training = evaluations
    evaluation_seconds = of_training * chosen.evaluation_seconds(training=True)
    if evaluations > of_training:
        evaluation_seconds += (evaluations - of_training) * chosen.evaluation_seconds(training=False)
    return Cost(
        steps=total,
        flops=total * step_flops(problem.of(trials[0].problem), chosen.optimizer, batch_size),
        step_seconds=best,
        evaluation_seconds=evaluation_seconds / chosen.size,
        pack_size=chosen.size,
        most=max(most, chosen.size),
        gain=alone / best,
        member_bytes=each_bytes,
    )


def member_bytes(
    trials: Sequence[Trial], problem: Problem, *, micro_batch: int | None = None, members: int = _MEMORY_SIZE
) -> float:
    """Return the peak memory per member for these trials, measured in a pack of `members`."""
    some = _Bench(trials[:members], problem, micro_batch)
    try:
        return peak_bytes(some.all_work, some.held()) / some.size
    except Exception as error:
        if some.size == 1 or not out_of_memory(error):
            raise
    del some
    release_unused()
    return member_bytes(trials, problem, micro_batch=micro_batch, members=1)


class _Bench:
    """A pack that is timed with a learning rate of 0, so that its steps change nothing."""

    def __init__(self, trials: Sequence[Trial], problem: Problem, micro_batch: int | None) -> None:
        seeds = [trial.seed for trial in trials]
        spec, problem = trials[0].problem, problem.of(trials[0].problem)
        self.size, self._problem = len(trials), problem
        self._model = PackedModel(problem.build_model, seeds, products=problem.products, shipped=problem.shipped)
        self.optimizer = make_optimizer(Pack(tuple(trials)), self._model, problem)
        self._batches = PackBatches(
            seeds,
            problem,
            batch_size=trials[0].batch_size,
            micro_batch=spec.ghost_batch or micro_batch,
            augment=spec.augment == "crop_flip",
        )
        self._examples = trials[0].workload.evaluation.train_examples
        self._steps = Steps(self._model, problem, self.optimizer, self._batches)
        self._count: Iterator[int] = iter(range(10**9))

    def held(self) -> list[Tensor]:
        """Return the tensors that persist between steps."""
        kept = tree_leaves((self._model.state(), self.optimizer.state()))
        return [leaf for leaf in kept if isinstance(leaf, Tensor)]

    def step(self) -> None:
        self._steps.take(step=next(self._count), lr_scale=0.0)

    def two_steps(self) -> None:
        """Take the first two steps; K-FAC computes its inverses in one of them."""
        self.step()
        self.step()

    def warm(self) -> None:
        """Take the first two steps, and further ones until all kinds of steps of a period are recorded, if possible.

        Recording takes much longer than a step, and steps before it are slower than those of a run.
        """
        self.two_steps()
        kinds = {self.optimizer.repeated_kind(step) for step in range(self.optimizer.period)} - {None}
        began = time.perf_counter()
        while not self._steps.has_recorded(kinds) and time.perf_counter() - began < _LONGEST_S:
            self.step()
        self.wait()

    def all_work(self) -> None:
        """Do the work that may use most memory: on the host, the first steps, which are tracked by operation.

        On an accelerator, whose allocator reports the peak, also a period and an evaluation, including recordings.
        """
        if self._model.device.type == "cpu":
            self.two_steps()
            return
        self.warm()
        for _ in range(self.optimizer.period):
            self.step()
        self.evaluation_seconds(training=True)

    def evaluation_seconds(self, *, training: bool) -> float:
        """Return the seconds of one evaluation, including the training split if `training`.

        It is extrapolated from the second of two evaluations of some examples, because the first allocates memory.
        """
        data = self._problem.dataset
        count = (self._examples or data.train_size) if training else 0
        held = [inputs for inputs in (data.validation_inputs, data.test_inputs) if inputs is not None]
        some = max(self._batches.chunk, _EVALUATED[self._model.device.type])
        part = replace(
            data,
            validation_inputs=None if data.validation_inputs is None else data.validation_inputs[:some],
            validation_targets=None if data.validation_targets is None else data.validation_targets[:some],
            test_inputs=data.test_inputs[:some],
            test_targets=data.test_targets[:some],
        )
        problem, seconds = replace(self._problem, dataset=part), 0.0
        for _ in range(2):
            began = time.perf_counter()
            evaluate(
                self._model,
                problem,
                train_examples=min(count, some),
                chunk=self._batches.chunk,
                training=training,
            )
            seconds = time.perf_counter() - began
        sizes = [count, *map(len, held)]
        return seconds * sum(sizes) / sum(min(size, some) for size in sizes)

    def wait(self) -> None:
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)


def _measured(trials: Sequence[Trial], problem: Problem, micro_batch: int | None) -> tuple[_Bench, float]:
    """Return a pack of these trials and its seconds per step and trial; the pack is halved until it fits in memory."""
    while (found := _measured_if_it_fits(trials, problem, micro_batch)) is None:
        release_unused()
        trials = trials[: len(trials) // 2]
    return found


def _measured_if_it_fits(
    trials: Sequence[Trial], problem: Problem, micro_batch: int | None
) -> tuple[_Bench, float] | None:
    """Measure a pack of all trials; None, with the pack freed, if it runs out of memory and can be halved."""
    try:
        bench = _Bench(trials, problem, micro_batch)
        return bench, _step_seconds(bench)
    except Exception as error:
        if len(trials) == 1 or not out_of_memory(error):
            raise
        return None


def _step_seconds(bench: _Bench) -> float:
    period, taken = bench.optimizer.period, list[float]()
    bench.warm()
    while not taken or (taken[-1] < _LONG_S and (len(taken) < 2 or sum(taken) < _MEASURE_S)):
        began = time.perf_counter()
        for _ in range(period):
            bench.step()
        bench.wait()
        taken.append(time.perf_counter() - began)
    return min(taken) / period / bench.size
