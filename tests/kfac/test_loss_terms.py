"""The number of loss terms, masks, weights and the batch dimension: stated, inferred where certain, or refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sensitivity.kfac import KFAC, KFACConfig

DOUBLE = torch.float64


class Decoder(nn.Module):
    """One block of a decoder-only transformer, with a hand-written attention of two query heads on one key head."""

    def __init__(self, time_first: bool = False) -> None:
        super().__init__()
        self.time_first = time_first
        self.word, self.place = nn.Embedding(5, 4), nn.Embedding(3, 4)
        self.norm, self.last = nn.RMSNorm(4), nn.LayerNorm(4, bias=False)
        self.query, self.key, self.value, self.out = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 2), nn.Linear(4, 4)
        self.head = nn.Linear(4, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.word(tokens) + self.place(torch.arange(3)).unsqueeze(1 if self.time_first else 0)
        h = self.norm(x)
        q, k, v = self.query(h), self.key(h), self.value(h)
        if self.time_first:
            q, k, v = (each.transpose(0, 1) for each in (q, k, v))
        q = q.unflatten(-1, (2, 2)).transpose(1, 2)
        k, v = k.unsqueeze(1), v.unsqueeze(1)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        mixed = mixed.transpose(1, 2).flatten(2)
        if self.time_first:
            mixed = mixed.transpose(0, 1)
        return self.head(self.last(x + self.out(mixed)))


def decoder(time_first: bool = False) -> Decoder:
    torch.manual_seed(0)
    return Decoder(time_first).to(DOUBLE)


def data() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens, labels = torch.randint(5, (2, 8, 3), generator=generator)
    mask = torch.rand(8, 3, generator=generator) < 0.4
    mask[0, 0] = True
    return tokens, labels, mask


def factors(optimizer: KFAC) -> dict[tuple[str, str], Tensor]:
    return {(n, s): optimizer.kfac.factor(n, s) for n in optimizer.report().layers for s in ("inputs", "outputs")}


def dense_fisher(
    model: nn.Module, tokens: Tensor, labels: Tensor, weights: Tensor, fisher: str
) -> dict[str, tuple[Tensor, Tensor]]:
    """Kronecker factors of the head, token by token from the definition, and its dense block."""
    grabbed = []
    handle = model.head.register_forward_hook(lambda _, args, __: grabbed.append(args[0].detach()))
    logits = model(tokens).detach().flatten(0, 1)
    handle.remove()
    rows = functional.pad(grabbed[0].flatten(0, 1), (0, 1), value=1.0)
    total, blocks = weights.sum(), torch.zeros(25, 25, dtype=DOUBLE)
    inputs, outputs = torch.zeros(5, 5, dtype=DOUBLE), torch.zeros(5, 5, dtype=DOUBLE)
    for a, f, y, w in zip(rows, logits, labels.flatten(), weights.flatten(), strict=True):
        p = f.softmax(-1)
        g = p - functional.one_hot(y, 5)
        hessian = torch.outer(g, g) if fisher == "empirical" else torch.diag(p) - torch.outer(p, p)
        blocks += w * torch.kron(hessian, torch.outer(a, a)) / total
        inputs += torch.outer(a, a) / total
        outputs += w * hessian / len(rows)
    return {"factors": (inputs, outputs), "block": (blocks, blocks)}


@pytest.mark.parametrize(("fisher", "weighting"), [("empirical", "mask"), ("type2", "mask"), ("type2", "weights")])
def test_a_masked_or_weighted_token_loss_of_a_transformer(fisher: Any, weighting: str) -> None:
    tokens, labels, mask = data()
    weights = mask.double() * (torch.linspace(0.5, 2, 24, dtype=DOUBLE).view(8, 3) if weighting == "weights" else 1.0)
    model = decoder()
    optimizer = KFAC(model, KFACConfig(fisher=fisher, others="diagonal"))
    outputs = model(tokens)
    optimizer.observe(outputs, weights=weights)
    losses = functional.cross_entropy(outputs.flatten(0, 1), labels.flatten(), reduction="none")
    ((losses * weights.flatten()).sum() / weights.sum()).backward()
    assert not optimizer.step().failed
    assert set(optimizer.report().others.values()) == {"diagonal"}
    expected = dense_fisher(decoder(), tokens, labels, weights, fisher)["factors"]
    for side, truth in zip(("inputs", "outputs"), expected, strict=True):
        torch.testing.assert_close(optimizer.kfac.factor("head", side)[0], truth, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("fisher", ["empirical", "type2"])
def test_a_single_valid_token_has_the_dense_fisher(fisher: Any) -> None:
    """All rows of one token's sequence but its own are masked; the block of the head is exact for equal rows."""
    tokens, labels, _ = data()
    tokens, labels = tokens[:1, :1].expand(1, 3), labels[:1]
    weights = torch.tensor([[1.0, 0.0, 0.0]], dtype=DOUBLE)
    model = decoder()
    with torch.no_grad():
        model.place.weight.zero_()  # equal tokens have equal rows then
    truth = dense_fisher(model, tokens, labels, weights, fisher)["block"][0]
    optimizer = KFAC(model, KFACConfig(fisher=fisher))
    outputs = model(tokens)
    optimizer.observe(outputs, weights=weights)
    (
        functional.cross_entropy(outputs.flatten(0, 1), labels.flatten(), reduction="none") * weights.flatten()
    ).sum().backward()
    optimizer.step()
    a, g = (optimizer.kfac.factor("head", side)[0] for side in ("inputs", "outputs"))
    torch.testing.assert_close(torch.kron(g, a), truth, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"sharing": "reduce"}, {"damping_form": "exact", "ekfac": True}])
