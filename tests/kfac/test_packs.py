"""A member of a pack is the same run alone; what happens to one is nothing to the others."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sensitivity.kfac import (
    Capture,
    Hyperparameters,
    KFACConfig,
    KFACState,
    Statistics,
    StepReport,
    init_state,
    layers_of,
    norms_of,
    pseudo_losses,
    select,
    statistics_of,
    step,
)
from sensitivity.kfac.solves import inverse

DOUBLE = torch.float64
VARIANTS: dict[str, dict[str, Any]] = {
    "factored": {},
    "exact": {"damping_form": "exact"},
    "ekfac": {"damping_form": "exact", "ekfac": True},
    "reduce": {"sharing": "reduce"},
    "nesterov, decoupled": {"nesterov": True, "decoupled_weight_decay": True},
    "sum": {"reduction": "sum"},
    "part of the batch": {"batch_fraction": 0.5},
    "diagonal": {"others": "diagonal"},
}


def network(seed: int, dtype: torch.dtype) -> nn.Sequential:
    """Of every kind of layer; normalised by group, batch and layer."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2),
        nn.GroupNorm(2, 4),
        nn.Tanh(),
        nn.Conv2d(4, 4, 2, dilation=2),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(16, 5),
        nn.LayerNorm(5),
        nn.Linear(5, 5),
        nn.Linear(5, 5),
    ).to(dtype)


def slices(captures: dict[str, list[Capture]], start: int, size: int) -> dict[str, list[Capture]]:
    """Examples of a pack's captures."""
    return {
        name: [Capture(c.inputs.narrow(1, start, size), c.columns[0].narrow(1, start, size)) for c in calls]
        for name, calls in captures.items()
    }


