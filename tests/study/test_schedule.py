import hashlib
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sensitivity.study.protocol import BudgetSpec, EvaluationSpec, ScheduleSpec
from sensitivity.study.schedule import (
    divergence_patience,
    evaluation_steps,
    lr_multiplier,
    steps_of_epochs,
    total_steps,
    training_steps,
)
from sensitivity.study.seeds import derive

SIZE = {"train_size": 100, "batch_size": 30}


@pytest.mark.parametrize(
    ("epochs", "batch_size", "steps"),
    [
        (1, 10, 10),  # exact
        (1, 30, 4),  # 3.33 batches
        (3, 30, 10),  # exact again: no example is dropped at an epoch's end
        (0.1, 10, 1),
        (0.3, 10, 3),  # 0.3 * 100 / 10 is 3.0000000000000004 in some orders
        (0.001, 100, 1),  # at least one
        (2, 100, 2),
        (7, 1, 700),
    ],
)
def test_steps_of_a_budget_in_epochs(epochs, batch_size, steps):
    assert steps_of_epochs(epochs, train_size=100, batch_size=batch_size) == steps
    assert total_steps(BudgetSpec(epochs=epochs), train_size=100, batch_size=batch_size) == steps


def test_a_budget_in_steps_is_the_same_at_every_batch_size():
    assert [total_steps(BudgetSpec(steps=50), train_size=100, batch_size=b) for b in (1, 30, 100)] == [50, 50, 50]


@pytest.mark.parametrize(
    ("batch_size", "epochs"),
    # (log2(B / 128) + 1) x 100 epochs of the CIFAR-10 study, and the steps that makes by hand.
    [(128, 100), (256, 200), (512, 300), (1024, 400), (2048, 500), (4096, 600), (8192, 700), (16384, 800)],
)
def test_adjusted_epochs_grow_by_their_base_with_each_doubling(batch_size, epochs):
    steps = {128: 39063, 256: 39063, 512: 29297, 1024: 19532, 2048: 12208, 4096: 7325, 8192: 4273, 16384: 2442}
    budget = BudgetSpec(adjusted_epochs=100, base_batch_size=128)
    assert total_steps(budget, train_size=50_000, batch_size=batch_size) == steps[batch_size]
    assert total_steps(BudgetSpec(epochs=epochs), train_size=50_000, batch_size=batch_size) == steps[batch_size]


def test_adjusted_epochs_between_doublings():
    # log2(3) + 1 = 2.584963 times 4 epochs of 100 examples in batches of 30: 34.47 steps.
    assert total_steps(BudgetSpec(adjusted_epochs=4, base_batch_size=10), train_size=100, batch_size=30) == 35


@pytest.mark.parametrize(
    ("evaluation", "total", "points"),
    [
        ({"every_epochs": 1}, 10, (4, 7, 10)),  # epochs 1, 2, 3 end within steps 4, 7, 10
        ({"every_epochs": 1}, 8, (4, 7, 8)),  # the last step always
        ({"every_epochs": 1}, 3, (3,)),
        ({"every_epochs": 2}, 10, (7, 10)),
        ({"every_epochs": 0.5}, 10, (2, 4, 5, 7, 9, 10)),
        ({"every_epochs": 5}, 10, (10,)),
        ({"every_epochs": 1e-9}, 10, tuple(range(1, 11))),  # finer than a step: every step, once
        ({"every_steps": 4}, 10, (4, 8, 10)),
        ({"every_steps": 5}, 10, (5, 10)),
        ({"every_steps": 50}, 10, (10,)),
    ],
)
def test_evaluation_points(evaluation, total, points):
    assert evaluation_steps(EvaluationSpec(**evaluation), total=total, **SIZE) == points


GROWING = (
    *range(1, 21),  # 10% is less than a step and a half
    *(22, 24, 26, 28, 30, 33, 36, 39, 42, 46, 50, 55, 60, 66, 72, 79, 86, 94, 103, 113, 124, 136, 149, 163, 179, 196),
    *(215, 236, 259, 284, 312, 343, 377, 414, 455, 500, 550, 605, 665, 731, 804, 884, 972, 1069),
)
"""By hand: each is the integer part of 1.1 times the previous one, or the next step if that is larger."""


