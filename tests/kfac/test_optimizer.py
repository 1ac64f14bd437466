"""The torch optimizer: equal to the functional core, to itself restored, and to the whole batch in parts."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sensitivity.kfac import (
    KFAC,
    Hyperparameters,
    KFACConfig,
    LevenbergMarquardt,
    init_state,
    layers_of,
    norms_of,
    step,
)

DOUBLE = torch.float64
VARIANTS: dict[str, dict[str, Any]] = {
    "factored": {},
    "exact": {"damping_form": "exact"},
    "ekfac": {"damping_form": "exact", "ekfac": True},
    "reduce": {"sharing": "reduce"},
    "monte carlo": {"fisher": "monte_carlo"},
    "type2": {"fisher": "type2"},
    "diagonal": {"others": "diagonal"},
    "clip, decay": {"kl_clip": 1e-3, "weight_decay": 0.1, "nesterov": True},
}


class Shared(nn.Module):
    """A convolution, a normalisation and a layer used twice, of which one activation is in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.GroupNorm(1, 3)
        self.act = nn.ReLU(inplace=True)
        self.inner = nn.Linear(12, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv(x))).flatten(1)
        x = torch.tanh(self.inner(x))
        return self.head(torch.tanh(self.inner(x)))


def model_of(seed: int = 0) -> Shared:
    torch.manual_seed(seed)
    return Shared().to(DOUBLE)


def batch(index: int, n: int = 42) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(index)
    return torch.randn(n, 1, 2, 2, generator=generator, dtype=DOUBLE), torch.randint(4, (n,), generator=generator)


def train(model: nn.Module, optimizer: KFAC, steps: range, parts: int = 1) -> None:
    for index in steps:
        x, y = batch(index)
        optimizer.zero_grad()
        for part_x, part_y in zip(x.chunk(parts), y.chunk(parts), strict=True):
            outputs = model(part_x)
            optimizer.observe(outputs)
            (functional.cross_entropy(outputs, part_y) / parts).backward()
        assert not optimizer.step().failed


def assert_same(a: nn.Module, b: nn.Module, rtol: float = 1e-9) -> None:
    for (name, p), (_, q) in zip(a.named_parameters(), b.named_parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=rtol, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in ("monte carlo", "type2")])
def test_optimizer_is_the_functional_core(variant: str, truth: Any) -> None:
    config = KFACConfig(lr=0.1, damping=0.1, inverse_interval=2, **VARIANTS[variant])
    ours, plain = model_of(), model_of()
    optimizer = KFAC(ours, config)
    params = {n: p.detach() for n, p in plain.named_parameters()}
    state = init_state(layers_of(plain), params, config, norms_of(plain))
    numbers = Hyperparameters(lr=0.1, damping=0.1, weight_decay=config.weight_decay, kl_clip=config.kl_clip)
    for index in range(5):
        x, y = batch(index)
        train(ours, optimizer, range(index, index + 1))
        plain.act.inplace = False
        grads, captures = truth.captures_of(plain, lambda x=x, y=y: functional.cross_entropy(plain(x), y))
        step(config, state, params, grads, captures, numbers)
    assert_same(ours, plain)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "monte carlo"])
def test_micro_batches_are_the_whole_batch(variant: str) -> None:
    config = KFACConfig(lr=0.1, damping=0.1, inverse_interval=2, **VARIANTS[variant])
    whole, parts = model_of(), model_of()
    train(whole, KFAC(whole, config), range(5))
    train(parts, KFAC(parts, config), range(5), parts=3)
    assert_same(whole, parts)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_restored_run_continues_exactly(variant: str, tmp_path: Any) -> None:
    config = KFACConfig(lr=0.1, damping=0.1, factor_interval=2, inverse_interval=5, **VARIANTS[variant])
    whole = model_of()
    optimizer = KFAC(whole, config)
    train(whole, optimizer, range(8))
    torch.save({"model": whole.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "checkpoint.pt")
    train(whole, optimizer, range(8, 14))
    restored = model_of(seed=5)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    restored.load_state_dict(saved["model"])
    again = KFAC(restored, config)
    again.load_state_dict(saved["optimizer"])
    train(restored, again, range(8, 14))
    for p, q in zip(whole.parameters(), restored.parameters(), strict=True):
        assert torch.equal(p, q)
    assert again.report().steps == optimizer.report().steps == 14


def test_a_state_of_another_model_is_refused() -> None:
    model, other = model_of(), nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 7)).to(DOUBLE)
    with pytest.raises(ValueError, match=r"parameter group|differ"):
        KFAC(other, KFACConfig()).load_state_dict(KFAC(model, KFACConfig()).state_dict())


