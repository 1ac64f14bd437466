"""The noisy quadratic: its closed form compared with golden values and a recursion, and training with it."""

import math

import pytest
import torch

from sensitivity.study.errors import StudyFileError
from sensitivity.study.problem import ProblemSpec
from sensitivity.study.trials import Pack, expand
from sensitivity.training.checks import check_study
from sensitivity.training.loop import train_pack
from sensitivity.training.noisy_quadratic import EXAMPLES, NoisyQuadratic, expected_loss, gaussian, spectrum
from sensitivity.training.problems import load_problem

ORACLE = {"dataset": "noisy_quadratic", "model": "quadratic", "loss": "quadratic"}
INITIAL = sum(1 / i for i in range(1, 1001)) / 2


@pytest.fixture(scope="module")
def oracle():
    return load_problem(ProblemSpec(**ORACLE))


def test_the_golden_value():
    assert expected_loss(lr=0.5, batch_size=16, steps=60) == pytest.approx(1.19033, abs=5e-6)


@pytest.mark.parametrize("damping", [None, 0.01])
@pytest.mark.parametrize("lr", [0.3, 1.0, 2.0])
def test_the_closed_form_is_the_recursion_of_the_second_moment(lr, damping):
    batch_size, steps = 4, 7
    square = [1.0] * 50
    for _ in range(steps):
        for i in range(50):
            h = 1 / (i + 1)
            p = 1.0 if damping is None else 1 / (h + damping)
            square[i] = (1 - lr * p * h) ** 2 * square[i] + (lr * p) ** 2 * h / batch_size
    by_hand = sum(s / (i + 1) for i, s in enumerate(square)) / 2
    found = expected_loss(lr=lr, batch_size=batch_size, steps=steps, damping=damping, dimensions=50)
    assert found == pytest.approx(by_hand, rel=1e-12)  # lr = 2 has r = 1 in the first dimension, without damping


def trained(make_study, oracle, arm, *, seeds, steps=60, batch_size=16):
    spec = make_study(
        problem=ORACLE,
        batch_sizes=[batch_size],
        seeds=seeds,
        budget={"steps": steps},
        evaluation={"every_steps": steps, "train_examples": 1},
        optimizers={"a": arm},
    )
    return train_pack(Pack(expand(spec)), oracle)


ARMS = {
    "sgd": ({"kind": "sgd", "lr": 0.5}, {"lr": 0.5}),
    "Newton": ({"kind": "newton", "lr": 0.05, "damping": 0.01, "momentum": 0.0}, {"lr": 0.05, "damping": 0.01}),
}


@pytest.mark.parametrize("arm", ARMS)
def test_training_has_the_expected_loss(make_study, oracle, arm):
    declared, numbers = ARMS[arm]
    results = trained(make_study, oracle, declared, seeds=48)
    losses = torch.tensor([r.measurements[-1].test_loss for r in results], dtype=torch.float64)
    assert all(r.measurements[0].test_loss == pytest.approx(INITIAL, rel=1e-6) for r in results)
    assert all(r.measurements[-1].train_loss == r.measurements[-1].test_loss for r in results), "exact, not noisy"
    error = losses.std().item() / math.sqrt(len(losses))
    expected = expected_loss(batch_size=16, steps=60, **numbers)
    assert error < 0.02 * expected
    assert abs(losses.mean().item() - expected) < 3 * error


def test_larger_batches_have_less_noise(make_study, oracle):
    for batch_size in (1, 256):
        results = trained(make_study, oracle, {"kind": "sgd", "lr": 0.5}, seeds=16, steps=20, batch_size=batch_size)
        losses = torch.tensor([r.measurements[-1].test_loss for r in results], dtype=torch.float64)
        expected = expected_loss(lr=0.5, batch_size=batch_size, steps=20)
        assert abs(losses.mean().item() - expected) < 4 * losses.std().item() / 4


def test_there_is_no_accuracy(make_study, oracle):
    (result,) = trained(make_study, oracle, {"kind": "sgd", "lr": 0.5}, seeds=1, steps=2)
    assert math.isnan(result.measurements[-1].test_accuracy)
    assert result.flops == 2 * 16 * 2000


def test_members_equal_the_same_trials_alone(make_study, oracle):
    for arm in ({"kind": "sgd", "lr": [0.1, 0.5], "momentum": [0.0, 0.9], "nesterov": False, "weight_decay": 0.01},
                {"kind": "newton", "lr": [0.01, 0.02], "damping": [0.1, 1.0], "weight_decay": 0.01}):  # fmt: skip
        together = trained(make_study, oracle, arm, seeds=2, steps=5)
        for packed in together:
            (alone,) = train_pack(Pack((packed.trial,)), oracle)
            assert packed.measurements[-1].test_loss == pytest.approx(alone.measurements[-1].test_loss, rel=1e-5)