@pytest.mark.parametrize("total", [1, 2, 19, 20, 21, 23, 90, 360, 1068])
def test_evaluations_come_each_a_tenth_later_by_default(total):
    points = evaluation_steps(EvaluationSpec(), total=total, **SIZE)
    assert points == (*(step for step in GROWING if step < total), total)


@settings(deadline=None)
@given(growth=st.floats(1e-3, 1), total=st.integers(1, 20_000), more=st.integers(1, 20_000))
def test_growing_evaluations_are_extended_by_a_longer_budget(growth, total, more):
    spec = EvaluationSpec(growth=growth)
    points = evaluation_steps(spec, total=total, **SIZE)
    assert points[-1] == total
    for before, at in itertools.pairwise((0, *points)):
        assert before < at <= max(before + 1, before * (1 + growth) + 1e-9 * before)
    # Except for the last, each interval is at least `growth` minus one step.
    for before, at in itertools.pairwise(points[:-1]):
        assert at > before * (1 + growth) - 1 - 1e-9 * before
    longer = evaluation_steps(spec, total=total + more, **SIZE)
    assert longer[: len(points) - 1] == points[:-1]
    assert points == evaluation_steps(spec, total=total, train_size=50_000, batch_size=1), "at every batch size"


@pytest.mark.parametrize(
    ("evaluation", "total", "points"),
    [
        ({"every_steps": 4}, 10, (4, 8, 10)),  # a fixed spacing: at every evaluation
        ({"every_epochs": 1}, 10, (4, 7, 10)),
        # 10 epochs of 4 steps: the first evaluations from steps 4, 8, 16 and 32 on, and the last.
        ({}, 40, (4, 8, 16, 33, 40)),
        ({"growth": 1.0}, 40, (4, 8, 16, 32, 40)),
        ({}, 8, (4, 8)),
        ({}, 3, (3,)),
    ],
)
def test_evaluations_that_measure_the_training_split(evaluation, total, points):
    assert training_steps(EvaluationSpec(**evaluation), total=total, **SIZE) == points


@pytest.mark.parametrize(
    ("evaluation", "batch_size", "batches"),
    [
        ({}, 1, 10),
        ({}, 10, 10),
        ({}, 30, 4),
        ({}, 100, 1),
        ({"every_steps": 1}, 1, None),
        ({"every_epochs": 1}, 1, None),
    ],
)
def test_batches_above_the_bound_until_a_run_has_diverged(evaluation, batch_size, batches):
    assert divergence_patience(EvaluationSpec(**evaluation), train_size=100, batch_size=batch_size) == batches


def multipliers(total, **schedule):
    return [
        lr_multiplier(ScheduleSpec(**schedule), step=s, total=total, train_size=100, batch_size=25)
        for s in range(total)
    ]


def test_no_schedule_is_constant():
    assert multipliers(6) == [1.0] * 6


def test_warm_up_rises_linearly_to_one():
    assert multipliers(6, warmup_epochs=1) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_decay_at_fractions_of_the_budget():
    assert multipliers(8, decay_at=(0.5, 0.75), decay_factor=0.5) == [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25]


def test_warm_up_and_decay_multiply():
    assert multipliers(8, warmup_epochs=1.5, decay_at=(0.5,), decay_factor=0.5) == pytest.approx(
        [1 / 6, 2 / 6, 3 / 6, 4 / 6, 2.5 / 6, 0.5, 0.5, 0.5]
    )


def test_cosine_falls_from_the_end_of_the_warm_up_to_the_end_of_the_budget():
    root = 0.5**0.5
    assert multipliers(4, decay="cosine") == pytest.approx([1, (1 + root) / 2, 0.5, (1 - root) / 2])
    # One epoch of 4 steps of warm-up, then the same cosine over the other 4.
    assert multipliers(8, decay="cosine", warmup_epochs=1) == pytest.approx(
        [0.25, 0.5, 0.75, 1, 1, (1 + root) / 2, 0.5, (1 - root) / 2]
    )


def test_a_line_falls_from_the_end_of_the_warm_up_to_the_end_of_the_budget():
    assert multipliers(4, decay="linear") == pytest.approx([1, 0.75, 0.5, 0.25])
    assert multipliers(8, decay="linear", warmup_epochs=1) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25])


