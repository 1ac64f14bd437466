"""Bad input meets a clear message or a reported failure, never a silent NaN."""

import warnings
from fractions import Fraction
from typing import Any

import numpy as np
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
    select,
    statistics_of,
    step,
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def backward(model: nn.Module, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(8, 4, generator=generator), torch.randint(3, (8,), generator=generator)
    (scale * functional.cross_entropy(model(x), y)).backward()


def snapshot(optimizer: KFAC) -> list[Tensor]:
    tensors: list[Tensor] = []

    def gather(value: Any) -> None:
        if isinstance(value, Tensor):
            tensors.append(value.clone())
        elif isinstance(value, dict):
            for each in value.values():
                gather(each)

    gather(optimizer.state_dict())
    return tensors


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("lr", 0.0, r"Invalid lr: 0\.0\. Must be a finite number > 0"),
        ("lr", float("nan"), "Invalid lr: nan"),
        ("damping", -1e-3, r"Invalid damping: -0\.001\. Must be a finite number > 0"),
        ("damping", 0, "Invalid damping: 0"),
        ("momentum", 1.0, r"Invalid momentum: 1\.0\. Must be a number in \[0, 1\)"),
        ("weight_decay", -0.1, r"Invalid weight_decay: -0\.1\. Must be a finite number >= 0"),
        ("kl_clip", 0.0, "Invalid kl_clip"),
        ("factor_decay", 1.0, "Invalid factor_decay"),
        ("factor_interval", 0, "Invalid factor_interval: 0. Must be an integer >= 1"),
        ("inverse_interval", ((5, 1),), "Invalid inverse_interval"),
        ("batch_fraction", 1.5, "Invalid batch_fraction"),
        ("terms_per_example", 0, "Invalid terms_per_example"),
        ("fisher", "true", "Invalid fisher: 'true'. Must be one of 'empirical', 'monte_carlo', 'type2'"),
        ("damping_form", "tikhonov", "Invalid damping_form"),
        ("ekfac", True, "Invalid ekfac: True. Must be False unless damping_form"),
        ("nesterov", "yes", "Invalid nesterov"),
        ("damping_schedule", 3, "Invalid damping_schedule"),
    ],
)
def test_configurations_are_checked_at_birth(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KFACConfig(**{field: value})


def test_levenberg_marquardt_rules_are_checked() -> None:
    with pytest.raises(ValueError, match="Invalid grow"):
        LevenbergMarquardt(grow=1.0)


def test_numbers_set_later_are_checked_at_the_step() -> None:
    model = network()
    optimizer = KFAC(model, KFACConfig())
    optimizer.param_groups[0]["damping"] = -1.0
    backward(model)
    with pytest.raises(ValueError, match=r"Invalid damping: -1\.0"):
        optimizer.step()


@pytest.mark.parametrize("form", ["factored", "exact"])
@pytest.mark.parametrize("first", [True, False])
def test_nan_gradients_skip_the_step_and_leave_everything_untouched(form: Any, first: bool) -> None:
    model = network()
    optimizer = KFAC(model, KFACConfig(damping_form=form))
    if not first:
        backward(model)
        optimizer.step()
        optimizer.zero_grad()
    before, weights = snapshot(optimizer), [p.detach().clone() for p in model.parameters()]
    backward(model, scale=float("nan"))
    report = optimizer.step()
    assert report.failed
    assert optimizer.report().failed_steps == 1
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(optimizer), strict=True))
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
    optimizer.zero_grad()
    backward(model)
    assert not optimizer.step().failed
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_captures_that_overflow_are_reported_and_leave_the_factors_untouched() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    optimizer = KFAC(model, KFACConfig())
    (model(torch.full((1, 2), 1e25)) * 1e-20).sum().backward()
    assert optimizer.step().failed
    assert all(not bank.any() for bank in optimizer.kfac.factors.values())


def test_a_model_without_supported_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="No layer that K-FAC covers"):
        KFAC(nn.Sequential(nn.BatchNorm1d(3)), KFACConfig())


def test_a_step_without_backward_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"Call loss\.backward\(\) before step"):
        KFAC(network(), KFACConfig()).step()