def test_schedulers_and_groups_change_the_numbers() -> None:
    model, reference = model_of(), model_of()
    groups = [{"params": [p for n, p in model.named_parameters() if n.endswith("weight")]}]
    groups.append({"params": [p for n, p in model.named_parameters() if n.endswith("bias")], "lr": 1e-9})
    optimizer = KFAC(model, KFACConfig(lr=0.2, damping=0.1), param_groups=groups)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch)
    plain = KFAC(reference, KFACConfig(lr=0.2, damping=0.1))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    train(model, optimizer, range(1))
    train(reference, plain, range(1))
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5e-9]
    for name, p in model.named_parameters():
        if name.endswith("weight"):
            torch.testing.assert_close(p, dict(reference.named_parameters())[name], rtol=1e-9, atol=1e-12)
        else:
            torch.testing.assert_close(p, before[name], rtol=0, atol=1e-7)


def test_damping_schedule_multiplies_the_damping() -> None:
    scheduled, plain = model_of(), model_of()
    train(scheduled, KFAC(scheduled, KFACConfig(damping=1.0, damping_schedule=lambda step: 0.1)), range(3))
    train(plain, KFAC(plain, KFACConfig(damping=0.1)), range(3))
    assert_same(scheduled, plain)


def test_interval_schedules_are_followed() -> None:
    model = model_of()
    optimizer = KFAC(model, KFACConfig(factor_interval=((0, 1), (3, 4)), inverse_interval=((0, 2), (4, 3))))
    updated, inverted = [], []
    for index in range(12):
        count = int(optimizer.kfac.averaged)
        train(model, optimizer, range(index, index + 1))
        updated += [index] * (int(optimizer.kfac.averaged) - count)
        inverted += [index] * ("inverses" in optimizer.report().last.seconds)  # type: ignore[union-attr]
    assert updated == [0, 1, 2, 3, 7, 11]
    assert inverted == [0, 2, 4, 7, 10]


def test_part_of_the_batch_gives_its_factors() -> None:
    half, model = model_of(), model_of()
    optimizer, other = KFAC(half, KFACConfig(batch_fraction=0.5)), KFAC(model, KFACConfig())
    x, y = batch(0)
    functional.cross_entropy(half(x), y).backward()
    functional.cross_entropy(model(x[:21]), y[:21]).backward()
    optimizer.step()
    other.step()
    for name in ("conv", "inner", "head"):
        for side in ("inputs", "outputs"):
            found, expected = optimizer.kfac.factor(name, side), other.kfac.factor(name, side)
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-13)


def test_levenberg_marquardt_follows_the_reduction_ratio() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3, bias=False)).to(DOUBLE)
    rule = LevenbergMarquardt(interval=2, grow=2.0)
    config = KFACConfig(
        lr=1.0, momentum=0.0, damping=0.5, fisher="type2", loss="squared_error", levenberg_marquardt=rule
    )
    optimizer = KFAC(model, config)
    x, y = torch.randn(8, 4, dtype=DOUBLE), torch.randn(8, 3, dtype=DOUBLE)

    def loss() -> Tensor:
        return 0.5 * (model(x) - y).square().sum() / 8

    model_change = None
    ratios = []
    for index in range(4):
        optimizer.zero_grad()
        outputs = model(x)
        optimizer.observe(outputs)
        before = loss()
        before.backward()
        weight, gradient = model[0].weight.detach().clone(), model[0].weight.grad.clone()  # type: ignore[union-attr]
        damping = optimizer.param_groups[0]["damping"]
        optimizer.step()
        move = model[0].weight.detach() - weight
        curved = move @ (x.mT @ x / 8) + damping * move
        model_change = float((gradient * move).sum() + 0.5 * (move * curved).sum())
        ratio = optimizer.adapt_damping(before.item(), loss().item())
        if index % 2 == 0:
            assert ratio == pytest.approx((loss().item() - before.item()) / model_change, rel=1e-6)
            ratios.append(ratio)
            assert optimizer.param_groups[0]["damping"] == pytest.approx(damping / 4)
        else:
            assert ratio is None


