"""The optimizer among other things: hooks that come and go, copies, foreign states, checkpoints, unusual models."""

import copy
import gc
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from sensitivity.kfac import KFAC, KFACConfig, layers_of

DOUBLE = torch.float64


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3)).to(DOUBLE)


def batch(examples: int = 20) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(examples, 4, generator=generator, dtype=DOUBLE)
    return x, torch.randint(3, (examples,), generator=generator)


def backward(model: nn.Module) -> None:
    x, y = batch()
    functional.cross_entropy(model(x), y).backward()


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def factors(optimizer: KFAC) -> list[Tensor]:
    return [optimizer.kfac.factor(layer, side) for layer in optimizer.report().layers for side in ("inputs", "outputs")]


def test_hooks_exist_only_while_statistics_are_due() -> None:
    model = network()
    optimizer = KFAC(model, KFACConfig(factor_interval=3))
    seen = []
    for _ in range(5):
        seen.append(hooks(model))
        optimizer.zero_grad()
        backward(model)
        optimizer.step()
    assert seen == [3, 0, 0, 3, 0]
    optimizer.load_state_dict({**optimizer.state_dict(), "kfac": {**optimizer.state_dict()["kfac"], "steps": 6}})
    assert hooks(model) == 3
    del optimizer
    gc.collect()
    assert hooks(model) == 0


def test_a_copy_of_the_model_does_not_enter_the_statistics() -> None:
    alone, model = network(), network()
    optimizers = [KFAC(each, KFACConfig()) for each in (alone, model)]
    shadow = copy.deepcopy(model)
    for each in (alone, model):
        backward(each)
    (shadow(torch.ones(7, 4, dtype=DOUBLE)) * 100).sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    for a, b in zip(*map(factors, optimizers), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_activation_checkpoints_leave_the_step_as_it_is(reentrant: bool, sharing: Any) -> None:
    class Checkpointed(nn.Module):
        def __init__(self, layers: nn.Sequential) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.layers[:2](x)
            hidden = checkpoint(self.layers[2:4], hidden, use_reentrant=reentrant)
            return self.layers[4](hidden)

    plain, saving = network(), network()
    for model in (plain, Checkpointed(saving)):
        optimizer = KFAC(model, KFACConfig(sharing=sharing))
        for _ in range(3):
            optimizer.zero_grad()
            backward(model)
            optimizer.step()
    for p, q in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shape", [(6,), (1, 6)])
def test_an_embedding_of_positions_does_not_count_as_the_batch(shape: tuple[int, ...]) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.word, self.place, self.head = nn.Embedding(9, 4), nn.Embedding(6, 4), nn.Linear(4, 9)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.word(x) + self.place(torch.arange(6).reshape(shape)))

    torch.manual_seed(0)
    model = Tokens().to(DOUBLE)
    optimizer = KFAC(model, KFACConfig(terms_per_example=6))
    x, y = torch.randint(9, (15, 6)), torch.randint(9, (15, 6))
    hidden = (model.word(x) + model.place(torch.arange(6))).flatten(0, 1).detach()
    logits = model.head(hidden)
    slopes = logits.softmax(-1) - functional.one_hot(y.flatten(), 9)
    functional.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
    optimizer.step()
    rows = functional.pad(hidden, (0, 1), value=1.0)
    torch.testing.assert_close(optimizer.kfac.factor("head", "inputs")[0], rows.mT @ rows / 90)
    torch.testing.assert_close(optimizer.kfac.factor("head", "outputs")[0], (slopes.mT @ slopes / 90).detach())


@pytest.mark.parametrize("options", [{}, {"sharing": "reduce"}, {"damping_form": "exact", "ekfac": True}])
def test_a_branch_that_is_not_taken_keeps_parameters_momentum_and_averages(options: dict[str, Any]) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.left, self.right, self.go_left = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 3), True

        def forward(self, x: Tensor) -> Tensor:
            return (self.left if self.go_left else self.right)(torch.tanh(self.first(x)))

    torch.manual_seed(0)
    model = Branches().to(DOUBLE)
    optimizer = KFAC(model, KFACConfig(weight_decay=0.1, inverse_interval=1, **options))
    for go_left in (True, False, True, True):
        model.go_left = go_left
        idle = model.right if go_left else model.left
        name = "right" if go_left else "left"
        views = dict(zip(optimizer.kfac.layout.names, optimizer.kfac.workspace.velocity_views, strict=True))
        kept = [idle.weight.detach().clone(), views[f"{name}.weight"].clone(), optimizer.kfac.factor(name, "outputs")]
        optimizer.zero_grad()
        backward(model)
        assert not optimizer.step().failed
        found = [idle.weight.detach(), views[f"{name}.weight"], optimizer.kfac.factor(name, "outputs")]
        for before, after in zip(kept, found, strict=True):
            torch.testing.assert_close(after, before, rtol=1e-13, atol=1e-15)


def test_inputs_may_be_given_by_keyword() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(input=x)

    model = Keyword().to(DOUBLE)
    optimizer = KFAC(model, KFACConfig())
    backward(model)
    assert not optimizer.step().failed


def test_a_reparametrised_layer_is_named_and_left_to_plain_gradients() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(model[0])
    nn.utils.parametrizations.weight_norm(model[1])
    model.append(nn.Linear(3, 3))
    assert [layer.name for layer in layers_of(model)] == ["2"]
    with pytest.warns(UserWarning, match=r"does not cover 0 \(Linear\), 1 \(ParametrizedLinear\)"):
        optimizer = KFAC(model, KFACConfig())
    functional.cross_entropy(model(torch.randn(6, 4)), torch.randint(3, (6,))).backward()
    assert not optimizer.step().failed


def test_a_learning_rate_of_zero_from_a_schedule_leaves_the_parameters() -> None:
    model = network()
    optimizer = KFAC(model, KFACConfig(kl_clip=1e-3))
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: epoch / 10)
    before = [p.detach().clone() for p in model.parameters()]
    backward(model)
    report = optimizer.step()
    assert not report.failed
    assert float(report.clip) == 1.0
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_groups_and_copies_that_cannot_work_are_refused() -> None:
    model = network()
    optimizer = KFAC(model, KFACConfig())
    with pytest.raises(ValueError, match="hold 1 parameters that are not of this model"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    with pytest.raises(ValueError, match="hold 2 parameters that are not of this model"):
        KFAC(model, KFACConfig(), param_groups=[{"params": [*model.parameters(), *nn.Linear(2, 2).parameters()]}])
    with pytest.raises(TypeError, match=r"Save its state_dict\(\)"):
        pickle.dumps(optimizer)


def test_foreign_states_are_refused_and_change_nothing() -> None:
    model = network()
    optimizer, exact = KFAC(model, KFACConfig()), KFAC(network(), KFACConfig(damping_form="exact"))
    backward(model)
    optimizer.step()
    before = [f.clone() for f in factors(optimizer)]
    other = KFAC(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(3, 3)).to(DOUBLE), KFACConfig())
    for state, message in (
        (torch.optim.SGD(model.parameters(), lr=0.1).state_dict(), "The state has no 'kfac'"),
        (exact.state_dict(), "eigenvalues are of .* the forms of damping differ"),
        (other.state_dict(), "the models"),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(state)
    with pytest.raises(ValueError, match="eigenvalues are of"):
        exact.load_state_dict(optimizer.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(before, factors(optimizer), strict=True))
