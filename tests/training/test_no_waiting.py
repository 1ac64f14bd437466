"""No training step reads values from the device, which is tested on the meta device, as it has no values.

It is treated like an accelerator and raises an error on reading. Only K-FAC's inversion may read, once per interval.
"""

import pytest
import torch
from torch import nn

from sensitivity.study.trials import Pack, expand
from sensitivity.training import packed_model
from sensitivity.training.batches import MicroBatch
from sensitivity.training.members import DivergenceMonitor
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.problems import load_problem
from sensitivity.training.step import make_optimizer, take_step

META = torch.device("meta")
ARMS = {
    "sgd": {"kind": "sgd", "lr": [0.1, 0.2], "momentum": 0.9, "weight_decay": [0.0, 1e-3], "nesterov": True},
    "kfac": {"kind": "kfac", "lr": [0.1, 0.2], "damping": 0.1, "weight_decay": 1e-3, "kl_clip": 1e-3},
    "adamw": {"kind": "adamw", "lr": [0.1, 0.2], "beta1": [0.8, 0.9]},
    "nadam": {"kind": "nadam", "lr": [0.1, 0.2], "weight_decay": 0.1},
    "rmsprop": {"kind": "rmsprop", "lr": [0.1, 0.2], "momentum": 0.9, "centered": True},
    "adagrad": {"kind": "adagrad", "lr": [0.1, 0.2], "lr_decay": 0.1},
    "lion": {"kind": "lion", "lr": [0.1, 0.2], "weight_decay": 0.1},
    "schedule_free_adamw": {"kind": "schedule_free_adamw", "lr": [0.1, 0.2], "weight_decay": 0.1},
    "muon": {"kind": "muon", "lr": [0.1, 0.2]},
    "shampoo": {"kind": "shampoo", "lr": [0.1, 0.2]},
    "soap": {"kind": "soap", "lr": [0.1, 0.2]},
}
MODELS = {
    "a sequence": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)),
    "under vmap": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10)),
}


class Shapes:
    """Batches without values."""

    def draw(self):
        images = torch.empty(2, 16, 1, 8, 8, device=META)
        yield MicroBatch(inputs=images, targets=torch.empty(2, 16, dtype=torch.int64, device=META), share=1.0)


def test_the_meta_device_detects_reading_values():
    with pytest.raises(RuntimeError):
        bool(torch.ones((), device=META) > 0)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("model", MODELS)
def test_a_step_reads_nothing_from_the_device(make_study, monkeypatch, model, arm):
    monkeypatch.setattr(packed_model, "loop_reason", lambda network: None)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)  # does not support this device
    spec = make_study(optimizers={"a": ARMS[arm]})
    trials, problem = expand(spec)[:2], load_problem(spec.problem)
    pack = PackedModel(MODELS[model], [trial.seed for trial in trials])
    pack.params = {name: p.detach().to(META).requires_grad_() for name, p in pack.params.items()}
    pack._buffers = {name: buffer.to(META) for name, buffer in pack._buffers.items()}
    pack._tried.add(True)
    optimizer, monitor = make_optimizer(Pack(trials), pack, problem), DivergenceMonitor(len(trials))
    for step in range(1, 4):  # after K-FAC's inversion
        losses, failed = take_step(pack, problem, optimizer, Shapes(), step=step, lr_scale=0.5)
        monitor.observe(step, losses, failed)
        assert losses.device == META
