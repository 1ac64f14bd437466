"""Budgets and schedules in steps, as pure functions of the study, the batch size and the data set.

Data order: a run draws its examples from one endless stream of shuffled passes over the training set
(a new permutation a pass), cut into batches of exactly B. So an epoch is N examples whatever the batch
size, no example is dropped, and `epochs` at batch size B are ceil(epochs * N / B) steps.
"""

from __future__ import annotations

import math

from sensitivity.study.spec import BudgetSpec, EvaluationSpec, ScheduleSpec


def steps_of_epochs(epochs: float, *, train_size: int, batch_size: int) -> int:
    """Return the number of steps that draw at least `epochs` x `train_size` examples."""
    return max(1, math.ceil(round(epochs * train_size / batch_size, 9)))


def total_steps(budget: BudgetSpec, *, train_size: int, batch_size: int) -> int:
    """Return the number of steps of a run."""
    if budget.steps is not None:
        return budget.steps
    return steps_of_epochs(budget.epochs or 0.0, train_size=train_size, batch_size=batch_size)


def evaluation_steps(evaluation: EvaluationSpec, *, total: int, train_size: int, batch_size: int) -> tuple[int, ...]:
    """Return after how many steps a run is measured, rising, the last step always included.

    Without an interval in the study file: every epoch.
    """
    if evaluation.every_steps is not None:
        points = set(range(evaluation.every_steps, total + 1, evaluation.every_steps))
    else:
        # Shorter intervals than a step would only repeat points: every step is the finest there is.
        every = max(evaluation.every_epochs or 1.0, batch_size / train_size)
        count = int(total * batch_size / (train_size * every)) + 1
        points = {steps_of_epochs(k * every, train_size=train_size, batch_size=batch_size) for k in range(1, count + 1)}
    return tuple(sorted({step for step in points if step <= total} | {total}))


def lr_multiplier(schedule: ScheduleSpec, *, step: int, total: int, train_size: int, batch_size: int) -> float:
    """Return the learning rate's multiplier at `step` (0 is the first).

    Warm-up rises linearly to 1 over `warmup_epochs`; each fraction of `decay_at` that has passed multiplies
    by `decay_factor`.
    """
    # Rounded, because 0.28 * 25 is a hair above 7 and would put the decay a step late.
    multiplier = schedule.decay_factor ** sum(step >= round(fraction * total, 9) for fraction in schedule.decay_at)
    if schedule.warmup_epochs > 0:
        warmup = steps_of_epochs(schedule.warmup_epochs, train_size=train_size, batch_size=batch_size)
        multiplier *= min(1.0, (step + 1) / warmup)
    return float(multiplier)
