"""FLOPs against hand counts; time and steps as accounted."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sensitivity.study.problem import ProblemSpec
from sensitivity.training.cost import example_cost, run_cost
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.loop import train_pack
from sensitivity.training.losses import cross_entropy
from sensitivity.training.problems import Problem, load_problem


def test_perceptron_flops_are_those_counted_by_hand():
    # Forward 2·(64·128 + 128·128 + 128·10); backward by weights the same, by inputs all but the first layer.
    first, second, third = 2 * 64 * 128, 2 * 128 * 128, 2 * 128 * 10
    by_hand = 3 * (first + second + third) - first
    cost = example_cost(load_problem(ProblemSpec()))
    assert cost.gradient_flops == by_hand
    assert dict(cost.positions) == {"1": 1, "3": 1, "5": 1}


def test_a_runs_steps_and_flops_are_told_without_training(make_study, pack_of):
    spec = make_study(batch_sizes=[128], budget={"epochs": 3}, optimizers={"a": {"kind": "sgd", "lr": 0.1}})
    task = load_problem(spec.problem)
    (trial,) = pack_of(spec).trials
    gradient = 3 * 2 * (64 * 128 + 128 * 128 + 128 * 10) - 2 * 64 * 128
    assert run_cost(trial, task) == (34, 34 * 128 * gradient)  # 3 x 1,437 / 128 = 33.7
    (result,) = train_pack(pack_of(spec), task)
    assert (result.measurements[-1].step, result.flops) == run_cost(trial, task)


def test_convolution_flops_and_positions_are_those_counted_by_hand():
    first = 2 * 64 * (9 * 1) * 16
    second = 2 * 16 * (9 * 16) * 32
    head = 2 * 32 * 4 * 10
    cost = example_cost(load_problem(ProblemSpec(model="small_cnn")))
    assert cost.gradient_flops == 3 * (first + second + head) - first
    assert dict(cost.positions) == {"0": 64, "3": 16, "7": 1}


def test_positions_count_every_call_and_every_token():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.inner, self.head = nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 3)
            self.tied = nn.Linear(8, 8)
            self.tied.weight = self.inner.weight

        def forward(self, x):
            return self.head(self.tied(self.inner(self.inner(self.words(x)))).mean(1))

    x, y = torch.randint(0, 9, (10, 5)), torch.randint(0, 3, (10,))
    data = Dataset(train_inputs=x, train_targets=y, test_inputs=x, test_targets=y)
    task = Problem(dataset=data, build_model=Twice, loss=cross_entropy, has_classes=True, outputs=3)
    cost = example_cost(task)
    assert dict(cost.positions) == {"words": 5, "inner": 15, "head": 1}
    assert cost.gradient_flops == 3 * (3 * 5 * 2 * 8 * 8 + 2 * 8 * 3)


def test_a_kfac_run_is_charged_for_its_factors_and_solves(make_study, pack_of):
    spec = make_study(
        batch_sizes=[100],
        budget={"steps": 20},
        optimizers={"kfac": {"kind": "kfac", "lr": 0.01, "damping": 0.1, "factor_interval": 2, "inverse_interval": 10}},
    )
    (result,) = train_pack(pack_of(spec), load_problem(spec.problem))
    gradient = 100 * (3 * (2 * 64 * 128 + 2 * 128 * 128 + 2 * 128 * 10) - 2 * 64 * 128)
    sides = [(65, 128), (129, 128), (129, 10)]
    factors = sum(2 * 100 * (a * a + g * g) for a, g in sides) / 2
    inverses = sum(a**3 + g**3 for a, g in sides) / 10
    precondition = sum(2 * a * g * (a + g) for a, g in sides)
    assert result.flops == pytest.approx(20 * (gradient + factors + inverses + precondition), rel=1e-6)
    assert [m.flops for m in result.measurements] == pytest.approx(
        [m.step / 20 * result.flops for m in result.measurements]
    )


def test_time_is_shared_between_the_members_and_excludes_evaluation(make_study, pack_of):
    spec = make_study(budget={"steps": 30}, optimizers={"sgd": {"kind": "sgd", "lr": [0.01, 0.02, 0.03, 0.04]}})
    results = train_pack(pack_of(spec), load_problem(spec.problem))
    shares = {r.train_seconds for r in results}
    assert len(shares) == 1
    assert shares.pop() > 0
    for result in results:
        times = [m.train_seconds for m in result.measurements]
        assert times == sorted(times)
        assert times[-1] == result.train_seconds
        assert result.eval_seconds > 0


def test_counting_does_not_disturb_the_global_generator():
    torch.manual_seed(2)
    expected = torch.rand(1)
    torch.manual_seed(2)
    example_cost(load_problem(ProblemSpec()))
    assert torch.equal(torch.rand(1), expected)


def test_costs_are_cached_per_problem(monkeypatch):
    small, large = load_problem(ProblemSpec()), load_problem(ProblemSpec(model="small_cnn"))
    first = example_cost(small)
    with monkeypatch.context() as patch:
        patch.setattr("sensitivity.training.cost.FlopCounter", None)  # later packs of a worker use the cached count
        assert example_cost(small) is first
    assert example_cost(large).gradient_flops > first.gradient_flops
    assert example_cost(small) == first


class Attends(nn.Module):
    """Operations of user models, some of which torch decomposes."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.loop = nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Bilinear(8, 8, 10)

    def forward(self, x):
        h = self.layer(self.first(x.flatten(1).unflatten(1, (8, 8))))
        h = torch.einsum("bij,bkj->bik", h, h) @ self.loop(h)[0]
        return self.head(h.mean(1), nn.functional.normalize(h[:, 0]))


