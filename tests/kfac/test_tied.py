"""An embedding whose weight is the softmax's too, tied as a module or by a function, against a dense reference."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sensitivity.kfac import KFAC, KFACConfig, layers_of
from sensitivity.kfac.tied import kronecker_sum

DOUBLE = torch.float64
WORDS, LENGTH, BATCH = 6, 3, 8


class Tied(nn.Module):
    """Words, a layer, and the words again: a next-word model over 6 words."""

    def __init__(self, form: str, width: int = 4) -> None:
        super().__init__()
        if form == "head first":
            self.head = nn.Linear(width, WORDS, bias=False)
        self.words, self.inner = nn.Embedding(WORDS, width), nn.Linear(width, width)
        if form == "module":
            self.head = nn.Linear(width, WORDS)
        if hasattr(self, "head"):
            self.head.weight = self.words.weight
        self.form = form

    def hidden(self, tokens: Tensor) -> Tensor:
        looked_up = self.words(tokens)
        return torch.tanh(self.inner(looked_up.detach() if self.form == "map alone" else looked_up))

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.hidden(tokens)
        if hasattr(self, "head"):
            return self.head(h)
        weight = self.words.weight.detach() if self.form == "table alone" else self.words.weight
        return {
            "linear": lambda: functional.linear(h, weight),
            "at": lambda: h @ weight.T,
            "matmul": lambda: torch.matmul(h, weight.transpose(0, 1)),
        }.get(self.form, lambda: functional.linear(h, weight))()


def built(form: str, width: int = 4) -> Tied:
    torch.manual_seed(0)
    model = Tied(form, width).to(DOUBLE)
    if form == "module":
        nn.init.zeros_(model.head.bias)
    return model


def batch(seed: int, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(WORDS, (2, *(shape or (BATCH,))), generator=generator))  # type: ignore[return-value]


def stepped(model: Tied, config: KFACConfig, data: tuple[Tensor, Tensor]) -> KFAC:
    optimizer = KFAC(model, config)
    outputs = model(data[0])
    optimizer.observe(outputs)
    functional.cross_entropy(outputs.flatten(0, -2), data[1].flatten()).backward()
    assert not optimizer.step().failed
    return optimizer


def dense(model: Tied, tokens: Tensor, labels: Tensor) -> Tensor:
    """Sum of both uses' blocks [words, width, words, width], diagonal in words, example by example."""
    weight, total = model.words.weight, torch.zeros(WORDS, model.words.embedding_dim, WORDS, model.words.embedding_dim)
    total = total.to(DOUBLE)
    table, maps = [], []
    for token, label in zip(tokens, labels, strict=True):
        e = model.words(token).detach().requires_grad_()
        h = torch.tanh(model.inner(e))
        z = (h @ weight.detach().T).requires_grad_()
        g, delta = torch.autograd.grad(functional.cross_entropy(z, label), (e, z))
        table.append((functional.one_hot(token, WORDS).to(DOUBLE), g))
        maps.append((delta, h.detach()))
    for use, form in ((table, "table alone"), (maps, "map alone")):
        if model.form in ("table alone", "map alone") and form != model.form:
            continue
        u, w = (torch.stack(side) for side in zip(*use, strict=True))
        diagonal, matrix = u.square().mean(0), w.mT @ w / len(w)
        total += torch.einsum("vx,ij->vixj", torch.diag(diagonal), matrix)
    return total


def block(optimizer: KFAC, name: str = "words") -> Tensor:
    a, g = optimizer.kfac.factor(name, "inputs"), optimizer.kfac.factor(name, "outputs")[0]
    return torch.einsum("vx,ij->vixj", torch.diag(a), g)


@pytest.mark.parametrize(("form", "width"), [("table alone", 4), ("map alone", 4), ("linear", 1), ("module", 1)])
def test_the_block_is_the_dense_sum_where_that_is_a_product(form: str, width: int) -> None:
    model, data = built(form, width), batch(0)
    truth = dense(model, *data)
    assert float(truth.abs().max()) > 1e-3
    torch.testing.assert_close(block(stepped(model, KFACConfig(), data)), truth, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", ["module", "head first", "linear", "at", "matmul"])
def test_the_block_has_the_partial_traces_of_the_dense_sum(form: str) -> None:
    model, data = built(form), batch(0)
    truth = dense(model, *data)
    optimizer = stepped(model, KFACConfig(), data)
    found = block(optimizer, "head" if form == "head first" else "words")
    for traced in ("vixi->vx", "vivj->ij"):
        torch.testing.assert_close(torch.einsum(traced, found), torch.einsum(traced, truth), rtol=1e-10, atol=1e-12)
    assert optimizer.report().uncovered == ()
    assert optimizer.report().others == ({"head.bias": "sgd"} if form == "module" else {})


def test_a_product_with_these_traces_is_the_sum_of_proportional_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 3, 5, generator=generator, dtype=DOUBLE)
    root = torch.randn(1, 3, 4, 4, generator=generator, dtype=DOUBLE)
    matrix = root @ root.mT
    diagonal, found = kronecker_sum([(first, matrix), (second, 3 * matrix)])
    product = torch.einsum("tv,tij->tvij", diagonal, found[0])
    torch.testing.assert_close(product, torch.einsum("tv,tij->tvij", first + 3 * second, matrix[0]))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fisher": "type2"},
        {"fisher": "monte_carlo"},
        {"damping_form": "exact", "ekfac": True},
        {"sharing": "reduce"},
        {"batch_fraction": 0.5},
    ],
    ids=str,
)
def test_both_forms_of_tying_take_the_same_steps(options: dict[str, Any]) -> None:
    data, trained = batch(0, BATCH, LENGTH), []
    for form in ("head first", "linear"):
        model = built("linear")
        if form == "head first":
            other = built(form)
            other.load_state_dict({**model.state_dict(), "head.weight": model.words.weight})
            model = other
        optimizer = KFAC(model, KFACConfig(terms_per_example=LENGTH, inverse_interval=2, damping=0.1, **options))
        for _ in range(4):
            optimizer.zero_grad()
            outputs = model(data[0])
            optimizer.observe(outputs)
            functional.cross_entropy(outputs.flatten(0, 1), data[1].flatten()).backward()
            assert not optimizer.step().failed
        trained.append(torch.cat([model.words.weight.flatten(), model.inner.weight.flatten()]))
    torch.testing.assert_close(*trained, rtol=1e-9, atol=1e-12)


def test_micro_batches_are_one_batch() -> None:
    (x, y), found = batch(0), []
    for parts in (1, 2):
        model = built("linear")
        optimizer = KFAC(model, KFACConfig())
        for tokens, labels in zip(x.chunk(parts), y.chunk(parts), strict=True):
            (functional.cross_entropy(model(tokens), labels) / parts).backward()
        optimizer.step()
        found.append(block(optimizer))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("damage", [lambda m: setattr(m.head, "weight", nn.Parameter(m.head.weight.clone())), None])
def test_an_excluded_softmax_leaves_the_embedding_out_only_where_they_are_tied(
    damage: Callable[[Any], None] | None,
) -> None:
    model = built("module")
    if damage is not None:
        damage(model)
    names = [layer.name for layer in layers_of(model, ["head"])]
    assert names == (["inner"] if damage is None else ["words", "inner"])
