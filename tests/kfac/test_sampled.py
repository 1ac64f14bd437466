"""The sampled Fisher in scripts: skipped batches, forward passes that nobody observes, parts in evaluation mode; and
against the dense GGN for masked, weighted, smoothed and binary losses."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sensitivity.kfac import KFAC, KFACConfig

DOUBLE = torch.float64


class Net(nn.Module):
    """A perceptron with normalisation, and attention over a sequence of one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(6, 4), nn.LayerNorm(4)
        self.mix, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.first(x)).unsqueeze(1)
        return self.head(torch.tanh(self.mix(h, h, h)[0].squeeze(1)))


def network() -> Net:
    torch.manual_seed(0)
    return Net().to(DOUBLE)


def batch(seed: int, examples: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, 6, generator=generator, dtype=DOUBLE)
    return x, torch.randint(3, (examples,), generator=generator)


def plain(model: nn.Module, optimizer: KFAC, seed: int) -> None:
    x, y = batch(seed)
    outputs = model(x)
    optimizer.observe(outputs)
    functional.cross_entropy(outputs, y).backward()


def observed_and_skipped(model: nn.Module, optimizer: KFAC, seed: int) -> None:
    optimizer.observe(3.0 * model(batch(seed + 100)[0]))
    plain(model, optimizer, seed)


def stepped_over(clear: Callable[[nn.Module, KFAC], None]) -> Callable[[nn.Module, KFAC, int], None]:
    def script(model: nn.Module, optimizer: KFAC, seed: int) -> None:
        outputs = 5.0 * model(batch(seed + 100)[0])
        optimizer.observe(outputs)
        (outputs.square().sum() * float("nan")).backward()
        clear(model, optimizer)
        plain(model, optimizer, seed)

    return script


def unobserved(model: nn.Module, optimizer: KFAC, seed: int) -> None:
    kept = [model(batch(seed + k)[0]) for k in range(5)]
    plain(model, optimizer, seed)
    assert len(kept) == 5


def partly_in_evaluation_mode(model: nn.Module, optimizer: KFAC, seed: int) -> None:
    for part in (model.first, model.mix):
        part.eval()
    plain(model, optimizer, seed)


def cleared_between(model: nn.Module, optimizer: KFAC, seed: int) -> None:
    x, y = batch(seed)
    outputs = model(x)
    optimizer.observe(outputs)
    optimizer.zero_grad()
    functional.cross_entropy(outputs, y).backward()


def micro_batches(model: nn.Module, optimizer: KFAC, seed: int) -> None:
    x, y = batch(seed)
    for part in (slice(0, 2), slice(2, 8)):
        outputs = model(x[part])
        optimizer.observe(outputs)
        (functional.cross_entropy(outputs, y[part], reduction="sum") / len(x)).backward()


SCRIPTS: dict[str, Callable[[nn.Module, KFAC, int], None]] = {
    "observed, no backward pass": observed_and_skipped,
    "skipped for NaN, optimizer.zero_grad()": stepped_over(lambda _, optimizer: optimizer.zero_grad()),
    "skipped for NaN, model.zero_grad()": stepped_over(lambda model, _: model.zero_grad()),
    "skipped for NaN, zeros": stepped_over(lambda model, _: model.zero_grad(set_to_none=False)),
    "passes that are not observed": unobserved,
    "parts in evaluation mode": partly_in_evaluation_mode,
    "cleared after observing": cleared_between,
    "micro-batches": micro_batches,
}