@pytest.mark.parametrize("model", ["perceptron", "small_cnn", "resnet20", "attention"])
def test_flops_are_those_that_torch_counts(model):
    task = load_problem(ProblemSpec(model="perceptron" if model == "attention" else model))
    if model == "attention":
        task = replace(task, build_model=Attends)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = task.build_model().train()
    data = task.dataset
    with FlopCounterMode(display=False) as counter:
        outputs = network(data.standardised(data.train_inputs[:2]).clone())
        task.loss(outputs[None], data.train_targets[:2][None]).sum().backward()
    assert example_cost(task).gradient_flops == counter.get_total_flops() / 2 > 0


def test_training_loads_nothing_that_it_does_not_need():
    """Imports that would take every worker seconds: torch's compiler, and scikit-learn for stored digits."""
    code = """
import sys
from sensitivity.study.load import parse_study
from sensitivity.study.trials import Pack, expand
from sensitivity.training.calibration import calibrate
from sensitivity.training.loop import train_pack
from sensitivity.training.problems import load_problem
spec = parse_study({"name": "x", "batch_sizes": [512], "seeds": 1, "budget": {"steps": 2},
                    "optimizers": {"a": {"kind": "kfac", "lr": 0.1, "damping": 0.1}}}, source="x")
problem = load_problem(spec.problem)
calibrate(expand(spec), problem, memory_bytes=1e9)
train_pack(Pack(expand(spec)), problem)
print([name for name in ("torch._dynamo", "sympy", "sklearn", "scipy", "pandas", "ray") if name in sys.modules])
"""
    load_problem(ProblemSpec())  # stored from now on
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_digits_equal_scikit_learns_with_and_without_a_data_folder(tmp_path, monkeypatch):
    images, classes = load_digits(return_X_y=True)
    some, rest, some_classes, _ = train_test_split(images, classes, test_size=0.3, random_state=5, stratify=classes)
    (tmp_path / "file").touch()
    for folder in (tmp_path / "kept", tmp_path / "kept", tmp_path / "file"):
        monkeypatch.setenv("SENSITIVITY_DATA", str(folder))
        data = load_problem(ProblemSpec(test_fraction=0.3, split_seed=5), dtype=torch.float64).dataset
        for found, pixels in ((data.train_inputs, some), (data.test_inputs, rest)):
            expected = torch.from_numpy((pixels - some.mean()) / some.std())
            torch.testing.assert_close(found.flatten(1), expected, rtol=0, atol=0)
        assert data.train_targets.tolist() == some_classes.tolist()