def test_a_sampled_fisher_without_observe_is_refused() -> None:
    model = network()
    optimizer = KFAC(model, KFACConfig(fisher="monte_carlo"))
    backward(model)
    with pytest.raises(RuntimeError, match=r"optimizer\.observe\(outputs\)"):
        optimizer.step()


def test_evaluation_forwards_leave_no_trace() -> None:
    runs = []
    for evaluate in (False, True):
        model = network()
        optimizer = KFAC(model, KFACConfig(lr=0.1, inverse_interval=1))
        for _ in range(3):
            optimizer.zero_grad()
            backward(model)
            if evaluate:
                model.eval()
                x = torch.randn(3, 4, requires_grad=True)
                torch.autograd.grad(model(x).sum(), x)
                with torch.no_grad():
                    model(100 * torch.randn(50, 4))
                model.train()
            optimizer.step()
        runs.append(list(model.parameters()))
    assert all(torch.equal(p, q) for p, q in zip(*runs, strict=True))


def test_a_frozen_layer_does_not_move() -> None:
    model = network()
    model[0].requires_grad_(False)
    optimizer = KFAC(model, KFACConfig(weight_decay=0.1))
    frozen = model[0].weight.clone()
    backward(model)
    assert not optimizer.step().failed
    assert torch.equal(model[0].weight, frozen)
    assert set(optimizer.report().layers) == {"2"}


def test_a_layer_that_got_no_gradient_does_not_move() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    torch.manual_seed(0)
    model = Branches()
    optimizer = KFAC(model, KFACConfig(weight_decay=0.1))
    before = model.unused.weight.clone()
    for _ in range(2):
        optimizer.zero_grad()
        backward(model)
        assert not optimizer.step().failed
    assert torch.equal(model.unused.weight, before)


def test_an_empty_batch_is_refused() -> None:
    model = network()
    optimizer = KFAC(model, KFACConfig())
    with pytest.raises(ValueError, match="received an empty batch"):
        model(torch.zeros(0, 4))
    assert optimizer.report().steps == 0


def test_uncovered_modules_are_named_in_a_warning_and_move_by_plain_gradients() -> None:
    torch.manual_seed(0)

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.norm, self.head = nn.GRU(4, 3, batch_first=True), nn.LayerNorm(3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.cell(x.unsqueeze(1))[0][:, 0]))

    model = Recurrent()
    with pytest.warns(UserWarning, match=r"K-FAC does not cover cell \(GRU\): their parameters follow plain gradients"):
        optimizer = KFAC(model, KFACConfig(lr=0.1, momentum=0.0))
    report = optimizer.report()
    assert report.uncovered == ("cell (GRU)",)
    assert report.layers == {"head": ("head.weight", "head.bias")}
    assert report.others["norm.weight"] == "sgd"
    backward(model)
    before = model.cell.weight_ih_l0.detach().clone()
    optimizer.step()
    torch.testing.assert_close(model.cell.weight_ih_l0, before - 0.1 * model.cell.weight_ih_l0.grad)


def test_covered_models_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        KFAC(nn.Sequential(nn.Conv1d(2, 2, 3), nn.BatchNorm1d(2), nn.Flatten(), nn.Linear(4, 2)), KFACConfig())


def test_parameter_groups_must_hold_every_parameter() -> None:
    model = network()
    with pytest.raises(ValueError, match=r"leave out 2\.weight, 2\.bias"):
        KFAC(model, KFACConfig(), param_groups=[{"params": model[0].parameters()}])


def test_a_pack_that_starts_without_captures_is_refused(truth: Any) -> None:
    model = network()
    params = {n: p.detach() for n, p in model.named_parameters()}
    state = init_state(layers_of(model), params, KFACConfig())
    with pytest.raises(ValueError, match="first step needs captures"):
        step(
            KFACConfig(),
            state,
            params,
            {n: torch.ones_like(p) for n, p in params.items()},
            None,
            Hyperparameters(lr=1, damping=1),
        )
    with pytest.raises(ValueError, match="no leading dimension"):
        select(state, torch.tensor([0]))
    grads, captures = truth.captures_of(model, lambda: model(torch.randn(3, 4)).sum())
    del captures["2"]
    with pytest.raises(ValueError, match="Layer '2' was not captured"):
        step(KFACConfig(), state, params, grads, captures, Hyperparameters(lr=1, damping=1))
    with pytest.raises(ValueError, match="no parameter named"):
        init_state(layers_of(model), {"0.weight": params["0.weight"]}, KFACConfig())
    with pytest.raises(ValueError, match="disagree about the leading"):
        init_state(layers_of(model), {**params, "2.weight": params["2.weight"].expand(3, 3, 5)}, KFACConfig())


