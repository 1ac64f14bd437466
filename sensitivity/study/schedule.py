"""Budgets and schedules in steps, as pure functions of the study, the batch size and the data set.

Data order: a run draws its examples from an endless stream of shuffled passes over the training set (a new permutation
for each pass), cut into batches of exactly B. Hence an epoch is N examples at any batch size, no example is dropped,
and `epochs` at batch size B take ceil(epochs * N / B) steps.
"""

from __future__ import annotations

import math

from sensitivity.study.protocol import BudgetSpec, EvaluationSpec, ScheduleSpec

DIVERGENCE_BATCHES = 10
"""Number of consecutive batches, limited to one epoch."""


def steps_of_epochs(epochs: float, *, train_size: int, batch_size: int) -> int:
    """Return the smallest number of steps that draws at least `epochs` x `train_size` examples.

    >>> steps_of_epochs(3, train_size=1000, batch_size=128)
    24
    """
    return max(1, math.ceil(round(epochs * train_size / batch_size, 9)))


def total_steps(budget: BudgetSpec, *, train_size: int, batch_size: int) -> int:
    """Return the number of steps of a run."""
    if budget.steps is not None:
        return budget.steps
    epochs = budget.epochs
    if epochs is None:
        assert budget.adjusted_epochs is not None
        assert budget.base_batch_size is not None
        epochs = budget.adjusted_epochs * (math.log2(batch_size / budget.base_batch_size) + 1)
    return steps_of_epochs(epochs, train_size=train_size, batch_size=batch_size)


def evaluation_steps(evaluation: EvaluationSpec, *, total: int, train_size: int, batch_size: int) -> tuple[int, ...]:
    """Return the steps after which a run is evaluated, increasing and including the last one.

    The untrained network is also evaluated, at step 0. All steps but the last are independent of the budget, so the
    evaluations with a longer budget extend those with a shorter one.
    """
    if evaluation.growth is not None:
        return _geometric_steps(evaluation.growth, total)
    if evaluation.every_steps is not None:
        points = set(range(evaluation.every_steps, total + 1, evaluation.every_steps))
    else:
        assert evaluation.every_epochs is not None
        # At least one step apart, because shorter intervals would only repeat points.
        every = max(evaluation.every_epochs, batch_size / train_size)
        count = int(total * batch_size / (train_size * every)) + 1
        points = {steps_of_epochs(k * every, train_size=train_size, batch_size=batch_size) for k in range(1, count + 1)}
    return tuple(sorted({step for step in points if step <= total} | {total}))


def _geometric_steps(growth: float, total: int) -> tuple[int, ...]:
    """Return 1 = t_1 < t_2 < ... < `total`, with t_{k+1} = max(t_k + 1, floor((1 + growth) t_k)).

    Hence the time to a target is known to within a fraction `growth`, or to one step if that is larger, at any batch
    size.
    """
    steps, step = [], 1
    while step < total:
        steps.append(step)
        step = max(step + 1, math.floor(round((1 + growth) * step, 9)))  # 1.1 * 110 is slightly above 121
    return (*steps, total)


def training_steps(evaluation: EvaluationSpec, *, total: int, train_size: int, batch_size: int) -> tuple[int, ...]:
    """Return the steps of evaluations that measure the training split, which determine stopping and divergence.

    With a fixed spacing, these are all evaluations. With `growth`, they are the first ones after 1, 2, 4, 8, ... epochs
    and the last one, so that their cost is a small part of training however large the training split.
    """
    points = evaluation_steps(evaluation, total=total, train_size=train_size, batch_size=batch_size)
    if evaluation.growth is None:
        return points
    due, kept = steps_of_epochs(1, train_size=train_size, batch_size=batch_size), []
    for step in points:
        if step >= due or step == total:
            kept.append(step)
        while due <= step:
            due *= 2
    return tuple(kept)


def divergence_patience(evaluation: EvaluationSpec, *, train_size: int, batch_size: int) -> int | None:
    """Return the number of consecutive batches above the divergence bound after which a run has diverged.

    None with a fixed spacing, where the training split is measured at each evaluation and is the only criterion. A
    single batch is not enough: with momentum or K-FAC a few batches may exceed the bound in runs that end well.
    """
    if evaluation.growth is None:
        return None
    return min(DIVERGENCE_BATCHES, steps_of_epochs(1, train_size=train_size, batch_size=batch_size))


def lr_scale(schedule: ScheduleSpec, *, batch_size: int) -> float:
    """Return the learning-rate factor of the scaling rule at `batch_size`."""
    if schedule.base_batch_size is None:
        return 1.0
    ratio = batch_size / schedule.base_batch_size
    return ratio if schedule.lr_scaling == "linear" else math.sqrt(ratio)


def lr_multiplier(schedule: ScheduleSpec, *, step: int, total: int, train_size: int, batch_size: int) -> float:
    """Return the learning-rate multiplier at `step` (from 0): scaling rule x warm-up x decay.

    Warm-up rises linearly to 1 over `warmup_epochs`. A step decay multiplies by `decay_factor` at each fraction in
    `decay_at` of the whole budget. Cosine and linear decays fall from 1 at the end of the warm-up to 0 at the end of
    the budget, a trapezoidal one over its last `decay_fraction`. An inverse-square-root decay starts from 1 at the end
    of the warm-up.
    """
    warmup = 0
    if schedule.warmup_epochs > 0:
        warmup = steps_of_epochs(schedule.warmup_epochs, train_size=train_size, batch_size=batch_size)
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    decay = _decay(schedule, step=step, warmup=warmup, total=total)
    return float(lr_scale(schedule, batch_size=batch_size) * rise * decay)


def _decay(schedule: ScheduleSpec, *, step: int, warmup: int, total: int) -> float:
    match schedule.decay:
        case "cosine":
            return (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2 if step >= warmup else 1.0
        case "linear":
            return (total - step) / (total - warmup) if step >= warmup else 1.0
        case "trapezoidal":
            assert schedule.decay_fraction is not None
            return min(1.0, (total - step) / (schedule.decay_fraction * total))
        case "inverse_sqrt":
            return math.sqrt(max(1, warmup) / max(1, warmup, step + 1))
        case _:
            # Rounded, because 0.28 * 25 is slightly above 7 and would delay the decay by a step.
            passed = sum(step >= round(fraction * total, 9) for fraction in schedule.decay_at)
            return float(schedule.decay_factor**passed)
