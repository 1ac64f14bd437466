"""Training scripts as a table of cases: each takes the steps of the plain one, or those that a formula says."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.checkpoint import checkpoint

from sensitivity.kfac import KFAC, KFACConfig

DOUBLE = torch.float64
Run = Callable[[nn.Module, KFAC, int], None]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3)).to(DOUBLE)


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(12, 6, generator=generator, dtype=DOUBLE), torch.randint(3, (12,), generator=generator)


def vector(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def plain(model: nn.Module, optimizer: KFAC, seed: int) -> None:
    x, y = batch(seed)
    outputs = model(x)
    optimizer.observe(outputs)
    functional.cross_entropy(outputs, y).backward()


def parts(model: nn.Module, optimizer: KFAC, seed: int, sizes: tuple[int, ...] = (4, 4, 4)) -> list[Tensor]:
    """Losses of micro-batches, whose sum is the mean over the batch."""
    x, y = batch(seed)
    losses = []
    for rows, classes in zip(x.split(sizes), y.split(sizes), strict=True):
        outputs = model(rows)
        optimizer.observe(outputs, terms=len(rows))
        losses.append(functional.cross_entropy(outputs, classes) * (len(rows) / len(x)))
    return losses


def equal_parts(model: nn.Module, optimizer: KFAC, seed: int) -> None:
    for k in range(3):
        x, y = (each[4 * k : 4 * k + 4] for each in batch(seed))
        outputs = model(x)
        optimizer.observe(outputs)
        (functional.cross_entropy(outputs, y) / 3).backward()


def unequal_parts(model: nn.Module, optimizer: KFAC, seed: int) -> None:
    x, y = batch(seed)
    for rows, classes in zip(x.split((1, 6, 5)), y.split((1, 6, 5)), strict=True):
        outputs = model(rows)
        optimizer.observe(outputs)
        (functional.cross_entropy(outputs, classes, reduction="sum") / 12).backward()


def into_zeros(model: nn.Module, optimizer: KFAC, seed: int) -> None:
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    equal_parts(model, optimizer, seed)


def checkpointed_parts(model: nn.Module, optimizer: KFAC, seed: int) -> None:
    equal_parts(lambda x: checkpoint(model, x, use_reentrant=False), optimizer, seed)


def forwards_first(model: nn.Module, optimizer: KFAC, seed: int) -> None:
    for loss in parts(model, optimizer, seed):
        loss.backward()


def one_backward(model: nn.Module, optimizer: KFAC, seed: int) -> None:
    sum(parts(model, optimizer, seed, (2, 10))).backward()


def backward_of_a_list(model: nn.Module, optimizer: KFAC, seed: int) -> None:
    torch.autograd.backward(parts(model, optimizer, seed))


def with_inputs_named(model: nn.Module, optimizer: KFAC, seed: int) -> None:
    for loss in parts(model, optimizer, seed):
        loss.backward(inputs=[*model.parameters()])


ACCUMULATION: dict[str, Run] = {
    "means divided by their number": equal_parts,
    "sums divided by all": unequal_parts,
    "into gradients of zero": into_zeros,
    "through checkpoints": checkpointed_parts,
    "all forward passes first": forwards_first,
    "one backward pass for all": one_backward,
    "backward of a list": backward_of_a_list,
    "backward with its inputs named": with_inputs_named,
}
TOGETHER = ("one backward pass for all", "backward of a list")
OBSERVED_TOGETHER = (forwards_first, one_backward, backward_of_a_list, with_inputs_named)
"""Several observations before a backward pass, which the sampled Fisher refuses (test_sampled.py)."""


def evaluation(model: nn.Module, optimizer: KFAC, seed: int) -> None:
    plain(model, optimizer, seed)
    model.eval()
    model(batch(seed + 50)[0])  # not even without gradients
    with torch.no_grad():
        model(batch(seed + 51)[0])
    with torch.inference_mode():
        model(batch(seed + 52)[0])
    model.train()


def adversarial(model: nn.Module, optimizer: KFAC, seed: int) -> None:
    """FGSM, whose first pass leaves gradients of the weights; here with a step of 0."""
    x = batch(seed)[0].requires_grad_()
    functional.cross_entropy(model(x), batch(seed)[1]).backward()
    assert x.grad is not None
    model.zero_grad()
    plain(model, optimizer, seed)


def virtual_adversarial(model: nn.Module, optimizer: KFAC, seed: int) -> None:
    offset = torch.zeros(12, 6, dtype=DOUBLE, requires_grad=True)
    distance = model(batch(seed)[0] + offset).log_softmax(-1).square().sum()
    torch.autograd.grad(distance, offset)
    plain(model, optimizer, seed)


def deep_copied(model: nn.Module, optimizer: KFAC, seed: int) -> None:
    teacher = copy.deepcopy(model)
    teacher(batch(seed + 50)[0]).sum().backward()
    plain(model, optimizer, seed)


def averaged_weights(model: nn.Module, optimizer: KFAC, seed: int) -> None:
    averaged = AveragedModel(model)
    plain(model, optimizer, seed)
    averaged.update_parameters(model)
    update_bn([batch(seed)[0]], averaged)
    averaged(batch(seed)[0]).sum().backward()


def skipped_step(model: nn.Module, optimizer: KFAC, seed: int) -> None:
    plain(model, optimizer, seed + 50)
    if bool(torch.isfinite(vector(model)).all()):  # a guard that takes no step here
        optimizer.zero_grad()
    plain(model, optimizer, seed)


def restored(model: nn.Module, optimizer: KFAC, seed: int) -> None:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    plain(model, optimizer, seed)


def unused_output(model: nn.Module, optimizer: KFAC, seed: int) -> None:
    model(batch(seed + 50)[0]).square().sum()
    plain(model, optimizer, seed)


AROUND: dict[str, Run] = {
    "evaluation passes": evaluation,
    "adversarial passes": adversarial,
    "virtual adversarial passes": virtual_adversarial,
    "a copy that trains": deep_copied,
    "stochastic weight averaging": averaged_weights,
    "a skipped step": skipped_step,
    "state saved and restored": restored,
    "a loss that is dropped": unused_output,
}


CASES = [(case, "empirical") for case in (*ACCUMULATION, *AROUND)]
CASES += [(case, "type2") for case in (*ACCUMULATION, *AROUND) if ACCUMULATION.get(case) not in OBSERVED_TOGETHER]


@pytest.mark.parametrize(("case", "fisher"), CASES)
def test_a_script_takes_the_plain_steps(case: str, fisher: Any) -> None:
    found = []
    for script in (plain, (ACCUMULATION | AROUND)[case]):
        model = network()
        optimizer = KFAC(model, KFACConfig(damping=0.1, inverse_interval=2, fisher=fisher, others="diagonal"))
        for seed in range(3):
            optimizer.zero_grad()
            script(model, optimizer, seed)
            assert not optimizer.step().failed
        found.append(vector(model))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"sharing": "reduce"}, {"damping_form": "exact", "ekfac": True}])
@pytest.mark.parametrize("case", TOGETHER)
def test_several_forward_passes_need_stated_terms(
    case: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network()
    optimizer = KFAC(model, KFACConfig(**options))
    if not options:
        monkeypatch.setattr(optimizer, "observe", lambda *_, **__: None)
    ACCUMULATION[case](model, optimizer, 0)
    with pytest.raises(RuntimeError, match="went through several forward passes of the model"):
        optimizer.step()


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 3], 0.3),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.7),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=8),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.2, step_size_up=2),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=2), lr_scheduler.PolynomialLR(o, 4)], [2]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, factor=0.5),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_set_what_they_set_for_sgd_and_the_steps_follow(name: str) -> None:
    model, by_hand = network(), network()
    options = {"damping": 0.1, "lr": 0.1}
    optimizer, other = KFAC(model, KFACConfig(**options)), KFAC(by_hand, KFACConfig(**options))
    sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    schedules = [SCHEDULERS[name](each) for each in (optimizer, sgd)]
    for seed in range(5):
        for key in ("lr", "momentum"):
            other.param_groups[0][key] = sgd.param_groups[0][key]
            assert optimizer.param_groups[0][key] == pytest.approx(sgd.param_groups[0][key], rel=1e-12)
        for each, opt in ((model, optimizer), (by_hand, other)):
            opt.zero_grad()
            plain(each, opt, seed)
            opt.step()
        sgd.step()
        for schedule in schedules:
            schedule.step(*(1.0,) if name == "ReduceLROnPlateau" else ())
    assert torch.equal(vector(model), vector(by_hand))


@pytest.mark.parametrize("by", ["norm", "value"])
def test_clipped_gradients_are_preconditioned_by_the_factors_of_the_unclipped(by: str) -> None:
    model, reference = network(), network()
    optimizer, other = (KFAC(m, KFACConfig(momentum=0.0, lr=1.0)) for m in (model, reference))
    before = vector(model)
    plain(reference, other, 0)
    plain(model, optimizer, 0)
    if by == "norm":
        share = 0.01 / (float(nn.utils.clip_grad_norm_(model.parameters(), 0.01)) + 1e-6)
        optimizer.step()
        other.step()
        torch.testing.assert_close(vector(model) - before, share * (vector(reference) - before), rtol=1e-9, atol=1e-14)
        return
    nn.utils.clip_grad_value_(model.parameters(), 0.02)
    clipped = torch.cat([model[0].weight.grad, model[0].bias.grad.unsqueeze(1)], 1)
    start = torch.cat([model[0].weight, model[0].bias.unsqueeze(1)], 1).detach()
    optimizer.step()
    other.step()
    a, g = (other.kfac.factor("0", side)[0] for side in ("inputs", "outputs"))
    pi = ((a.trace() / len(a)) / (g.trace() / len(g))).sqrt()
    damped = [m + 0.1 * s * torch.eye(len(m), dtype=DOUBLE) for m, s in ((g, 1 / pi), (a, pi))]
    moved = start - torch.cat([model[0].weight, model[0].bias.unsqueeze(1)], 1).detach()
    torch.testing.assert_close(damped[0] @ moved @ damped[1], clipped, rtol=1e-9, atol=1e-12)


def test_sam_steps_by_gradient_and_factors_of_the_second_pass() -> None:
    model, moved = network(), network()
    optimizer = KFAC(model, KFACConfig(momentum=0.0, lr=1.0))
    start = vector(model)
    plain(model, optimizer, 0)
    with torch.no_grad():
        norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in model.parameters()]))
        up = [0.5 * p.grad / norm for p in model.parameters()]
        torch._foreach_add_([*model.parameters()], up)
    optimizer.zero_grad()
    nn.utils.vector_to_parameters(vector(model), moved.parameters())
    plain(model, optimizer, 0)
    with torch.no_grad():
        torch._foreach_sub_([*model.parameters()], up)
    optimizer.step()
    other = KFAC(moved, KFACConfig(momentum=0.0, lr=1.0))
    before = vector(moved)
    plain(moved, other, 0)
    other.step()
    torch.testing.assert_close(vector(model) - start, vector(moved) - before, rtol=1e-8, atol=1e-12)


def test_groups_of_equal_numbers_are_one_group_and_a_rate_of_zero_freezes_one() -> None:
    found = []
    for groups in (1, 2):
        model = network()
        given = [{"params": model[:2].parameters()}, {"params": model[2:].parameters()}]
        optimizer = KFAC(model, KFACConfig(kl_clip=0.1), param_groups=given if groups == 2 else None)
        for seed in range(3):
            optimizer.zero_grad()
            plain(model, optimizer, seed)
            optimizer.step()
        found.append(vector(model))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)
    optimizer.param_groups[0]["lr"], before = 0.0, vector(model[:2])
    optimizer.zero_grad()
    plain(model, optimizer, 3)
    optimizer.step()
    assert torch.equal(vector(model[:2]), before)
    assert not torch.equal(vector(model), found[1])
