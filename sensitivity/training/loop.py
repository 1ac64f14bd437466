"""``train_pack``: the training loop. One loop serves a pack of one and a pack of many."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sensitivity.study.results import RunResult
from sensitivity.study.trials import Pack
from sensitivity.training.pack_training import PackTraining
from sensitivity.training.problems import Problem


def train_pack(
    pack: Pack,
    problem: Problem,
    *,
    micro_batch: int | None = None,
    on_progress: Callable[[float], None] = lambda fraction: None,
    on_look: Callable[[PackTraining], None] = lambda training: None,
    resume: Mapping[str, Any] | None = None,
) -> tuple[RunResult, ...]:
    """Train every trial of a pack to its budget and return their results, in the order of the pack.

    A member whose loss or update stops being finite, or whose training loss exceeds the divergence bound times that of
    its untrained network, is `diverged`: nothing after that step counts for it, it soon leaves the computation, and it
    touches no other member on the way. That loss is the training split's where an evaluation measures it, and between
    them, with `evaluation.growth`, that of some batches in a row (``schedule.divergence_patience``).

    Args:
        pack: trials of one workload, arm and batch size.
        problem: their workload's problem.
        micro_batch: examples of each member that are differentiated at once, if fewer than a batch and the problem has
            no ghost batch. Results are those of the whole batch, but for rounding, unless the network normalises over
            the batch or draws random numbers.
        on_progress: called at the start, every few steps and at each evaluation with the fraction of the budget done.
        on_look: called every few steps with the training, whose ``state()`` may be written away.
        resume: such a state of the same pack; training goes on from there as if it had not stopped.
    """
    training = PackTraining(pack, problem, micro_batch=micro_batch)
    if resume is not None:
        training.restore(resume)
    on_progress(training.done / training.total)

    def look() -> None:
        on_look(training)
        on_progress(training.done / training.total)  # for evaluations late in a long run are far apart

    if resume is None:
        training.measure()
    while (until := training.next_evaluation) is not None:
        training.advance(until, look)
        training.measure()
        on_look(training)
        if training.left:
            on_progress(training.done / training.total)
    return training.results()
