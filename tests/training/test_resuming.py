"""A resumed pack is bitwise equal to an uninterrupted one."""

import copy
import io

import pytest
import torch
from torch import nn

from sensitivity.study.results import Status
from sensitivity.study.trials import Pack, expand
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.loop import train_pack
from sensitivity.training.losses import cross_entropy
from sensitivity.training.problems import Problem

SGD = {"kind": "sgd", "lr": [0.01, 0.1, 1e7], "momentum": [0.5, 0.9], "weight_decay": 1e-3}
KFAC = {"kind": "kfac", "lr": [0.01, 0.05, 1e7], "damping": [0.1, 0.5], "inverse_interval": 6, "kl_clip": 1e-2}


def noisy_network() -> nn.Module:
    """Statistics in buffers, and dropout by a module and by a function, which may differ between runs."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.drop = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.2)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            h = self.drop(torch.relu(self.norm(self.first(x))))
            return self.head(nn.functional.dropout(h, 0.1, self.training))

    return Network()


@pytest.fixture(scope="module")
def problem():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(50, 6, generator=generator), torch.randint(0, 3, (50,), generator=generator)
    data = Dataset(train_inputs=x[:40], train_targets=y[:40], test_inputs=x[40:], test_targets=y[40:])
    return Problem(dataset=data, build_model=noisy_network, loss=cross_entropy, has_classes=True, outputs=3)


def yielded(results):
    """Everything except times."""
    return [
        (
            r.status,
            r.steps,
            r.message,
            repr(r.clip_share),
            [(m.step, repr(m.effective_lr), m.train_loss, m.test_loss, m.test_accuracy) for m in r.measurements],
        )
        for r in results
    ]


@pytest.mark.parametrize("arm", [SGD, KFAC], ids=["sgd", "kfac"])
@pytest.mark.parametrize("at", [16, 25, 48], ids=["between evaluations", "at an evaluation", "after a drop"])
def test_a_resumed_pack_ends_as_the_undisturbed_one(make_study, problem, arm, at):
    spec = make_study(
        batch_sizes=[7], seeds=2, budget={"steps": 60}, evaluation={"every_steps": 25}, optimizers={"a": arm}
    )
    pack, kept = Pack(expand(spec)), io.BytesIO()

    def keep(training):
        if training.done == at:
            torch.save(training.state(), kept)

    whole = train_pack(pack, problem, on_check=keep)
    assert {r.status for r in whole} == {Status.COMPLETED, Status.DIVERGED}
    kept.seek(0)
    state = torch.load(kept, weights_only=True)
    if arm is SGD:  # K-FAC's clip delays divergence at any learning rate
        assert len(state["live"]) < len(pack.trials), "what diverged at once was dropped"
    torch.manual_seed(99)  # nothing may depend on the global generator
    assert yielded(train_pack(pack, problem, resume=state)) == yielded(whole)
    for run in train_pack(pack, problem, resume=state):
        times = [m.train_seconds for m in run.measurements]
        assert times == sorted(times)


def test_a_pack_without_remaining_members_resumes_to_its_results(make_study, problem):
    spec = make_study(batch_sizes=[7], budget={"steps": 40}, optimizers={"a": {"kind": "sgd", "lr": [1e9, 1e10]}})
    pack, states = Pack(expand(spec)), []
    whole = train_pack(pack, problem, on_check=lambda training: states.append(training.state()))
    assert {r.status for r in whole} == {Status.DIVERGED}
    assert yielded(train_pack(pack, problem, resume=states[-1])) == yielded(whole)


def test_augmented_images_go_on_where_they_were(make_study):
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(0, 255, (30, 1, 8, 8), generator=generator, dtype=torch.uint8)
    y = torch.randint(0, 3, (30,), generator=generator)
    data = Dataset(
        train_inputs=x, train_targets=y, test_inputs=x, test_targets=y,
        mean=torch.full((1, 1, 1), 120.0), deviation=torch.full((1, 1, 1), 70.0),
    )  # fmt: skip
    task = Problem(
        dataset=data,
        build_model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
        loss=cross_entropy,
        has_classes=True,
        outputs=3,
    )
    spec = make_study(
        batch_sizes=[8],
        seeds=2,
        budget={"steps": 40},
        evaluation={"every_steps": 8},
        problem={"augment": "crop_flip"},
        optimizers={"a": {"kind": "sgd", "lr": [0.01, 0.1]}},
    )
    pack, kept = Pack(expand(spec)), io.BytesIO()
    whole = train_pack(pack, task, on_check=lambda training: training.done == 24 and torch.save(training.state(), kept))
    kept.seek(0)
    assert yielded(train_pack(pack, task, resume=torch.load(kept, weights_only=True))) == yielded(whole)


def test_resuming_leaves_the_state_as_it_was(make_study, problem):
    spec = make_study(batch_sizes=[7], budget={"steps": 24}, optimizers={"a": KFAC})
    pack, kept = Pack(expand(spec)), io.BytesIO()
    train_pack(pack, problem, on_check=lambda training: training.done == 16 and torch.save(training.state(), kept))
    kept.seek(0)
    state = torch.load(kept, weights_only=True)
    before = copy.deepcopy(state["members"])
    train_pack(pack, problem, resume=state)
    assert repr(state["members"]) == repr(before)