def test_time_first_is_batch_first(options: dict[str, Any]) -> None:
    tokens, labels, _ = data()
    found = []
    for first in (False, True):
        model = decoder(first)
        config = KFACConfig(terms_per_example=3, batch_dim=int(first), others="diagonal", **options)
        optimizer = KFAC(model, config)
        outputs = model(tokens.T if first else tokens)
        functional.cross_entropy(outputs.flatten(0, 1), (labels.T if first else labels).flatten()).backward()
        optimizer.step()
        found.append(torch.nn.utils.parameters_to_vector(model.parameters()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


def test_accumulated_masked_batches_are_the_whole_batch() -> None:
    tokens, labels, mask = data()
    found = []
    for parts in ([slice(0, 8)], [slice(0, 2), slice(2, 8)]):
        model = decoder()
        optimizer = KFAC(model, KFACConfig())
        for part in parts:
            outputs = model(tokens[part])
            optimizer.observe(outputs, weights=mask[part])
            targets = labels[part].masked_fill(~mask[part], -100).flatten()
            (functional.cross_entropy(outputs.flatten(0, 1), targets, reduction="sum") / mask.sum()).backward()
        optimizer.step()
        # The embedding of positions is looked up once for each part, whose gradients enter apart.
        found.append(torch.cat([p.flatten() for name, p in model.named_parameters() if name != "place.weight"]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


def test_an_ambiguous_number_of_terms_is_refused_with_what_to_state() -> None:
    tokens, labels, _ = data()
    model = decoder()
    optimizer = KFAC(model, KFACConfig())
    functional.cross_entropy(model(tokens).flatten(0, 1), labels.flatten()).backward()
    with pytest.raises(RuntimeError, match=r"ambiguous: layer 'head' saw .*terms_per_example=.*batch_dim=1"):
        optimizer.step()


@pytest.mark.parametrize("time_first", [False, True])
def test_pooled_positions_are_certain_or_refused(time_first: bool) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.inner(x)).mean(0 if time_first else 1))

    model = Pooled()
    optimizer = KFAC(model, KFACConfig())
    x = torch.randn((3, 16, 4) if time_first else (16, 3, 4))
    functional.cross_entropy(model(x), torch.zeros(16, dtype=torch.long)).backward()
    if time_first:
        with pytest.raises(RuntimeError, match="ambiguous: layer 'inner'"):
            optimizer.step()
    else:
        assert not optimizer.step().failed


def test_terms_that_do_not_fit_are_refused() -> None:
    tokens, labels, mask = data()
    model = decoder()
    optimizer = KFAC(model, KFACConfig())
    outputs = model(tokens)
    for given, message in (
        ({"weights": mask.flatten()}, r"shape \(24,\), but the loss terms of these outputs have shape \(8, 3\)"),
        ({"weights": -mask.double()}, "Invalid weights: must be finite, >= 0"),
        ({"terms": 0}, "Invalid terms: 0. Must be a finite number > 0"),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.observe(outputs, **given)
    optimizer.observe(outputs, terms=24)
    functional.cross_entropy(model(tokens).flatten(0, 1), labels.flatten()).backward()
    with pytest.raises(RuntimeError, match="stated the loss terms of some backward passes only"):
        optimizer.step()
