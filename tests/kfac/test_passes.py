"""The statistics belong to the gradient that is stepped: scripts in which other passes run, as a table of cases."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap
from torch.nn import functional

from sensitivity.kfac import KFAC, KFACConfig

DOUBLE = torch.float64
Script = Callable[[nn.Module, KFAC, Tensor, Tensor], None]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(DOUBLE)


def batch(seed: int, examples: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, 6, generator=generator, dtype=DOUBLE)
    return x, torch.randint(3, (examples,), generator=generator)


def plain(model: nn.Module, _: KFAC, x: Tensor, y: Tensor) -> None:
    functional.cross_entropy(model(x), y).backward()


def input_gradients(model: nn.Module, optimizer: KFAC, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad()
    for _ in range(10):
        inputs = x.clone().requires_grad_()
        torch.autograd.grad(functional.cross_entropy(model(inputs), y), inputs)
    plain(model, optimizer, x, y)


def parameter_gradients(model: nn.Module, optimizer: KFAC, x: Tensor, y: Tensor) -> None:
    torch.autograd.grad(functional.cross_entropy(model(x), y), [*model.parameters()])
    plain(model, optimizer, x, y)


def penalty_of_weight_zero(model: nn.Module, _: KFAC, x: Tensor, y: Tensor) -> None:
    inputs = x.clone().requires_grad_()
    loss = functional.cross_entropy(model(inputs), y)
    slope = torch.autograd.grad(loss, inputs, create_graph=True)[0]
    (loss + 0.0 * slope.square().sum()).backward()


def other_parameters(model: nn.Module, optimizer: KFAC, x: Tensor, y: Tensor) -> None:
    other = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    functional_call(model, other, (x,)).square().sum().backward()
    plain(model, optimizer, x, y)


def functorch(model: nn.Module, optimizer: KFAC, x: Tensor, y: Tensor) -> None:
    params = dict(model.named_parameters())
    grad(lambda p: functional_call(model, p, (x,)).sum())(params)
    plain(model, optimizer, x, y)


def more_functorch(model: nn.Module, optimizer: KFAC, x: Tensor, y: Tensor) -> None:
    params = {name: p.detach() for name, p in model.named_parameters()}

    def loss(params: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(model, params, (x,)).sum()

    vmap(grad(loss), (None, 0))(params, x)
    jacrev(loss)(params, x)
    jvp(model, (x,), (x,))
    vmap(model)(x)
    hessian(lambda x: model(x).sum())(x[0])
    plain(model, optimizer, x, y)


def skipped(clear: Callable[[nn.Module, KFAC], None]) -> Script:
    def script(model: nn.Module, optimizer: KFAC, x: Tensor, y: Tensor) -> None:
        (7.0 * model(2.0 * x[:9])).square().sum().backward()
        clear(model, optimizer)
        plain(model, optimizer, x, y)

    return script


def not_finite(model: nn.Module, optimizer: KFAC, x: Tensor, y: Tensor) -> None:
    (float("nan") * model(x)).sum().backward()
    model.zero_grad()
    plain(model, optimizer, x, y)


def sharpness_aware(model: nn.Module, optimizer: KFAC, x: Tensor, y: Tensor) -> None:
    model(x).square().sum().backward()  # where SAM's first pass stands, at no radius
    model.zero_grad()
    plain(model, optimizer, x, y)


def closure(model: nn.Module, optimizer: KFAC, x: Tensor, y: Tensor) -> None:
    model.eval()
    plain(model, optimizer, x, y)
    model.train()


def micro_batches(model: nn.Module, _: KFAC, x: Tensor, y: Tensor) -> None:
    for part in (slice(0, 4), slice(4, 16)):
        (functional.cross_entropy(model(x[part]), y[part], reduction="sum") / len(x)).backward()


def weight_penalty(model: nn.Module, optimizer: KFAC, x: Tensor, y: Tensor) -> None:
    penalty = sum(p.square().sum() for p in model.parameters())
    (functional.cross_entropy(model(x), y) + 1e-30 * penalty).backward()


def uncounted_penalty(model: nn.Module, optimizer: KFAC, x: Tensor, y: Tensor) -> None:
    plain(model, optimizer, x, y)
    inputs = x.clone().requires_grad_()
    slope = torch.autograd.grad(model(inputs).sum(), inputs, create_graph=True)[0]
    with optimizer.uncounted():
        (1e-16 * slope.square().sum()).backward()


SCRIPTS: dict[str, Script] = {
    "autograd.grad by inputs": input_gradients,
    "autograd.grad by parameters": parameter_gradients,
    "gradient penalty of weight 0": penalty_of_weight_zero,
    "functional_call with other parameters": other_parameters,
    "torch.func on the live model": functorch,
    "vmap, jacrev, jvp and hessian of the live model": more_functorch,
    "skipped, model.zero_grad()": skipped(lambda model, _: model.zero_grad()),
    "skipped, model.zero_grad(set_to_none=False)": skipped(lambda model, _: model.zero_grad(set_to_none=False)),
    "skipped, optimizer.zero_grad()": skipped(lambda _, optimizer: optimizer.zero_grad()),
    "skipped for NaN": not_finite,
    "two passes of SAM": sharpness_aware,
    "evaluation mode that trains": closure,
    "micro-batches of unequal size": micro_batches,
    "penalty on the weights in the loss": weight_penalty,
    "gradient penalty that does not count": uncounted_penalty,
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # forward mode of torch uses it
@pytest.mark.parametrize("options", [{}, {"sharing": "reduce"}, {"damping_form": "exact", "ekfac": True}])
@pytest.mark.parametrize("name", SCRIPTS)
def test_other_passes_leave_the_step_as_it_is(name: str, options: dict[str, Any]) -> None:
    trained = []
    for script in (plain, SCRIPTS[name]):
        model = network()
        optimizer = KFAC(model, KFACConfig(damping=0.1, inverse_interval=1, **options))
        for seed in range(3):
            optimizer.zero_grad()
            script(model, optimizer, *batch(seed))
            assert not optimizer.step().failed
        trained.append(torch.nn.utils.parameters_to_vector(model.parameters()))
    torch.testing.assert_close(trained[0], trained[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("by_scaler", [True, False])
@pytest.mark.parametrize("scale", [2.0**16, 2.0])
def test_a_loss_scale_is_recognised(scale: float, by_scaler: bool) -> None:
    trained = []
    for scaled in (False, True):
        model = network().float()
        optimizer, (x, y) = KFAC(model, KFACConfig()), batch(0)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scaled)
        loss = functional.cross_entropy(model(x.float()), y)
        if by_scaler:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
        else:
            (loss * (scale if scaled else 1.0)).backward()
            for p in model.parameters():
                p.grad = p.grad / (scale if scaled else 1.0)
            optimizer.step()
        trained.append(torch.nn.utils.parameters_to_vector(model.parameters()))
    torch.testing.assert_close(trained[0], trained[1])


def test_a_loss_scale_and_a_clip_are_told_apart_or_refused() -> None:
    model, (x, y) = network(), batch(0)
    optimizer = KFAC(model, KFACConfig())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    scaler.scale(functional.cross_entropy(model(x), y)).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    with pytest.raises(RuntimeError, match=r"pass KFAC\(\.\.\., scaler=scaler\)"):
        scaler.step(optimizer)
    trained = []
    for max_norm in (1e9, 1e-2):
        model = network()
        optimizer = KFAC(model, KFACConfig())
        functional.cross_entropy(model(x), y).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        trained.append(optimizer.kfac.factor("0", "outputs"))
    torch.testing.assert_close(trained[0], trained[1])


class Summed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.inner = nn.Embedding(7, 5), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bi,vi->bv", torch.tanh(self.inner(self.embedding(x))), self.embedding.weight)


def test_weight_used_by_a_function_is_refused_and_can_be_excluded() -> None:
    torch.manual_seed(0)
    model = Summed().to(DOUBLE)
    x, y = torch.randint(7, (2, 12))
    optimizer = KFAC(model, KFACConfig(terms_per_example=1))
    functional.cross_entropy(model(x), y).backward()
    with pytest.raises(RuntimeError, match=r"layer 'embedding' is not the sum.*exclude=\['embedding'\]"):
        optimizer.step()
    model.zero_grad()
    optimizer = KFAC(model, KFACConfig(), exclude=["embedding"])
    functional.cross_entropy(model(x), y).backward()
    assert not optimizer.step().failed
    with pytest.raises(ValueError, match="no module of this model is named head"):
        KFAC(model, KFACConfig(), exclude=["head"])


def test_a_gradient_penalty_is_refused_with_what_to_write() -> None:
    model, (x, y) = network(), batch(0)
    optimizer = KFAC(model, KFACConfig())
    inputs = x.clone().requires_grad_()
    loss = functional.cross_entropy(model(inputs), y)
    slope = torch.autograd.grad(loss, inputs, create_graph=True)[0]
    (loss + slope.square().sum()).backward()
    with pytest.raises(RuntimeError, match=r"backward pass 1 since .*with optimizer\.uncounted\(\):"):
        optimizer.step()


@pytest.mark.parametrize("kind", ["conv", "grouped, circular", "strided, same"])
def test_convolutions_explain_their_gradients(kind: str) -> None:
    torch.manual_seed(0)
    conv = {
        "conv": nn.Conv1d(4, 6, 3, stride=2, padding=1),
        "grouped, circular": nn.Conv2d(4, 6, (3, 2), groups=2, padding=1, padding_mode="circular"),
        "strided, same": nn.Conv2d(4, 6, 4, padding="same", dilation=2),
    }[kind]
    model = nn.Sequential(conv, nn.Tanh()).to(DOUBLE)
    optimizer = KFAC(model, KFACConfig())
    x = torch.randn(5, 4, *(9,) * (conv.weight.dim() - 2), dtype=DOUBLE)
    model(x).square().mean().backward()
    assert len(optimizer._ledger._differences) == 1
    assert not optimizer.step().failed


def test_a_closure_is_called_once_with_gradients() -> None:
    trained = []
    for closed in (False, True):
        model = network()
        optimizer = KFAC(model, KFACConfig())
        calls = []

        def closure(model: nn.Module = model, optimizer: KFAC = optimizer, calls: list[int] = calls) -> Tensor:
            calls.append(1)
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(batch(0)[0]), batch(0)[1])
            loss.backward()
            return loss.detach()

        if closed:
            assert float(optimizer.step(closure)) > 0
        else:
            closure()
            optimizer.step()
        assert len(calls) == 1
        trained.append(torch.nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(trained[0], trained[1])


def test_a_sparse_embedding_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'0' has sparse gradients, which K-FAC cannot use"):
        KFAC(nn.Sequential(nn.Embedding(4, 3, sparse=True), nn.Linear(3, 2)), KFACConfig())


def test_gradients_of_zero_in_an_unused_branch_need_no_statistics() -> None:
    model, (x, y) = nn.ModuleList([network(), nn.Linear(2, 2, dtype=DOUBLE)]), batch(0)
    optimizer = KFAC(model, KFACConfig())
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    before = model[1].weight.detach().clone()
    plain(model[0], optimizer, x, y)
    assert not optimizer.step().failed
    assert torch.equal(model[1].weight, before)