class Run:
    """Members trained side by side; their captures come from plain hooks on each model alone."""

    def __init__(
        self, truth: Any, members: Sequence[int], config: KFACConfig, dtype: torch.dtype = DOUBLE, *, lead: bool = True
    ) -> None:
        self.truth, self.config, self.members, self.lead = truth, config, list(members), lead
        self.models = [network(seed, dtype) for seed in members]
        self.params = self.joined([{n: p.detach() for n, p in m.named_parameters()} for m in self.models])
        layers, norms = layers_of(self.models[0]), norms_of(self.models[0])
        self.state: KFACState = init_state(layers, self.params, config, norms)
        self.dtype = dtype

    def joined(self, parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {n: torch.stack([p[n] for p in parts]) if self.lead else parts[0][n].clone() for n in parts[0]}

    def number(self, values: list[float]) -> Tensor:
        picked = torch.tensor([values[m] for m in self.members], dtype=self.dtype)
        return picked if self.lead else picked[0]

    def step(self, index: int, poison: int | None = None, parts: tuple[int, ...] = ()) -> StepReport:
        grads, captures = [], []
        for i, (seed, model) in enumerate(zip(self.members, self.models, strict=True)):
            for name, p in model.named_parameters():
                p.data.copy_(self.params[name][i] if self.lead else self.params[name])
            generator = torch.Generator().manual_seed(1000 * seed + index)
            x = torch.randn(24, 2, 8, 8, generator=generator, dtype=self.dtype)
            y = torch.randint(5, (24,), generator=generator)
            if seed == poison:
                x = x * float("nan")
            g, c = self.truth.captures_of(
                model,
                lambda model=model, x=x, y=y: functional.cross_entropy(model(x), y, reduction=self.config.reduction),
            )
            grads.append(g)
            captures.append(c)
        layers = [p.layer.name for p in self.state.layout.placements] + [norm.name for norm in self.state.norms]
        stack = torch.stack if self.lead else lambda tensors: tensors[0]
        joined = {
            name: [
                Capture(
                    stack([c[name][0].inputs for c in captures]), stack([c[name][0].output_grads for c in captures])
                )
            ]
            for name in layers
        }
        hyper = Hyperparameters(
            lr=self.number([0.1, 0.03, 0.2]),
            damping=self.number([0.1, 1.0, 0.03]),
            momentum=self.number([0.9, 0.5, 0.7]),
            weight_decay=self.number([0.0, 0.01, 0.1]),
            kl_clip=self.number([1e-3, 1e9, 1e-2]),
        )
        given: dict[str, list[Capture]] | Statistics = joined
        done = 0
        for size in parts:  # whose gradients are those of the whole batch's mean
            part = statistics_of(self.state.layout, slices(joined, done, size), self.config, loss_scale=24)
            done += size
            if isinstance(given, Statistics):
                given.move(part, size / done, None)
            else:
                given = part
        return step(self.config, self.state, self.params, self.joined(grads), given, hyper)


@pytest.mark.parametrize("variant", VARIANTS)
def test_member_equals_the_run_alone(variant: str, truth: Any) -> None:
    config = KFACConfig(inverse_interval=3, **VARIANTS[variant])
    pack = Run(truth, [0, 1, 2], config)
    alone = [Run(truth, [seed], config, lead=False) for seed in range(3)]
    for index in range(8):
        reports = [pack.step(index), *(run.step(index) for run in alone)]
        assert not any(report.failed.any() for report in reports)
        for seed, run in enumerate(alone):
            for name, p in run.params.items():
                torch.testing.assert_close(pack.params[name][seed], p, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(reports[0].clip[seed], reports[1 + seed].clip)


def test_statistics_of_parts_are_those_of_the_batch(truth: Any) -> None:
    config = KFACConfig(inverse_interval=1)
    whole, parts = Run(truth, [0, 1], config), Run(truth, [0, 1], config)
    for index in range(4):
        whole.step(index)
        parts.step(index, parts=(6, 18))
    for name, p in whole.params.items():
        torch.testing.assert_close(parts.params[name], p, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("variant", ["factored", "exact", "diagonal"])
@pytest.mark.parametrize("first", [0, 4])
def test_a_member_with_nans_is_reported_and_disturbs_nobody(variant: str, first: int, truth: Any) -> None:
    config = KFACConfig(inverse_interval=3, **VARIANTS[variant])
    clean, poisoned = Run(truth, [0, 1, 2], config, torch.float32), Run(truth, [0, 1, 2], config, torch.float32)
    for index in range(8):
        if index == first:
            frozen = {name: p[1].clone() for name, p in poisoned.params.items()}
        clean.step(index)
        report = poisoned.step(index, poison=1 if index >= first else None)
        assert report.failed.tolist() == [False, index >= first, False]
    for name, p in clean.params.items():
        assert torch.equal(poisoned.params[name][[0, 2]], p[[0, 2]])
        assert torch.equal(poisoned.params[name][1], frozen[name])


def test_a_member_that_skipped_goes_on_like_a_run_that_skipped(truth: Any) -> None:
    config = KFACConfig(inverse_interval=1)
    pack, alone = Run(truth, [0, 1], config), Run(truth, [1], config, lead=False)
    for index in range(5):
        pack.step(index, poison=1 if index in (0, 3) else None)
        alone.step(index, poison=1 if index in (0, 3) else None)
    for name, p in alone.params.items():
        torch.testing.assert_close(pack.params[name][1], p, rtol=1e-9, atol=1e-12)


def test_select_keeps_members_exactly(truth: Any) -> None:
    config = KFACConfig(inverse_interval=3)
    whole, part = Run(truth, [0, 1, 2], config), Run(truth, [0, 1, 2], config)
    for index in range(4):
        whole.step(index)
        part.step(index)
    keep = torch.tensor([2, 0])
    part.state = select(part.state, keep)
    part.members, part.models = [2, 0], [part.models[2], part.models[0]]
    part.params = {name: p[keep] for name, p in part.params.items()}
    for index in range(4, 8):
        whole.step(index)
        part.step(index)
    for name, p in whole.params.items():
        torch.testing.assert_close(part.params[name], p[keep], rtol=1e-9, atol=1e-12)


def test_singular_factor_is_reported_with_layer_and_condition(truth: Any) -> None:
    config = KFACConfig(inverse_interval=1)
    clean, broken = Run(truth, [0, 1], config, torch.float32), Run(truth, [0, 1], config, torch.float32)
    clean.step(0)
    broken.step(0)
    placement = next(p for p in broken.state.layout.placements if p.layer.name == "8")
    for run in (clean, broken):
        run.config = KFACConfig(inverse_interval=1, factor_interval=1, factor_decay=0.999999)
    placement.outputs.of(broken.state.factors)[0, 1].diagonal().fill_(-50.0)
    before = {name: p[1].clone() for name, p in broken.params.items()}
    clean.step(1)
    report = broken.step(1)
    assert report.failed.tolist() == [False, True]
    assert [(f.layer, f.side, f.member) for f in report.solves] == [("8", "outputs", (1,))]
    assert report.solves[0].condition == float("inf")
    for name, p in clean.params.items():
        assert torch.equal(broken.params[name][0], p[0])
        assert torch.equal(broken.params[name][1], before[name])


@pytest.mark.parametrize("fisher", ["monte_carlo", "type2"])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error", "mse"])
def test_pseudo_losses_of_a_pack_are_those_of_its_members(fisher: Any, loss: Any) -> None:
    config = KFACConfig(fisher=fisher, loss=loss)
    logits = torch.randn(3, 6, 4, dtype=DOUBLE, requires_grad=True)
    pack = [
        torch.autograd.grad(value, logits)[0]
        for value in pseudo_losses(logits, config, [torch.Generator().manual_seed(i) for i in range(3)], lead=1)
    ]
    for member in range(3):
        own = logits[member].detach().requires_grad_()
        values = pseudo_losses(own, config, [torch.Generator().manual_seed(member)])
        alone = [torch.autograd.grad(value, own)[0] for value in values]
        assert len(alone) == len(pack) == (4 if fisher == "type2" else 1)
        for a, b in zip(alone, pack, strict=True):
            torch.testing.assert_close(a, b[member], rtol=1e-12, atol=1e-14)


def test_a_member_with_nan_outputs_leaves_the_others_samples_alone() -> None:
    config = KFACConfig(fisher="monte_carlo")
    logits = torch.randn(2, 6, 4, dtype=DOUBLE)
    poisoned = logits.clone()
    poisoned[1] = float("nan")
    gradients = []
    for each in (logits, poisoned):
        leaf = each.requires_grad_()
        generators = [torch.Generator().manual_seed(i) for i in range(2)]
        gradients.append(torch.autograd.grad(next(pseudo_losses(leaf, config, generators, lead=1)), leaf)[0])
    assert torch.equal(gradients[0][0], gradients[1][0])


def test_packs_of_many_invert_by_blocks_as_one_does() -> None:
    factors = torch.randn(20, 70, 90, dtype=DOUBLE)
    matrices = factors @ factors.mT / 90 + 0.01 * torch.eye(70, dtype=DOUBLE)
    matrices[3].diagonal().sub_(5.0)
    inverses, failed = inverse(matrices)
    assert failed.tolist() == [i == 3 for i in range(20)]
    expected = torch.linalg.inv(matrices)
    keep = [i for i in range(20) if i != 3]
    torch.testing.assert_close(inverses[keep], expected[keep], rtol=1e-9, atol=1e-9)
