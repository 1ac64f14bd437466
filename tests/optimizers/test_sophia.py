"""Sophia has the trajectory of sophia-opt 0.2.2, and its curvature is that of labels drawn from the network."""

import hashlib

import pytest
import torch
from torch import nn

from sensitivity.optimizers.contract import Networks
from sensitivity.optimizers.kinds.sophia import Sophia
from sensitivity.study.load import parse_study
from sensitivity.study.trials import Pack, expand
from sensitivity.training.batches import PackBatches
from sensitivity.training.checks import check_study
from sensitivity.training.loop import train_pack
from sensitivity.training.problems import load_problem
from sensitivity.training.random_states import initialised
from tests.optimizers.cases import losses, problem

STEPS, LR, BETA1, BETA2, RHO, DECAY = 10, 0.01, 0.8, 0.9, 2.0, 0.1


def study(**arm):
    raw = {
        "name": "t", "batch_sizes": [24], "seeds": [0, 3], "budget": {"steps": STEPS},
        "evaluation": {"every_steps": STEPS},
        "optimizers": {"a": {"kind": "sophia", "lr": [LR, 0.02], "beta1": BETA1, "beta2": BETA2, "rho": RHO,
                             "weight_decay": DECAY, "hessian_interval": 4, **arm}},
    }  # fmt: skip
    return parse_study(raw, source="test")


class Reference:
    """The update of sophia-opt's `_single_tensor_sophiag` and `update_hessian`, in their order of operations."""

    def __init__(self, params):
        self.params = list(params)
        self.mean = [torch.zeros_like(p) for p in self.params]
        self.hessian = [torch.zeros_like(p) for p in self.params]

    @torch.no_grad()
    def update_hessian(self):
        for p, h in zip(self.params, self.hessian, strict=True):
            h.mul_(BETA2).addcmul_(p.grad, p.grad, value=1 - BETA2)

    @torch.no_grad()
    def step(self, bs):
        for p, m, h in zip(self.params, self.mean, self.hessian, strict=True):
            p.mul_(1 - LR * DECAY)
            m.mul_(BETA1).add_(p.grad, alpha=1 - BETA1)
            ratio = (m.abs() / (RHO * bs * h + 1e-15)).clamp(None, 1)
            p.addcmul_(m.sign(), ratio, value=-LR)


def reference(parameters):
    """The optimizer of sophia-opt, if installed."""
    try:
        from sophia_opt import SophiaG
    except ImportError:
        return Reference(parameters)
    return SophiaG(parameters, lr=LR, betas=(BETA1, BETA2), rho=RHO, weight_decay=DECAY)


def drawn_labels(outputs, seed, step):
    word = hashlib.sha256(f"sophia/{seed}/{step}".encode()).digest()[:4]
    generator = torch.Generator().manual_seed(int.from_bytes(word, "big"))
    cumulative = outputs.softmax(1).cumsum(1)
    uniform = torch.rand(len(outputs), generator=generator, dtype=torch.float64)
    return torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:]).squeeze(1)


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("micro_batch", [None, 8])
def test_a_member_walks_as_the_reference_does(place, micro_batch):
    task, spec = problem(), study()
    seed = spec.seeds[place]
    trials = [trial for trial in expand(spec) if dict(trial.hyperparameters)["lr"] == LR]
    result = train_pack(Pack(tuple(trials)), task, micro_batch=micro_batch)[place]
    network = initialised(task.build_model, seed)
    optimizer = reference(network.parameters())
    batches = PackBatches([seed], task, batch_size=24, micro_batch=None, augment=False)
    clipped = []
    for step in range(STEPS):
        (part,) = batches.draw()
        outputs = network(part.inputs[0])
        if step % 4 == 0:
            network.zero_grad()
            labels = drawn_labels(outputs.detach(), seed, step)
            nn.functional.cross_entropy(outputs, labels).backward(retain_graph=True)
            optimizer.update_hessian()
        network.zero_grad()
        nn.functional.cross_entropy(outputs, part.targets[0]).backward()
        before = [p.detach().clone() for p in network.parameters()]
        optimizer.step(bs=24)
        moved = [(p - (1 - LR * DECAY) * b).abs() for p, b in zip(network.parameters(), before, strict=True)]
        clipped.append(torch.cat([m.flatten() for m in moved]).ge(LR * 0.999).double().mean().item())
    assert 0.05 < sum(clipped) / STEPS < 0.95, "some steps are the sign's, and some are not"
    with torch.no_grad():
        loss = nn.functional.cross_entropy(network(task.dataset.train_inputs), task.dataset.train_targets).item()
    assert result.measurements[-1].train_loss == pytest.approx(loss, rel=1e-9)


def test_without_curvature_it_is_the_sign_of_the_average():
    """A tiny rho clips every step: signSGD with momentum, as Lion with equal betas and the average first."""
    task = problem()
    (found, *_) = train_pack(Pack(expand(study(rho=1e-12, weight_decay=0.0))), task)
    network = initialised(task.build_model, 0)
    batches = PackBatches([0], task, batch_size=24, micro_batch=None, augment=False)
    means = [torch.zeros_like(p) for p in network.parameters()]
    for _ in range(STEPS):
        (part,) = batches.draw()
        network.zero_grad()
        nn.functional.cross_entropy(network(part.inputs[0]), part.targets[0]).backward()
        with torch.no_grad():
            for p, mean in zip(network.parameters(), means, strict=True):
                mean.lerp_(p.grad, 1 - BETA1)
                p.sub_(LR * mean.sign())
    with torch.no_grad():
        loss = nn.functional.cross_entropy(network(task.dataset.train_inputs), task.dataset.train_targets).item()
    assert found.measurements[-1].train_loss == pytest.approx(loss, rel=1e-9)


def test_its_second_backward_pass_is_counted():
    every, seldom = (train_pack(Pack(expand(study(hessian_interval=k))[:1]), problem())[0] for k in (1, 1000))
    layers = 3 * 6 * 6
    backward = 2 * 24 * (2 * layers - 36)  # by weights, and by inputs except for the first layer
    assert every.flops - seldom.flops == pytest.approx(STEPS * backward * (1 - 1 / 1000))
    assert losses(every) != losses(seldom)


def test_it_needs_classes():
    told = Sophia.unusable({}, Networks(network=problem().build_model(), batch_size=24, loss="squared_error"))
    assert 'needs loss = "cross_entropy"' in told


def test_shipped_problems_support_sophia():
    spec = study()
    check_study(spec, load_problem(spec.problem), source="x")
