"""A short measurement, on the device that will train: which pack size is fastest, what a step costs, what it holds.

Sizes are tried from 1 upwards, four times the last, until one would not or does not fit in memory, or would take long
to measure. A size is measured in whole periods of the optimizer's updates, after two steps that warm up, or on an
accelerator so many that all kinds of steps are recorded; the quickest period counts, because other work on the machine
only ever adds to it.
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
"""A period that takes so long is measured once: it is an average already."""
_LONGEST_S = 2.0
"""A larger size is not tried if measuring it would take longer: a pack that slow gains nothing from being larger."""
_WORTH_IT = 1.05
"""A larger size is taken if it is so many times as fast."""
_EVALUATED = {"cpu": 1_000, "cuda": 10_000}
"""Examples of each split from which the time of an evaluation is taken, or as many as are differentiated at once."""
_MEMORY_SIZE = 4
"""Pack in which memory is measured; it grows linearly with members (benchmarks/packs.py)."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one trial costs in a pack of the chosen size."""

    steps: int
    flops: float
    """Of training, gradient and optimizer."""
    step_seconds: float
    """Device-seconds a step and trial, in a pack of the chosen size."""
    evaluation_seconds: float
    """Device-seconds of all the trial's evaluations."""
    pack_size: int
    most: int
    """Members of the largest pack that fits in memory."""
    gain: float
    """Trial-steps a second over those of one trial at a time."""
    member_bytes: float
    """Peak memory of a member's tensors: parameters, optimizer state, activations, and what a step needs on the way.

    The host's allocator may hold up to a third more.
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
    """Choose a pack size for `trials`, of one workload, arm and batch size, and extrapolate what each costs.

    Args:
        trials: as many as would make the largest pack.
        problem: their workload's problem.
        sizes: of packs to try, rising; those above the number of trials count as that number.
        memory_bytes: what a pack may take.
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
        del bench  # or what was not chosen would be in memory beside the next one
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
    """Return the peak memory of a member of a pack of these trials, measured in a pack of so many `members`."""
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
    """A pack that takes steps which change nothing: its learning rate is 0."""

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
        """Return the tensors that stay from step to step."""
        kept = tree_leaves((self._model.state(), self.optimizer.state()))
        return [leaf for leaf in kept if isinstance(leaf, Tensor)]

    def step(self) -> None:
        self._steps.take(step=next(self._count), lr_scale=0.0)

    def two_steps(self) -> None:
        """Take the first two: K-FAC's inverses are made in one of them."""
        self.step()
        self.step()

    def warm(self) -> None:
        """Take the first two steps, and further ones until all that a period repeats has been recorded, if it can be.

        A recording takes many times as long as a step, and steps before it are not what a run's are.
        """
        self.two_steps()
        kinds = {self.optimizer.repeated_kind(step) for step in range(self.optimizer.period)} - {None}
        began = time.perf_counter()
        while not self._steps.has_recorded(kinds) and time.perf_counter() - began < _LONGEST_S:
            self.step()
        self.wait()

    def all_work(self) -> None:
        """Do what may take most memory: on the host the first steps, followed operation by operation.

        On an accelerator, whose allocator tells, a period and an evaluation too, after what is recorded for them.
        """
        if self._model.device.type == "cpu":
            self.two_steps()
            return
        self.warm()
        for _ in range(self.optimizer.period):
            self.step()
        self.evaluation_seconds(training=True)

    def evaluation_seconds(self, *, training: bool) -> float:
        """Return what one evaluation takes, of the training split too if `training`.

        It is that of the second of two of some examples: the first asks for memory.
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
    """Return a pack of these trials with its seconds a step and trial: of all, or of half as often as memory asks."""
    while (found := _measured_if_it_fits(trials, problem, micro_batch)) is None:
        release_unused()
        trials = trials[: len(trials) // 2]
    return found


def _measured_if_it_fits(
    trials: Sequence[Trial], problem: Problem, micro_batch: int | None
) -> tuple[_Bench, float] | None:
    """Do so for all of them; None, and the pack is gone, if it runs out of memory and could be halved."""
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
