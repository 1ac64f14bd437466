import hashlib

import pytest

from sensitivity.study.schedule import evaluation_steps, lr_multiplier, steps_of_epochs, total_steps
from sensitivity.study.seeds import derive
from sensitivity.study.spec import BudgetSpec, EvaluationSpec, ScheduleSpec

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
    ("evaluation", "total", "points"),
    [
        ({}, 10, (4, 7, 10)),  # epochs 1, 2, 3 end within steps 4, 7, 10
        ({}, 8, (4, 7, 8)),  # the last step always
        ({}, 3, (3,)),
        ({"every_epochs": 2}, 10, (7, 10)),
        ({"every_epochs": 0.5}, 10, (2, 4, 5, 7, 9, 10)),
        ({"every_epochs": 5}, 10, (10,)),
        ({"every_epochs": 1e-9}, 10, tuple(range(1, 11))),  # finer than a step: every step, at once
        ({"every_steps": 4}, 10, (4, 8, 10)),
        ({"every_steps": 5}, 10, (5, 10)),
        ({"every_steps": 50}, 10, (10,)),
    ],
)
def test_evaluation_points(evaluation, total, points):
    assert evaluation_steps(EvaluationSpec(**evaluation), total=total, **SIZE) == points


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