def test_functional_step_refuses_unsupported_diagonal_rule(truth: Any) -> None:
    torch.manual_seed(0)
    model, config = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2)), KFACConfig(others="diagonal")
    params = {n: p.detach().clone() for n, p in model.named_parameters()}
    state, hyper = init_state(layers_of(model), params, config), Hyperparameters(lr=1.0, damping=1.0)
    grads, captures = truth.captures_of(model, lambda: model(torch.randn(3, 4)).sum())
    with pytest.raises(ValueError, match=r"Invalid others: 'diagonal'\. .*'1\.weight'.*others='sgd'"):
        step(config, state, params, grads, captures, hyper)
    assert state.steps == 0
    state = init_state(layers_of(model), params, config, norms_of(model))
    with pytest.raises(ValueError, match=r"Layer '1' was not captured"):
        step(config, state, params, grads, {n: c for n, c in captures.items() if n != "1"}, hyper)
    assert state.steps == 0
    covered = {n: p for n, p in params.items() if not n.startswith("1.")}
    state = init_state(layers_of(model), covered, config)
    step(config, state, covered, {n: grads[n] for n in covered}, captures, hyper)
    assert state.steps == 1


@pytest.mark.parametrize("options", [{"ekfac": True, "damping_form": "exact"}, {"others": "diagonal"}])
def test_statistics_in_the_place_of_captures_are_refused_where_they_do_not_do(
    options: dict[str, Any], truth: Any
) -> None:
    torch.manual_seed(0)
    model, config = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2)), KFACConfig(**options)
    params = {n: p.detach().clone() for n, p in model.named_parameters()}
    state = init_state(layers_of(model), params, config, norms_of(model))
    grads, captures = truth.captures_of(model, lambda: model(torch.randn(3, 4)).sum())
    with pytest.raises(ValueError, match=r"needs captures of the whole batch, not Statistics\. Pass those, or set"):
        step(
            config,
            state,
            params,
            grads,
            statistics_of(state.layout, captures, config),
            Hyperparameters(lr=1.0, damping=1.0),
        )
    assert state.steps == 0