def test_newton_by_hand(make_study, oracle):
    declared = {
        "kind": "newton", "lr": 0.05, "damping": 0.01, "momentum": 0.9, "weight_decay": 0.001, "nesterov": True,
    }  # fmt: skip
    (result,) = trained(make_study, oracle, declared, seeds=1, steps=3, batch_size=EXAMPLES // 4)
    # At a batch so large that the noise is small, the gradient is h x: the rule step by step.
    h = spectrum()
    x, velocity = torch.ones(1000, dtype=torch.float64), torch.zeros(1000, dtype=torch.float64)
    for _ in range(3):
        update = (h * x + 0.001 * x) / (h + 0.01)
        velocity = 0.9 * velocity + update
        x = x - 0.05 * (update + 0.9 * velocity)
    exact = (h * x.square()).sum().item() / 2
    assert result.measurements[-1].test_loss == pytest.approx(exact, rel=1e-3)


def noises(rows, key=77, dtype=torch.float64, shift=0):
    """The noise [rows, 1000] of batches of three examples each."""
    numbers = torch.arange(3 * rows).view(rows, 3, 1) + shift
    return torch.cat([gaussian(batch, torch.tensor([key]), 1000, dtype) for batch in numbers])


def test_noise_is_standard_normal_and_independent():
    noise = noises(2000)
    count = noise.numel()
    assert abs(noise.mean().item()) < 4 / math.sqrt(count)
    assert noise.var().item() == pytest.approx(1, abs=4 * math.sqrt(2 / count))
    assert (noise**4).mean().item() == pytest.approx(3, abs=4 * math.sqrt(96 / count))
    # Other batches, also with an example in common, other dimensions, other keys.
    for other in (noise.roll(1, 0), noise.roll(1, 1), noises(2000, shift=1), noises(2000, key=78), noise.roll(999, 0)):
        assert abs((noise * other).mean().item()) < 4 / math.sqrt(count)


def test_noise_is_finite_in_single_precision_and_a_function_of_the_set():
    assert torch.isfinite(noises(4000, key=2**32 - 1, dtype=torch.float32)).all()
    numbers, key = torch.tensor([[5], [9], [EXAMPLES - 1]]), torch.tensor([3])
    noise = gaussian(numbers, key, 1000, torch.float32)
    assert torch.equal(noise, gaussian(numbers.flip(0), key, 1000, torch.float32))
    assert not torch.equal(noise, gaussian(numbers[:2], key, 1000, torch.float32))


def test_seeds_share_no_noise():
    keys = set()
    for seed in range(50):
        torch.manual_seed(seed)
        keys.add(int(NoisyQuadratic(3).key))
    assert len(keys) == 50


def test_options_that_would_change_the_noise_are_rejected(make_study, oracle):
    arms = {"sgd": {"kind": "sgd", "lr": 0.1}, "k": {"kind": "kfac", "lr": 0.1, "damping": 0.1}}
    spec = make_study(
        problem=ORACLE, batch_sizes=[65536, 65537], budget={"steps": 5}, optimizers=arms, execution={"micro_batch": 16}
    )
    with pytest.raises(StudyFileError) as caught:
        check_study(spec, oracle, source="x.toml")
    assert [mistake.partition(":")[0] for mistake in caught.value.mistakes] == [
        "batch_sizes[1]",
        "execution.micro_batch",
        "optimizers.k",
    ]
    assert 'kind = "newton"' in caught.value.mistakes[-1]


def test_ghost_batches_average_to_the_noise_of_the_batch(make_study):
    problem = {**ORACLE, "ghost_batch": 4}
    spec = make_study(
        problem=problem,
        batch_sizes=[16],
        seeds=48,
        budget={"steps": 20},
        evaluation={"every_steps": 20, "train_examples": 1},
        optimizers={"a": {"kind": "sgd", "lr": 0.5}},
    )
    results = train_pack(Pack(expand(spec)), load_problem(spec.problem))
    losses = torch.tensor([r.measurements[-1].test_loss for r in results], dtype=torch.float64)
    expected = expected_loss(lr=0.5, batch_size=16, steps=20)
    assert abs(losses.mean().item() - expected) < 3 * losses.std().item() / math.sqrt(48)