def test_a_trapezoid_falls_over_the_last_part_of_the_budget():
    assert multipliers(10, decay="trapezoidal") == pytest.approx([1] * 9 + [0.5])
    assert multipliers(8, decay="trapezoidal", decay_fraction=0.5, warmup_epochs=0.5) == pytest.approx(
        [0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    )
    assert multipliers(4, decay="trapezoidal", decay_fraction=1.0) == multipliers(4, decay="linear")


def test_the_inverse_square_root_begins_at_the_end_of_the_warm_up():
    assert multipliers(4, decay="inverse_sqrt") == pytest.approx([1, 2**-0.5, 3**-0.5, 0.5])
    assert multipliers(8, decay="inverse_sqrt", warmup_epochs=1) == pytest.approx(
        [0.25, 0.5, 0.75, 1, (4 / 5) ** 0.5, (4 / 6) ** 0.5, (4 / 7) ** 0.5, (4 / 8) ** 0.5]
    )


def test_an_absent_fraction_is_not_written():
    assert "decay_fraction" not in ScheduleSpec(decay="cosine").model_dump()
    assert ScheduleSpec(decay="trapezoidal").model_dump()["decay_fraction"] == 0.2
    with pytest.raises(ValidationError, match='belongs to decay = "trapezoidal"'):
        ScheduleSpec(decay_fraction=0.2)


def test_an_optimizer_has_its_own_schedule():
    study = ScheduleSpec(warmup_epochs=2, decay_at=(0.5,))
    assert study.having({}, {}) is study
    assert study.having({"warmup_epochs": 1.0}, {}) == ScheduleSpec(warmup_epochs=1, decay_at=(0.5,))
    # With another decay, the decay fields of the study are dropped.
    assert study.having({"decay": "cosine"}, {}) == ScheduleSpec(warmup_epochs=2, decay="cosine")


def test_a_warm_up_longer_than_the_budget_never_decays():
    assert multipliers(4, decay="cosine", warmup_epochs=2) == [0.125, 0.25, 0.375, 0.5]
    assert multipliers(4, decay="cosine", warmup_epochs=1) == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("none", [1, 1, 1, 1]), ("linear", [0.5, 1, 2, 8]), ("sqrt", [0.5**0.5, 1, 2**0.5, 8**0.5])],
)
def test_learning_rates_grow_with_the_batch_size_by_the_rule(rule, expected):
    schedule = ScheduleSpec(lr_scaling=rule, base_batch_size=None if rule == "none" else 128)
    found = [
        lr_multiplier(schedule, step=0, total=10, train_size=50_000, batch_size=batch) for batch in (64, 128, 256, 1024)
    ]
    assert found == pytest.approx(expected)


def test_scaling_warm_up_and_decay_multiply():
    found = multipliers(8, lr_scaling="linear", base_batch_size=5, warmup_epochs=0.5, decay_at=(0.5,), decay_factor=0.1)
    assert found == pytest.approx([2.5, 5, 5, 5, 0.5, 0.5, 0.5, 0.5])


@pytest.mark.parametrize(("fraction", "total", "first"), [(0.28, 25, 7), (0.07, 100, 7), (0.55, 100, 55), (0.3, 10, 3)])
def test_a_decay_starts_at_its_step_despite_binary_fractions(fraction, total, first):
    found = multipliers(total, decay_at=(fraction,), decay_factor=0.1)
    assert found.index(pytest.approx(0.1)) == first


@pytest.mark.parametrize("purpose", ["init", "order", "fisher", "layer"])
@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_seeds_by_hand(purpose, seed):
    assert derive(seed, purpose) == int(hashlib.sha256(f"{purpose}/{seed}".encode()).hexdigest()[:8], 16)


def test_streams_differ_between_purposes_and_seeds():
    streams = {derive(seed, purpose) for seed in range(500) for purpose in ("init", "order", "fisher", "layer")}
    assert len(streams) == 2000
    assert max(streams) < 2**32


def test_a_known_seed():
    assert derive(0, "init") == int.from_bytes(bytes.fromhex(hashlib.sha256(b"init/0").hexdigest())[:4], "big")