@pytest.mark.parametrize("options", [{}, {"sharing": "reduce"}, {"damping_form": "exact", "ekfac": True}])
@pytest.mark.parametrize("name", SCRIPTS)
def test_other_passes_leave_the_step_as_it_is(name: str, options: dict[str, Any]) -> None:
    trained = []
    for script in (plain, SCRIPTS[name]):
        model = network()
        optimizer = KFAC(model, KFACConfig(fisher="type2", others="diagonal", terms_per_example=1, **options))
        for seed in range(3):
            optimizer.zero_grad()
            script(model, optimizer, seed)
            assert not optimizer.step().failed
        trained.append(torch.nn.utils.parameters_to_vector(model.parameters()))
    torch.testing.assert_close(trained[0], trained[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("fisher", ["empirical", "type2"])
def test_forward_passes_without_a_step_keep_nothing(fisher: Any) -> None:
    model = network()
    optimizer = KFAC(model, KFACConfig(fisher=fisher, others="diagonal"))
    seen = []
    model.first.register_forward_hook(lambda _, args, __: seen.append(weakref.ref(args[0])))
    for _ in range(3):
        model(torch.randn(4, 6, dtype=DOUBLE))
    gc.collect()
    assert [each() for each in seen] == [None] * 3
    assert optimizer.report().steps == 0


def test_observations_that_do_not_match_the_backward_passes_are_refused() -> None:
    model = network()
    optimizer = KFAC(model, KFACConfig(fisher="type2", terms_per_example=1))
    plain(model, optimizer, 0)
    optimizer.observe(model(batch(1)[0]))
    with pytest.raises(RuntimeError, match="for a batch whose loss had no backward pass"):
        optimizer.step()
    optimizer.zero_grad()
    first, second = (model(batch(seed)[0]) for seed in (0, 1))
    optimizer.observe(first)
    optimizer.observe(second)
    (first + second).square().sum().backward()
    with pytest.raises(RuntimeError, match=r"observe them together: optimizer\.observe\(torch\.cat"):
        optimizer.step()


def smoothed(f: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(f, y, label_smoothing=0.2)


def binary(f: Tensor, y: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(f, functional.one_hot(y, 3).to(f))


@pytest.mark.parametrize(("loss", "compute"), [("cross_entropy", smoothed), ("binary_cross_entropy", binary)])
def test_smoothed_and_binary_losses_have_the_dense_ggn(loss: Any, compute: Any) -> None:
    """For one example a block of the GGN is a Kronecker product; its Hessian here is autograd's, of the loss."""
    model, (x, y) = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).to(DOUBLE), batch(0, 1)
    optimizer = KFAC(model, KFACConfig(fisher="type2", loss=loss))
    outputs = model(x)
    optimizer.observe(outputs)
    compute(outputs, y).backward()
    hessian = torch.autograd.functional.hessian(lambda f: compute(f, y), outputs.detach()).view(3, 3)
    names = ("2.weight", "2.bias")
    params = {name: p.detach() for name, p in model.named_parameters()}

    def of(part: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, {**params, **part}, (x,)).flatten()

    jacobians = torch.func.jacrev(of)({name: params[name] for name in names})
    jacobian = torch.cat([j.reshape(3, params[n].shape[0], -1) for n, j in jacobians.items()], -1).flatten(1)
    optimizer.step()
    a, g = (optimizer.kfac.factor("2", side)[0] for side in ("inputs", "outputs"))
    torch.testing.assert_close(torch.kron(g, a), jacobian.mT @ hessian @ jacobian, rtol=1e-10, atol=1e-12)


def test_labels_of_a_binary_loss_are_sampled_without_bias() -> None:
    model, found = nn.Linear(6, 3).to(DOUBLE), {}
    x = batch(0, 2)[0].repeat(10_000, 1)
    for fisher in ("type2", "monte_carlo"):
        optimizer = KFAC(model, KFACConfig(fisher=fisher, loss="binary_cross_entropy", lr=1e-12))
        outputs = model(x)
        optimizer.observe(outputs)
        binary(outputs, torch.zeros(len(x), dtype=torch.long)).backward()
        optimizer.step()
        found[fisher] = optimizer.kfac.factor("", "outputs")
        optimizer.zero_grad()
    torch.testing.assert_close(found["monte_carlo"], found["type2"], rtol=0.03, atol=0.002)


@pytest.mark.parametrize("options", [{}, {"sharing": "reduce"}, {"damping_form": "exact", "ekfac": True}])
def test_weighted_examples_have_the_fisher_of_their_loss(options: dict[str, Any]) -> None:
    """Integer weights are repeated examples."""
    weights, found = torch.tensor([3, 1, 0, 2, 1, 1, 0, 2]), []
    x, y = batch(0)
    for repeated in (False, True):
        model = network()
        optimizer = KFAC(model, KFACConfig(others="diagonal", terms_per_example=None if not repeated else 1, **options))
        if repeated:
            rows = torch.arange(8).repeat_interleave(weights)
            functional.cross_entropy(model(x[rows]), y[rows]).backward()
        else:
            outputs = model(x)
            optimizer.observe(outputs, weights=weights)
            losses = functional.cross_entropy(outputs, y, reduction="none")
            ((losses * weights).sum() / weights.sum()).backward()
        assert not optimizer.step().failed
        found.append(optimizer.kfac)
    for name in ("first", "mix.value", "mix.out_proj", "head"):
        # The mean is over rows: 8 and 10 of them.
        once, repeated = (each.factor(name, "outputs")[0] for each in found)
        torch.testing.assert_close(once * 8, repeated * 10, rtol=1e-9, atol=1e-12)


def test_weights_that_the_empirical_fisher_cannot_have_are_refused() -> None:
    model = nn.Linear(6, 3).to(DOUBLE)
    optimizer = KFAC(model, KFACConfig())
    outputs = model(batch(0)[0].unsqueeze(1).expand(8, 2, 6))
    with pytest.raises(ValueError, match=r'must be equal, or 0.*fisher="type2"'):
        optimizer.observe(outputs, weights=torch.tensor([1.0, 2.0]).expand(8, 2))
    optimizer.observe(outputs, weights=torch.tensor([0.0, 2.0]).expand(8, 2))
