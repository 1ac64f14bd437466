"""Options of every optimizer besides its hyperparameters: its own schedule, and gradient clipping."""

import pytest
import torch
from torch import nn

from sensitivity.study.errors import StudyFileError
from sensitivity.study.load import parse_study
from sensitivity.study.trials import Pack, expand, group
from sensitivity.training.batches import PackBatches
from sensitivity.training.loop import train_pack
from sensitivity.training.random_states import initialised
from tests.optimizers.cases import losses, problem

PLAIN = {"kind": "sgd", "lr": 0.5}


def study(*, schedule=None, **arm):
    raw = {
        "name": "t", "batch_sizes": [24], "seeds": 1, "budget": {"epochs": 6}, "evaluation": {"every_epochs": 2},
        "schedule": schedule or {}, "optimizers": {"a": {**PLAIN, **arm}},
    }  # fmt: skip
    return parse_study(raw, source="test")


def trained(spec):
    return [result for pack in group(expand(spec), 8) for result in train_pack(pack, problem())]


def test_the_warm_up_is_an_axis_and_every_run_has_its_own():
    spec = study(schedule={"decay": "cosine"})
    axis = parse_study(
        {**spec.model_dump(mode="json"), "optimizers": {"a": {**PLAIN, "schedule": {"warmup_epochs": [0.0, 1, 3]}}}},
        source="test",
    )
    assert axis.hyperparameters == ("lr", "momentum", "warmup_epochs", "weight_decay")
    found = trained(axis)
    assert len(found) == 3
    for result in found:
        warmup = dict(result.trial.hyperparameters)["warmup_epochs"]
        (truth,) = trained(study(schedule={"decay": "cosine", "warmup_epochs": float(warmup)}))
        assert losses(result) == losses(truth)
        assert [m.lr for m in result.measurements] == [m.lr for m in truth.measurements]


def test_single_values_are_settings_and_decay_can_be_overridden():
    spec = study(schedule={"decay": "trapezoidal", "decay_fraction": 0.5})
    own = parse_study(
        {
            **study(schedule={"decay_at": [0.5]}).model_dump(mode="json"),
            "optimizers": {"a": {**PLAIN, "schedule": {"decay": "trapezoidal", "decay_fraction": 0.5}}},
        },
        source="test",
    )
    (trial,) = expand(own)
    assert trial.settings["schedule"] == {"decay": "trapezoidal", "decay_fraction": 0.5}
    assert [losses(result) for result in trained(own)] == [losses(result) for result in trained(spec)]


def test_the_gradient_is_clipped_as_torch_does_whatever_the_pack():
    spec, task = study(clip_norm=[0.05, 0.2, 100.0], momentum=0.9), problem()
    results = train_pack(Pack(expand(spec)), task)
    for result in results:
        network = initialised(task.build_model, 0)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.9)
        batches = PackBatches([0], task, batch_size=24, micro_batch=None, augment=False)
        for _ in range(result.steps):
            (part,) = batches.draw()
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(part.inputs[0]), part.targets[0]).backward()
            nn.utils.clip_grad_norm_(network.parameters(), dict(result.trial.hyperparameters)["clip_norm"])
            optimizer.step()
        with torch.no_grad():
            loss = nn.functional.cross_entropy(network(task.dataset.train_inputs), task.dataset.train_targets).item()
        assert result.measurements[-1].train_loss == pytest.approx(loss, rel=1e-10)
    assert len({result.measurements[-1].train_loss for result in results}) == 3


def test_clip_norm_works_as_setting_and_axis():
    (fixed,), (axis, _) = trained(study(clip_norm=0.05)), trained(study(clip_norm=[0.05, 1.0]))
    assert losses(fixed) == pytest.approx(losses(axis), rel=1e-10)
    (trial,) = expand(study())
    assert trial.settings == {"kind": "sgd", "nesterov": False}


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ({"clip_norm": [0.0, 1.0]}, "clip_norm must be > 0; got 0"),
        ({"clip_norm": -1.0}, "optimizers.a.clip_norm: must be > 0"),
        ({"kind": "kfac", "damping": 0.1, "clip_norm": 1.0}, "use kl_clip"),
        ({"schedule": {"warmup_epochs": [-1.0, 1.0]}}, "warmup_epochs must be >= 0; got -1"),
        ({"schedule": {"warmup_epochs": -1.0}}, "optimizers.a.schedule.warmup_epochs"),
        ({"schedule": {"decay_factor": [0.5, 2.0]}}, "optimizers.a.schedule.decay_factor"),
        ({"schedule": {"decay_fraction": 0.3}}, 'belongs to decay = "trapezoidal"'),
        ({"schedule": {"warmup": 1}}, "optimizers.a.schedule.warmup: unknown field (did you mean 'warmup_epochs'?)"),
        ({"schedule": {"decay": "cosinus"}}, "(did you mean 'cosine'?)"),
    ],
)
def test_what_is_refused_is_said(arm, said):
    raw = study().model_dump(mode="json")
    raw["optimizers"]["a"] = {**PLAIN, **arm}
    with pytest.raises(StudyFileError) as caught:
        parse_study(raw, source="test")
    assert said in str(caught.value)


@pytest.mark.parametrize("arm", [{"momentum": 0.9}, {"kind": "kfac", "damping": 0.1}, {"kind": "torch.optim:AdamW"}])
def test_update_and_gradient_times_are_reported_separately(arm):
    for result in trained(study(**arm)):
        spent = result.phase_seconds
        assert spent["update"] > 0
        assert spent["gradients"] > 0
        assert sum(spent.values()) == pytest.approx(result.train_seconds)
        assert (spent["factors"] > 0) == (arm.get("kind") == "kfac")