MODEL, TYPE = "Pass the model, not its parameters: KFAC(model, config)", "not a torch.nn.Module"
ARGUMENTS = [
    (lambda: KFAC(network().parameters(), KFACConfig()), TypeError, f"model is of type generator, {TYPE}. {MODEL}"),
    (lambda: KFAC(list(network().parameters()), KFACConfig()), TypeError, f"model is of type list, {TYPE}. {MODEL}"),
    (lambda: KFAC(dict(network().named_parameters()), KFACConfig()), TypeError, f"of type dict, {TYPE}. {MODEL}"),
    (lambda: KFAC([{"params": network().parameters()}], KFACConfig()), TypeError, "pass param_groups=[...] too"),
    (lambda: KFAC(torch.ones(3), KFACConfig()), TypeError, f"model is of type Tensor, {TYPE}. {MODEL}"),
    (lambda: KFAC(nn.Linear, KFACConfig()), TypeError, "the class Linear, not a torch.nn.Module. Pass an instance"),
    (lambda: KFAC(None, KFACConfig()), TypeError, "of type NoneType, not a torch.nn.Module. Pass the network itself"),
    (lambda: KFAC(nn.DataParallel(network()), KFACConfig()), TypeError, "model is a DataParallel, whose replicas"),
    (lambda: KFAC(nn.Linear(2, 2, device="meta"), KFACConfig()), ValueError, "'weight' is on the \"meta\" device"),
    (lambda: KFAC(nn.LazyLinear(2), KFACConfig()), ValueError, "'weight' has no shape yet. Pass a batch through"),
    (lambda: KFAC(network(), 0.1), TypeError, "config is of type float, not a KFACConfig. Pass KFAC(model, KFACCo"),
    (lambda: KFAC(network(), {"lr": 0.1}), TypeError, "of type dict, not a KFACConfig. Pass KFAC(model, KFACCo"),
    (lambda: KFAC(network(), KFACConfig), TypeError, "the class KFACConfig, not a KFACConfig. Call it"),
    (lambda: KFAC(network(), None), TypeError, "of type NoneType, not a KFACConfig. Pass KFAC(model, KFAC"),
    (lambda: KFAC(network(), KFACConfig(), generator=0), TypeError, "generator is of type int, not a torch.Generator"),
    (lambda: KFAC(network(), KFACConfig(), scaler=1.0), TypeError, "scaler is of type float, not a torch.amp.Grad"),
    (lambda: KFACConfig(levenberg_marquardt=True), ValueError, "Invalid levenberg_marquardt: True. Must be LevenbergM"),
    (lambda: KFACConfig(lr=10**400), ValueError, "Invalid lr: 1000"),
    (lambda: KFACConfig(lr=1j), ValueError, "Invalid lr: 1j. Must be a finite number > 0"),
    (lambda: KFACConfig(lr=torch.tensor([0.1, 0.2])), ValueError, "Invalid lr: tensor([0.1000, 0.2000])"),
    (lambda: KFACConfig(lr=np.float32("nan")), ValueError, "Invalid lr: nan. Must be a finite number > 0"),
    (lambda: KFACConfig(factor_interval=np.float64(2)), ValueError, "Invalid factor_interval: 2.0. Must be an integer"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "said"), ARGUMENTS, ids=[said[:40] for *_, said in ARGUMENTS])
def test_arguments_of_other_types_are_refused_with_the_call_that_works(call: Any, kind: Any, said: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert said in str(caught.value)


def test_numbers_of_any_real_type_are_those_numbers() -> None:
    given = KFACConfig(
        lr=np.float32(0.5), damping=torch.tensor(0.25), momentum=np.array(0.75), weight_decay=Fraction(1, 2),
        factor_decay=np.float16(0.5), factor_interval=np.int64(2), inverse_interval=((0, np.int8(4)),),
        nesterov=np.True_, levenberg_marquardt=LevenbergMarquardt(interval=np.int32(3), grow=np.float32(1.5)),
    )  # fmt: skip
    assert given == KFACConfig(
        lr=0.5, damping=0.25, momentum=0.75, weight_decay=0.5, factor_decay=0.5, factor_interval=2,
        inverse_interval=((0, 4),), nesterov=True, levenberg_marquardt=LevenbergMarquardt(interval=3, grow=1.5),
    )  # fmt: skip
    assert {type(getattr(given, name)) for name in ("lr", "damping", "momentum", "weight_decay")} == {float}
    assert type(given.factor_interval) is int


def test_a_schedule_may_set_numbers_of_any_real_type() -> None:
    trained = []
    for number in (float, np.float32, torch.tensor):
        model = network()
        groups = [{"params": model[0].parameters()}, {"params": model[2].parameters()}]
        config = KFACConfig(damping_schedule=lambda step, number=number: number(0.5))
        optimizer = KFAC(model, config, param_groups=groups)
        for k, group in enumerate(optimizer.param_groups):
            group.update(lr=number(0.5 + 0.25 * k), damping=number(0.125), weight_decay=number(0.25))
        backward(model)
        optimizer.step()
        trained.append(torch.nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(trained[0], trained[1])
    assert torch.equal(trained[0], trained[2])


def test_a_list_of_modules_trains_as_the_sequence_of_them() -> None:
    trained = []
    for container in (network(), nn.ModuleList(network())):
        optimizer = KFAC(container, KFACConfig())
        backward(nn.Sequential(*container))
        assert not optimizer.step().failed
        trained.append(torch.nn.utils.parameters_to_vector(container.parameters()))
    assert torch.equal(trained[0], trained[1])
