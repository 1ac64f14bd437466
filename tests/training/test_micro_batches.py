"""Micro-batches give the gradient, K-FAC factors and update of the whole batch."""

import pytest
import torch
from torch import nn

from sensitivity.study.trials import Pack, expand
from sensitivity.training.batches import PackBatches
from sensitivity.training.calibration import member_bytes
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.loop import train_pack
from sensitivity.training.losses import cross_entropy
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.problems import Problem
from sensitivity.training.step import make_optimizer, take_step

ARMS = {
    "sgd": {"kind": "sgd", "lr": [0.05, 0.1], "momentum": 0.9},
    "kfac": {"kind": "kfac", "lr": [0.01, 0.05], "damping": 0.1, "inverse_interval": 2},
}


def problem(*, norm: bool = False) -> Problem:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(48, 2, 6, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (48,), generator=generator)
    data = Dataset(train_inputs=x, train_targets=y, test_inputs=x[:9], test_targets=y[:9])

    def build() -> nn.Module:
        middle = nn.BatchNorm2d(4) if norm else nn.Identity()
        layers = (nn.Conv2d(2, 4, 3, padding=1), middle, nn.Tanh(), nn.Flatten(), nn.Linear(144, 3))
        return nn.Sequential(*layers).double()

    return Problem(dataset=data, build_model=build, loss=cross_entropy, has_classes=True, outputs=3)


def losses(results):
    return [[m.train_loss for m in r.measurements] for r in results]


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("micro_batch", [8, 7, 1], ids=["even", "uneven", "single examples"])
def test_parts_train_as_the_whole(make_study, arm, micro_batch):
    spec = make_study(
        batch_sizes=[24], seeds=2, budget={"steps": 7}, evaluation={"every_steps": 1}, optimizers={"a": ARMS[arm]}
    )
    pack = Pack(expand(spec))
    whole, parts = train_pack(pack, problem()), train_pack(pack, problem(), micro_batch=micro_batch)
    for ours, theirs in zip(losses(parts), losses(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)


def test_factors_of_the_parts_are_those_of_the_whole(make_study):
    spec = make_study(batch_sizes=[24], optimizers={"a": ARMS["kfac"]})
    pack, task = Pack(expand(spec)), problem()
    factors = {}
    for micro_batch in (None, 5):
        model = PackedModel(task.build_model, [0, 0])
        optimizer = make_optimizer(pack, model, task)
        batches = PackBatches([0, 0], task, batch_size=24, micro_batch=micro_batch, augment=False)
        take_step(model, task, optimizer, batches, step=0, lr_scale=1.0)
        state = optimizer.state()["rule"]["factors"]
        factors[micro_batch] = {dim: bank.clone() for dim, bank in state.items()}
    for dim, bank in factors[None].items():
        torch.testing.assert_close(factors[5][dim], bank, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("arm", ARMS)
def test_a_ghost_batch_normalises_its_own_examples(make_study, arm):
    """With BatchNorm, parts are normalised separately; an independent loop in plain torch gives the same gradient."""
    options = {"batch_sizes": [24], "budget": {"steps": 1}, "optimizers": {"a": ARMS[arm]}}
    spec = make_study(problem={"ghost_batch": 8}, **options)
    task, trial = problem(norm=True), expand(spec)[0]
    model = PackedModel(task.build_model, [trial.seed])
    optimizer = make_optimizer(Pack((trial,)), model, task)
    batches = PackBatches([trial.seed], task, batch_size=24, micro_batch=8, augment=False)
    torch.manual_seed(0)
    network = task.build_model()
    network.load_state_dict({n: p[0].detach() for n, p in model.params.items()}, strict=False)
    rows = PackBatches([trial.seed], task, batch_size=24, micro_batch=8, augment=False)
    entering, leaving = [], []  # the last layer's inputs, and the gradients by its outputs
    network[-1].register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0].detach()))
    network[-1].register_full_backward_hook(lambda _module, _inputs, outputs: leaving.append(outputs[0]))
    for part in rows.draw():
        loss = nn.functional.cross_entropy(network(part.inputs[0]), part.targets[0])
        (loss * part.share).backward()
    if arm == "sgd":
        before = {name: p.detach().clone() for name, p in model.params.items()}
        take_step(model, task, optimizer, batches, step=0, lr_scale=1.0)
        for name, p in network.named_parameters():
            moved = (before[name] - model.params[name])[0] / 0.05
            torch.testing.assert_close(moved.detach(), p.grad, rtol=1e-9, atol=1e-12)
    else:
        take_step(model, task, optimizer, batches, step=0, lr_scale=1.0)
        factors = optimizer.state()["rule"]["factors"]
        a = torch.cat([nn.functional.pad(x, (0, 1), value=1.0) for x in entering])
        g = 24 * torch.cat(leaving)  # of each example's own loss
        torch.testing.assert_close(factors[145][0, 0], a.T @ a / 24, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(factors[3][0, 0], g.T @ g / 24, rtol=1e-9, atol=1e-12)
    for name, buffer in network.named_buffers():
        torch.testing.assert_close(model.state()["buffers"][name][0], buffer, rtol=1e-12, atol=0)
    # The whole pack, from the study file's field: the same as dividing the batch by hand.
    together = train_pack(Pack(expand(spec)), task)
    apart = train_pack(Pack(expand(make_study(**options))), task, micro_batch=8)
    assert losses(together) == losses(apart)
    undivided = train_pack(Pack(expand(make_study(**options))), task)
    assert losses(together) != losses(undivided)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("field", ["micro_batch", "ghost_batch"])
def test_a_batch_of_16384_takes_the_memory_of_one_part_and_its_own_data(make_study, arm, field):
    size, part = 16_384, 512
    generator = torch.Generator().manual_seed(5)
    x = torch.randint(0, 256, (size, 1, 8, 8), generator=generator, dtype=torch.uint8)
    y = torch.randint(0, 10, (size,), generator=generator)
    channel = torch.ones(1, 1, 1)
    data = Dataset(
        train_inputs=x, train_targets=y, test_inputs=x[:9], test_targets=y[:9], mean=channel, deviation=channel
    )

    def build() -> nn.Module:
        norm = nn.BatchNorm2d(8) if field == "ghost_batch" else nn.Identity()
        return nn.Sequential(nn.Conv2d(1, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 10))

    task = Problem(dataset=data, build_model=build, loss=cross_entropy, has_classes=True, outputs=10)

    def needed(batch_size: int) -> float:
        ghost = {"problem": {"ghost_batch": part}} if field == "ghost_batch" else {}
        spec = make_study(batch_sizes=[batch_size], optimizers={"a": {**ARMS[arm], "lr": 0.01}}, **ghost)
        return member_bytes(expand(spec), task, micro_batch=None if ghost else part)

    own_data = x.nbytes + y.nbytes + 8 * size  # with the numbers of its examples
    alone = needed(part)
    assert needed(size) < alone + own_data
    # The test is only valid if activations of a second part would exceed the limit.
    assert 8 * 6 * 6 * 4 * part * 3 > own_data
