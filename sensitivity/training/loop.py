"""``train_pack``: the training loop for packs of any size."""

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
    on_check: Callable[[PackTraining], None] = lambda training: None,
    resume: Mapping[str, Any] | None = None,
) -> tuple[RunResult, ...]:
    """Train every trial of a pack to its budget and return the results in the order of the pack.

    A member is `diverged` if its loss or update is not finite, or if its training loss exceeds the divergence bound
    times that of its untrained network. Nothing after that step counts for it; it is soon dropped from the computation
    and does not affect other members. The loss is that of the training split at evaluations that measure it; between
    them, with `evaluation.growth`, consecutive batches are checked (``schedule.divergence_patience``).

    Args:
        pack: trials of one workload, arm and batch size.
        problem: the problem of their workload.
        micro_batch: examples per member that are differentiated at once, if fewer than a batch and without ghost
            batches. Results equal those of whole batches up to rounding, unless the network normalises over the batch
            or draws random numbers.
        on_progress: called at the start, every few steps and at each evaluation with the fraction of the budget done.
        on_check: called every few steps with the training, whose ``state()`` can be saved as a checkpoint.
        resume: a state of the same pack, from which training continues as if it had not stopped.
    """
    training = PackTraining(pack, problem, micro_batch=micro_batch)
    if resume is not None:
        training.restore(resume)
    on_progress(training.done / training.total)

    def check() -> None:
        on_check(training)
        on_progress(training.done / training.total)  # because evaluations late in a long run are far apart

    if resume is None:
        training.measure()
    while (until := training.next_evaluation) is not None:
        training.advance(until, check)
        training.measure()
        on_check(training)
        if training.left:
            on_progress(training.done / training.total)
    return training.results()