def test_clip_share_and_seconds_are_read_from_the_report() -> None:
    model = model_of()
    optimizer = KFAC(model, KFACConfig(kl_clip=1e-8))
    train(model, optimizer, range(3))
    optimizer.param_groups[0]["kl_clip"] = 1e8
    train(model, optimizer, range(3, 4))
    report = optimizer.report()
    assert report.clip_share == 0.75
    assert report.last is not None
    assert set(report.last.seconds) == {"factors", "precondition", "update"}
    assert float(report.last.gradient_norm) > 0
    assert float(report.last.effective_lr) == pytest.approx(0.1)


def test_bfloat16_activations_give_float32_factors() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    mixed = copy.deepcopy(plain)
    x, y = torch.randn(64, 8), torch.randint(4, (64,))
    optimizers = [KFAC(plain, KFACConfig()), KFAC(mixed, KFACConfig())]
    functional.cross_entropy(plain(x), y).backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        functional.cross_entropy(mixed(x), y).backward()
    for optimizer in optimizers:
        optimizer.step()
    for name in ("0", "2"):
        for side in ("inputs", "outputs"):
            expected, found = (o.kfac.factor(name, side) for o in optimizers)
            assert found.dtype == torch.float32
            assert float((found - expected).norm() / expected.norm()) < 0.02


def test_a_loss_scaler_leaves_the_factors_as_they_are() -> None:
    plain, scaled = model_of(), model_of()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    optimizers = KFAC(plain, KFACConfig()), KFAC(scaled, KFACConfig(), scaler=scaler)
    train(plain, optimizers[0], range(5))
    for index in range(5):
        x, y = batch(index)
        optimizers[1].zero_grad()
        scaler.scale(functional.cross_entropy(scaled(x), y)).backward()
        scaler.step(optimizers[1])
        scaler.update()
    assert scaler.get_scale() > 1024.0
    assert_same(plain, scaled)


def test_embeddings_are_covered_and_exact_for_their_counts() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(6, 4)).to(DOUBLE)
    x, y = torch.randint(7, (5, 2)), torch.randint(4, (5,))
    for form in ("factored", "exact"):
        net = copy.deepcopy(model)
        optimizer = KFAC(net, KFACConfig(damping_form=form, momentum=0.0))  # type: ignore[arg-type]
        own: Any = net[0].weight
        before = own.detach().clone()
        functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        counts = torch.bincount(x.flatten(), minlength=7).to(DOUBLE) / 5
        torch.testing.assert_close(optimizer.kfac.factor("0", "inputs"), counts)
        a, g = torch.diag(counts), optimizer.kfac.factor("0", "outputs")[0]
        if form == "exact":
            dense = torch.kron(a, g) + 0.01 * torch.eye(21, dtype=DOUBLE)
        else:
            pi = ((a.trace() / 7) / (g.trace() / 3)).sqrt()
            eye = torch.eye
            dense = torch.kron(a + 0.1 * pi * eye(7, dtype=DOUBLE), g + 0.1 / pi * eye(3, dtype=DOUBLE))
        expected = before - 0.1 * torch.linalg.solve(dense, own.grad.flatten()).reshape(7, 3)
        torch.testing.assert_close(own.detach(), expected, rtol=1e-9, atol=1e-11)
