"""Every optimizer stays on the device, which is tested on the meta device, treated like an accelerator.

It raises an error if the host reads values; a mode raises one if tensors of two devices are mixed. Only K-FAC's
inversion may read: once, whether any inverse has failed. (Fake tensors on "cuda" can't be indexed without CUDA.)
"""

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from sensitivity.kfac import Capture, precondition, solves
from sensitivity.optimizers.contract import Networks
from sensitivity.optimizers.pack import optimizer_of
from sensitivity.study.load import parse_study
from sensitivity.study.trials import expand
from sensitivity.training.dispatch_modes import ObserverMode
from tests.optimizers.cases import ARMS

KFAC = {"kind": "kfac", "damping": [0.1, 0.3], "lr": [0.01, 0.03], "inverse_interval": 3}
CASES = {
    **{kind: {"kind": kind, **arm} for kind, arm in ARMS.items() if not kind.startswith("torch")},
    **{kind: {"kind": kind, **ARMS[kind], "precondition_interval": 2} for kind in ("shampoo", "soap")},
    "clipped": {**KFAC, "kl_clip": 1e-3},
    "exact": {**KFAC, "damping_form": "exact"},
    "ekfac": {**KFAC, "damping_form": "exact", "ekfac": True},
    "reduced": {**KFAC, "sharing": "reduce", "factor_decay": 0.9, "momentum": [0.5, 0.9]},
    "diagonal": {**KFAC, "others": "diagonal", "weight_decay": 1e-3, "decoupled": True},
    "falling damping": {**KFAC, "damping_end": 0.1, "nesterov": True},
    "averaged": {"kind": "sgd", "lr": [0.1, 0.2], "clip_norm": 1.0},
}


class OneDevice(ObserverMode):
    """Raises an error if tensors of two devices are mixed, except for copies and host scalars."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket not in (torch.ops.aten.copy_, torch.ops.aten._to_copy):
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            devices = {tensor.device.type for tensor in tensors if tensor.dim()}
            assert len(devices) < 2, f"{func} of tensors on {devices}"
        return result


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 6))


def calls():
    """The layers' calls of a batch of 24, in a pack of two."""

    def call(inputs, outputs):
        return [Capture(torch.empty(2, 24, *inputs, device="meta"), torch.empty(2, 24, *outputs, device="meta"))]

    return {"0": call((2, 6, 6), (4, 4, 4)), "1": call((4, 4, 4), (4, 4, 4)), "3": call((64,), (6,))}


def two_periods(monkeypatch, arm, scale):
    """Step a pack of two on a fake device; return the optimizer and its parameters."""
    raw = {"name": "t", "batch_sizes": [24], "seeds": 1, "budget": {"steps": 20}, "optimizers": {"a": arm}}
    trials, network = expand(parse_study(raw, source="t"))[:2], Net()
    params = {n: torch.empty(2, *p.shape, device="meta") for n, p in network.named_parameters()}
    networks = Networks(network=network, batch_size=24, loss="cross_entropy", steps=20, seeds=[0, 1])
    optimizer = optimizer_of(trials, params, networks)
    for step in range(optimizer.period + 1):
        if optimizer.begin(step):
            observed = {name: call for name, call in calls().items() if name in optimizer.observed_layers}
            optimizer.observe(observed, 1.0)
        outputs = torch.empty(2, 24, 6, device="meta")
        if optimizer.sampled_loss(outputs, step=step, done=0) is not None:
            optimizer.take_sampled({name: torch.empty_like(p) for name, p in params.items()}, 1.0)
        failed = optimizer.step(params, {n: torch.empty_like(p) for n, p in params.items()}, scale, step=step)
        assert failed is None or failed.device.type == "meta"
    with optimizer.evaluating(params):
        pass
    index = torch.tensor([1], device="meta")
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: torch.tensor([1]) if tensor is index else tensor)
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: [1])
    optimizer.select(index)
    return optimizer, params


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch):
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)  # does not support this device


@pytest.mark.parametrize("name", CASES)
def test_nothing_leaves_the_device(monkeypatch, name):
    asked = []
    for module in (solves, precondition):
        monkeypatch.setattr(module, "any_failed", lambda found: asked.append(found) or False)
    with OneDevice():
        optimizer, params = two_periods(monkeypatch, CASES[name], torch.ones((), device="meta"))
        held = [leaf for leaf in tree_leaves(optimizer.state()) if isinstance(leaf, torch.Tensor)]
        assert {leaf.device.type for leaf in held if leaf.dim() and leaf.is_floating_point()} <= {"meta"}
        assert {p.device.type for p in params.values()} == {"meta"}
    assert len(asked) == (2 if CASES[name]["kind"] == "kfac" else 0)


def test_synchronisations_and_mixed_devices_are_detected():
    with OneDevice():
        there = torch.empty(3, device="meta")
        with pytest.raises(RuntimeError):
            bool(there.any())
        with pytest.raises((AssertionError, RuntimeError)):
            torch.empty(3).mul_(there)


@pytest.mark.parametrize("name", ["kfac", "adamw"])
def test_a_state_from_the_host_is_restored_in_place(monkeypatch, name):
    for module in (solves, precondition):
        monkeypatch.setattr(module, "any_failed", lambda found: False)
    with OneDevice():
        optimizer, _ = two_periods(monkeypatch, CASES[name], 1.0)
        places = [leaf for leaf in tree_leaves(optimizer.state()) if isinstance(leaf, torch.Tensor)]
        as_loaded = torch.utils._pytree.tree_map(
            lambda leaf: torch.empty(leaf.shape, dtype=leaf.dtype) if isinstance(leaf, torch.Tensor) else leaf,
            optimizer.state(),
        )
        optimizer.restore(as_loaded)
        after = [leaf for leaf in tree_leaves(optimizer.state()) if isinstance(leaf, torch.Tensor)]
    assert all(one is other for one, other in zip(places, after, strict=True))
    assert {leaf.device.type for leaf in after} == {"meta"}
