"""EKFAC's moments, diagonal Fishers and weight sharing against per-example gradients by autograd."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from sensitivity.kfac import KFAC, KFACConfig
from sensitivity.kfac.solves import eigenbasis

DOUBLE = torch.float64


def example_gradients(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The gradient of each example's own loss, [examples, *shape] by name."""
    params = {n: p.detach() for n, p in model.named_parameters()}

    def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(model, params, (x.unsqueeze(0),)), y.unsqueeze(0))

    return dict(vmap(grad(loss), in_dims=(None, 0, 0))(params, x, y))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3)
    ).to(DOUBLE)


def data() -> tuple[Tensor, Tensor]:
    return torch.randn(50, 2, 3, 3, dtype=DOUBLE), torch.randint(3, (50,))


def test_ekfac_is_the_diagonal_of_the_fisher_in_the_eigenbasis() -> None:
    model, (x, y) = network(), data()
    gradients = example_gradients(model, x, y)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    damping = 0.05
    config = KFACConfig(damping_form="exact", ekfac=True, damping=damping, lr=1.0, momentum=0.0)
    optimizer = KFAC(model, config)
    functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    for name, groups in (("0", 2), ("4", 1)):
        weight, bias = gradients[f"{name}.weight"], gradients[f"{name}.bias"]
        joint = torch.cat([weight.flatten(2), bias.unsqueeze(-1)], -1).unflatten(1, (groups, -1))
        u_a = torch.linalg.eigh(optimizer.kfac.factor(name, "inputs")).eigenvectors
        u_g = torch.linalg.eigh(optimizer.kfac.factor(name, "outputs")).eigenvectors
        rotated = u_g.mT @ joint @ u_a
        expected = u_g @ (rotated.mean(0) / (rotated.square().mean(0) + damping)) @ u_a.mT
        moved = [
            before[f"{name}.{own}"] - dict(model.named_parameters())[f"{name}.{own}"] for own in ("weight", "bias")
        ]
        moved = torch.cat([moved[0].flatten(1), moved[1].unsqueeze(-1)], -1).unflatten(0, (groups, -1))
        torch.testing.assert_close(moved.detach(), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 4), nn.LayerNorm((4, 3, 3)), nn.BatchNorm2d(4)])
def test_normalisation_layers_follow_their_diagonal_fisher(norm: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), norm, nn.Tanh(), nn.Flatten(), nn.Linear(36, 3)).to(DOUBLE)
    x, y = data()
    normal = model[:2](x).detach()
    normal = (
        (normal - norm.bias.detach().reshape(-1, *(1,) * (4 - 1 - norm.bias.dim()))) if norm.bias.dim() == 1 else normal
    )
    affine = nn.Sequential(_Affine(norm.weight.shape).to(DOUBLE), *model[2:])
    gradients = example_gradients(affine, normal, y)
    before = [norm.weight.detach().clone(), norm.bias.detach().clone()]
    optimizer = KFAC(model, KFACConfig(others="diagonal", damping=0.01, lr=1.0, momentum=0.0))
    functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    assert optimizer.report().others == {"1.weight": "diagonal", "1.bias": "diagonal"}
    for own, p, old in zip(("weight", "bias"), (norm.weight, norm.bias), before, strict=True):
        g = gradients[f"0.{own}"]
        expected = g.mean(0) / (g.square().mean(0) + 0.01)
        torch.testing.assert_close(old - p.detach(), expected, rtol=1e-9, atol=1e-11)


