"""Each member of a pack equals the same trial trained alone at each of 50 steps, whatever happens to the pack.

The relative tolerance of losses is 1e-9 in float64, and 1e-3 in float32, where the order of sums differs.
"""

import dataclasses
import functools
import io

import pytest
import torch
from torch import nn

from sensitivity.study.results import RunResult, Status
from sensitivity.study.trials import Pack, Trial, expand
from sensitivity.training import pack_training, packed_model
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.loop import train_pack
from sensitivity.training.losses import cross_entropy
from sensitivity.training.problems import Problem

STEPS, WILD = 50, 1e6
ARMS = {
    "sgd": {"kind": "sgd", "lr": [0.02, 0.1, WILD], "momentum": 0.9, "weight_decay": 1e-3},
    "kfac": {"kind": "kfac", "lr": [0.01, 0.05, WILD], "damping": 0.3, "weight_decay": 1e-3},
}
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}


def convolutional() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )


MODELS = {
    "perceptron": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(72, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)
    ),
    "convolution and batch norm": convolutional,
    "dropout": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 3)),
}
WAYS = ["as chosen here", "under vmap"]
"""Also force the joint form of convolutions and vmap for plain sequences, which a CPU does not use."""


@functools.cache
def problem(model: str, dtype: torch.dtype) -> Problem:
    generator = torch.Generator().manual_seed(12)
    x = torch.randn(120, 2, 6, 6, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.randint(0, 3, (120,), generator=generator)
    data = Dataset(train_inputs=x[:90], train_targets=y[:90], test_inputs=x[90:], test_targets=y[90:])
    return Problem(
        dataset=data,
        build_model=lambda: MODELS[model]().to(dtype),
        loss=cross_entropy,
        has_classes=True,
        outputs=3,
    )


def go_by_vmap(monkeypatch) -> None:
    monkeypatch.setattr(packed_model, "sequence_of", lambda network, tape: None)
    monkeypatch.setattr(packed_model, "loop_reason", lambda network: None)


_alone: dict[tuple[str, str, torch.dtype], RunResult] = {}


def alone(trial: Trial, model: str, dtype: torch.dtype) -> RunResult:
    """The trial trained alone in the selected form, cached for all packs that it is compared with."""
    key = (trial.id, model, dtype)
    if key not in _alone:
        (_alone[key],) = train_pack(Pack((trial,)), problem(model, dtype))
    return _alone[key]


def curve(run):
    return [(m.step, m.train_loss, m.test_loss) for m in run.measurements]


@pytest.mark.parametrize(("way", "dtype"), [*((way, torch.float64) for way in WAYS), (WAYS[0], torch.float32)], ids=str)
@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("model", MODELS)
def test_a_member_is_what_it_is_alone_step_by_step(make_study, monkeypatch, model, way, arm, dtype):
    """The pack has two seeds, loses a third of its members, and is then saved and resumed."""
    spec = make_study(
        batch_sizes=[20],
        seeds=2,
        budget={"steps": STEPS},
        evaluation={"every_steps": 1, "train_examples": 30, "divergence_bound": 100},
        optimizers={"a": ARMS[arm]},
    )
    trials, task, kept, sizes = expand(spec), problem(model, dtype), io.BytesIO(), []
    if way == "under vmap":
        go_by_vmap(monkeypatch)

    def put_aside(training):
        sizes.append(training.left)
        if training.done == 30:
            torch.save(training.state(), kept)

    whole = train_pack(Pack(trials), task, on_check=put_aside)
    kept.seek(0)
    resumed = train_pack(Pack(trials), task, resume=torch.load(kept, weights_only=True))
    assert sizes[29] == sizes[-1] == 4, "the others were dropped before it was put aside"
    monkeypatch.undo()  # alone, in the default form
    for trial, together, again in zip(trials, whole, resumed, strict=True):
        if dict(trial.hyperparameters)["lr"] == WILD:
            assert together.status is again.status is Status.DIVERGED
            continue
        assert [dataclasses.astuple(m)[-4:] for m in again.measurements] == [
            dataclasses.astuple(m)[-4:] for m in together.measurements
        ]
        single = alone(trial, model, dtype)
        assert single.status is together.status is Status.COMPLETED
        assert len(curve(single)) == STEPS + 1
        for ours, theirs in zip(curve(together), curve(single), strict=True):
            assert ours == pytest.approx(theirs, rel=TOLERANCE[dtype])


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", MODELS)
def test_members_with_only_non_finite_values_do_not_affect_others(make_study, monkeypatch, model, way, arm):
    """Keep the member in the computation to the end, for this test."""
    monkeypatch.setattr(pack_training, "_WORTH_DROPPING", 0)
    if way == "under vmap":
        go_by_vmap(monkeypatch)
    options = {"batch_sizes": [20], "seeds": 2, "budget": {"steps": STEPS}, "evaluation": {"every_steps": STEPS}}
    wild = {**ARMS[arm], "lr": [0.02, 1e30, 0.05], **({"kl_clip": 1e12} if arm == "kfac" else {})}
    trials, task = expand(make_study(optimizers={"a": wild}, **options)), problem(model, torch.float64)
    together = train_pack(Pack(trials), task)
    monkeypatch.undo()
    completed = 0
    for trial, ours in zip(trials, together, strict=True):
        single = alone(trial, model, torch.float64)
        assert ours.status is single.status
        if ours.status is Status.COMPLETED:
            completed += 1
            for ends in zip(curve(ours), curve(single), strict=True):
                assert ends[0] == pytest.approx(ends[1], rel=1e-9)
    assert 0 < completed < len(trials)