def test_the_diagonal_follows_the_chosen_fisher(truth: Any) -> None:
    """Also that of a layer in front of all that is covered."""
    model, (x, y) = nn.Sequential(nn.GroupNorm(1, 2).to(DOUBLE), *network()), data()
    dense = {
        name: truth.dense_ggn(model, x, truth.softmax_hessian, (f"{name}.weight", f"{name}.bias")).diagonal()
        for name in ("0", "2")
    }
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = KFAC(model, KFACConfig(others="diagonal", fisher="type2", damping=0.01, lr=1.0, momentum=0.0))
    outputs = model(x)
    optimizer.observe(outputs)
    functional.cross_entropy(outputs, y).backward()
    optimizer.step()
    for name, p in model.named_parameters():
        layer, own = name.split(".")
        if layer not in dense:
            continue
        assert p.grad is not None
        expected = before[name] - p.grad / (dense[layer].reshape(-1, 2)[:, int(own == "bias")] + 0.01)
        torch.testing.assert_close(p.detach(), expected, rtol=1e-9, atol=1e-11)


class _Affine(nn.Module):
    """Scale and shift alone, of inputs that are normalised already."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, 1, 1) if self.weight.dim() == 1 else self.weight.shape
        return x * self.weight.reshape(shape) + self.bias.reshape(shape)


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_weight_sharing_is_exact_in_its_own_setting(sharing: Any, truth: Any) -> None:
    """Deep linear networks over positions, each a loss term (expand) or averaged before the loss (reduce)."""
    torch.manual_seed(0)
    layers = [nn.Linear(4, 3), nn.Linear(3, 2)]

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = layers

        def forward(self, x: Tensor) -> Tensor:
            out = self.second(self.first(x))
            return out if sharing == "expand" else out.mean(1)

    model = Shared().to(DOUBLE)
    x = torch.randn(6, 5, 4, dtype=DOUBLE)
    names = {name: (f"{name}.weight", f"{name}.bias") for name in ("first", "second")}
    dense = {name: truth.dense_ggn(model, x, lambda f: torch.eye(len(f), dtype=DOUBLE), names[name]) for name in names}
    optimizer = KFAC(model, KFACConfig(fisher="type2", loss="squared_error", sharing=sharing))
    outputs = model(x)
    optimizer.observe(outputs)
    (0.5 * outputs.square().sum() / 6).backward()
    optimizer.step()
    for name in names:
        a, g = (optimizer.kfac.factor(name, side)[0] for side in ("inputs", "outputs"))
        torch.testing.assert_close(torch.kron(g, a), dense[name], rtol=1e-10, atol=1e-12)


def test_tokens_averaged_by_the_loss_are_loss_terms() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3).to(DOUBLE)
    other = nn.Linear(4, 3).to(DOUBLE)
    x, y = torch.randn(6, 5, 4, dtype=DOUBLE), torch.randint(3, (6, 5))
    sequences = KFAC(model, KFACConfig(terms_per_example=5))
    tokens = KFAC(other, KFACConfig())
    other.load_state_dict(model.state_dict())
    functional.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
    functional.cross_entropy(other(x.flatten(0, 1)), y.flatten()).backward()
    sequences.step()
    tokens.step()
    for side in ("inputs", "outputs"):
        torch.testing.assert_close(
            sequences.kfac.factor("", side), tokens.kfac.factor("", side), rtol=1e-10, atol=1e-13
        )


def test_eigenvectors_hold_no_numbers_that_slow_products_down() -> None:
    # Features of very different scales, as those of dying units are.
    scales = torch.logspace(0, -18, 64)
    matrix = scales[:, None] * (torch.eye(64) + 0.3) * scales
    plain, tiny = torch.linalg.eigh(matrix)[1], 1e-14  # the square of what rounding leaves
    assert int((plain.abs().lt(tiny) & plain.ne(0)).sum()) > 100
    values, vectors, failed = eigenbasis(matrix[None])
    assert not failed
    assert not bool((vectors.abs().lt(tiny) & vectors.ne(0)).any())
    torch.testing.assert_close((vectors[0] * values[0]) @ vectors[0].mT, matrix, rtol=0, atol=1e-6)
    torch.testing.assert_close(vectors[0].mT @ vectors[0], torch.eye(64), rtol=0, atol=2e-6)
