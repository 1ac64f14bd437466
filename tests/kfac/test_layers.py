"""Layers against the same networks spelled out with linear layers, embeddings and plain functions."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sensitivity.kfac import KFAC, KFACConfig, layers_of

DOUBLE = torch.float64


class Spelled(nn.Module):
    """A layer's weights as those of linear layers or embeddings, and a function of these."""

    def __init__(
        self, parts: dict[str, nn.Module], compute: Callable[..., Tensor], shift: Tensor | None = None
    ) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.compute = compute
        self.shift = None if shift is None else nn.Parameter(shift.clone())

    def forward(self, *inputs: Any) -> Tensor:
        return self.compute(self, *inputs)


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    made.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone())
    return made


def embedding(weight: Tensor) -> nn.Embedding:
    made = nn.Embedding(*weight.shape)
    made.weight = nn.Parameter(weight.detach().clone())
    return made


def attention(cross: str, options: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """Attention of one input to itself, or to others of another length, and its projections as four linear layers."""
    inner = nn.MultiheadAttention(4, 2, batch_first=True, **options).to(DOUBLE)
    weights = inner.in_proj_weight.detach().chunk(3)
    biases = [None] * 3 if inner.in_proj_bias is None else inner.in_proj_bias.data.normal_().chunk(3)
    parts = {n: linear(w, b) for n, w, b in zip("qkv", weights, biases, strict=True)}
    parts["o"] = linear(inner.out_proj.weight, inner.out_proj.bias)
    keys = {"self": lambda x: (x, x), "keys": lambda x: (x[:, :2] + 1,) * 2, "both": lambda x: (x[:, 1:], x[:, 1:] * 2)}

    def compute(own: Any, x: Tensor) -> Tensor:
        k, v = keys[cross](x)
        heads = [m(t).unflatten(-1, (2, 2)).transpose(1, 2) for m, t in ((own.q, x), (own.k, k), (own.v, v))]
        return own.o(functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))

    def fused(own: Any, x: Tensor) -> Tensor:
        return own.at(x, *keys[cross](x), need_weights=options.get("bias", True))[0]

    return Spelled({"at": inner}, fused), Spelled(parts, compute)


def transposed(stride: int, groups: int) -> tuple[nn.Module, nn.Module]:
    inner = nn.ConvTranspose2d(
        4, 2, (2, 3), stride=stride, padding=1, output_padding=(stride - 1, 0), groups=groups, dilation=(2, 1)
    ).to(DOUBLE)
    inner.bias.data.normal_()
    geometry = {"kernel_size": (2, 3), "stride": stride, "padding": 1, "dilation": (2, 1)}
    parts = {f"g{i}": linear(w.flatten(1).mT) for i, w in enumerate(inner.weight.chunk(groups))}

    def compute(own: Any, x: Tensor) -> Tensor:
        size = [
            (n - 1) * stride - 2 + d * (k - 1) + 1 + o
            for n, d, k, o in zip((3, 3), (2, 1), (2, 3), (stride - 1, 0), strict=True)
        ]
        pieces = x.flatten(2).mT.chunk(groups, -1)
        columns = torch.cat([getattr(own, f"g{i}")(piece).mT for i, piece in enumerate(pieces)], 1)
        return functional.fold(columns, size, **geometry) + own.shift.view(-1, 1, 1)

    return inner, Spelled(parts, compute, inner.bias.detach())


def volume(stride: int) -> tuple[nn.Module, nn.Module]:
    inner = nn.Conv3d(2, 3, (2, 1, 3), stride=stride, padding=(1, 0, 1), dilation=(1, 1, 2)).to(DOUBLE)

    def compute(own: Any, x: Tensor) -> Tensor:
        padded = functional.pad(x, (1, 1, 0, 0, 1, 1))
        sizes = [(n - s) // stride + 1 for n, s in zip(padded.shape[2:], (2, 1, 5), strict=True)]
        rows = []
        for z, y, w in product(*map(range, sizes)):
            z, y, w = z * stride, y * stride, w * stride
            rows.append(padded[:, :, z : z + 2, y : y + 1, w : w + 5 : 2].flatten(1))
        return own.inner(torch.stack(rows, 1)).mT.reshape(len(x), 3, *sizes)

    return inner, Spelled({"inner": linear(inner.weight.flatten(1), inner.bias)}, compute)


class Halved(nn.Linear):
    """A linear layer with a forward pass of its own, of the same result, as of casts."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.to(x.dtype), self.bias)


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)


def bag(mode: str, form: str) -> tuple[nn.Module, nn.Module]:
    inner = nn.EmbeddingBag(7, 4, mode=mode, padding_idx=2 if form == "padding" else None).to(DOUBLE)
    shares = images(6, 3) if form == "weights" else None
    table = nn.Embedding(7, 4, padding_idx=2 if form == "padding" else None)
    table.weight = nn.Parameter(inner.weight.detach().clone())

    def compute(own: Any, x: Tensor) -> Tensor:
        rows = own.inner(x) * (1.0 if shares is None else shares.unsqueeze(-1))
        rows = rows * (x != 2).unsqueeze(-1) if form == "padding" else rows
        count = (x != 2).sum(1, keepdim=True).clamp_min(1) if form == "padding" else 3
        return rows.sum(1) / (count if mode == "mean" else 1)

    def packed(own: Any, x: Tensor) -> Tensor:
        if form == "offsets":
            return own.inner(x.flatten(), torch.arange(0, x.numel(), 3))
        return own.inner(x, per_sample_weights=shares)

    return Spelled({"inner": inner}, packed), Spelled({"inner": table}, compute)


def indices() -> Tensor:
    return torch.randint(7, (6, 3), generator=torch.Generator().manual_seed(1))


PAIRS: dict[str, tuple[Callable[[], tuple[nn.Module, nn.Module]], Callable[[], Tensor]]] = {
    "attention": (lambda: attention("self", {}), lambda: images(6, 3, 4)),
    "attention, time first": (lambda: attention("self", {"bias": False}), lambda: images(6, 3, 4)),
    "attention to other keys": (lambda: attention("keys", {}), lambda: images(6, 3, 4)),
    "attention to keys and values": (lambda: attention("both", {}), lambda: images(6, 3, 4)),
    "transposed convolution": (lambda: transposed(1, 1), lambda: images(6, 4, 3, 3)),
    "strided, grouped transposed convolution": (lambda: transposed(2, 2), lambda: images(6, 4, 3, 3)),
    "volume": (lambda: volume(1), lambda: images(6, 2, 3, 2, 3)),
    "strided volume": (lambda: volume(2), lambda: images(6, 2, 3, 2, 3)),
    "subclass": (lambda: (Halved(4, 5).to(DOUBLE), nn.Linear(4, 5).to(DOUBLE)), lambda: images(6, 4)),
    "bag, sum": (lambda: bag("sum", "plain"), indices),
    "bag, mean": (lambda: bag("mean", "offsets"), indices),
    "bag, weights": (lambda: bag("sum", "weights"), indices),
    "bag, padding": (lambda: bag("mean", "padding"), indices),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "expand": {},
    "reduce": {"sharing": "reduce"},
    "ekfac": {"damping_form": "exact", "ekfac": True},
    "type2": {"fisher": "type2"},
    "type2, reduce": {"fisher": "type2", "sharing": "reduce"},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.filterwarnings("ignore:K-FAC does not cover")  # the shift that stands for a bias
def test_a_layer_steps_as_it_does_spelled_out(pair: str, options: str) -> None:
    build, data = PAIRS[pair]
    torch.manual_seed(0)
    layers, x = build(), data()
    if pair == "subclass":
        layers[0].load_state_dict(layers[1].state_dict())
    head = nn.Linear(layers[1](x).flatten(1).shape[1], 3).to(DOUBLE)
    found, y = [], torch.arange(6) % 3
    for layer in layers:
        model = nn.Sequential(layer, nn.Tanh(), nn.Flatten(), linear(head.weight, head.bias))
        optimizer = KFAC(model, KFACConfig(terms_per_example=1, inverse_interval=1, damping=0.1, **OPTIONS[options]))
        for _ in range(2):
            optimizer.zero_grad()
            outputs = model(x)
            optimizer.observe(outputs)
            functional.cross_entropy(outputs, y).backward()
            assert not optimizer.step().failed
        found.append(model(x).detach())
    assert set(optimizer.report().others) <= {"0.shift"}
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-11)


def test_an_encoder_and_a_decoder_of_torch_are_covered_whole() -> None:
    torch.manual_seed(0)
    model = nn.Transformer(4, 2, 1, 1, 6, dropout=0.0, batch_first=True).to(DOUBLE)
    optimizer = KFAC(model, KFACConfig(terms_per_example=1, others="diagonal"))
    assert optimizer.report().uncovered == ()
    x = images(6, 3, 4)
    for _ in range(2):
        optimizer.zero_grad()
        model(x, x[:, :2]).square().mean().backward()
        assert not optimizer.step().failed
    assert len(optimizer.report().layers) == 3 * 4 + 2 * 2
    assert set(optimizer.report().others.values()) == {"diagonal"}


@pytest.mark.parametrize("batch_dim", [0, 1])
@pytest.mark.parametrize("batch_first", [True, False])
def test_the_batch_dimension_of_an_attention_is_its_own(batch_first: bool, batch_dim: int) -> None:
    """Whatever the model's layout is, an attention knows its own; here the inputs are brought into it."""
    torch.manual_seed(0)
    inner = nn.MultiheadAttention(4, 2, batch_first=batch_first).to(DOUBLE)
    x, found = images(6, 3, 4) if batch_first else images(6, 3, 4).transpose(0, 1), []
    optimizer = KFAC(inner, KFACConfig(terms_per_example=1, batch_dim=batch_dim, sharing="reduce"))
    inner(x, x, x)[0].square().sum().div(6).backward()
    optimizer.step()
    found = optimizer.kfac.factor("query", "inputs")[0]
    means = functional.pad(images(6, 3, 4).mean(1), (0, 1), value=1.0)
    torch.testing.assert_close(found, means.mT @ means / 6, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("frozen", ["in_proj_weight", "out_proj"])
def test_half_an_attention_may_be_frozen(frozen: str) -> None:
    inner = nn.Sequential(nn.Linear(4, 4), Spelled({"at": nn.MultiheadAttention(4, 2)}, lambda o, x: o.at(x, x, x)[0]))
    inner[1].at.in_proj_bias.requires_grad_(frozen == "out_proj")
    for name, p in inner[1].at.named_parameters():
        p.requires_grad_(not name.startswith(frozen) and p.requires_grad)
    optimizer = KFAC(inner, KFACConfig(terms_per_example=1))
    assert len(optimizer.report().layers) == (2 if frozen == "in_proj_weight" else 4)
    inner(torch.randn(3, 6, 4)).square().mean().backward()
    assert not optimizer.step().failed


class Mine(nn.MultiheadAttention):
    """An attention with a forward pass of its own."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return functional.linear(functional.linear(x, self.in_proj_weight[:4]), self.out_proj.weight)


class Scaled(nn.Linear):
    """A linear layer that computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, 2 * self.weight, self.bias)


UNCOVERED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "recurrent": (lambda: nn.LSTM(4, 4), "(LSTM)"),
    "recurrent cell": (lambda: nn.GRUCell(4, 4), "(GRUCell)"),
    "parametrised": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), "(ParametrizedLinear)"),
    "subclass that computes something else": (lambda: Scaled(4, 4), "(Scaled)"),
    "attention of its own": (lambda: Mine(4, 2), "(Mine), 1.out_proj (NonDynamicallyQuantizableLinear)"),
    "attention to other widths": (lambda: nn.MultiheadAttention(4, 2, kdim=3), "(MultiheadAttention), 1.out_proj"),
    "attention with extra rows": (lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True), "(MultiheadAttention)"),
    "bag of maxima": (lambda: nn.EmbeddingBag(5, 4, mode="max"), "(EmbeddingBag)"),
}


@pytest.mark.parametrize("case", UNCOVERED)
def test_what_is_not_covered_is_named_at_building_with_what_to_write(case: str) -> None:
    build, said = UNCOVERED[case]
    model = nn.ModuleList([nn.Linear(4, 4), build()])
    with pytest.warns(UserWarning, match=r"their parameters follow plain gradients.*exclude=\['1") as caught:
        optimizer = KFAC(model, KFACConfig())
    assert said in str(caught[0].message)
    assert [*optimizer.report().layers] == ["0"]
    assert KFAC(model, KFACConfig(), exclude=["1"]).report().uncovered == ()  # a warning is an error here
    assert layers_of(model, ["1"])[0].name == "0"


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler looks at it
def test_a_compiled_attention_steps_as_it_does_uncompiled() -> None:
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True).to(DOUBLE)
        optimizer = KFAC(model, KFACConfig(terms_per_example=1, factor_interval=2, inverse_interval=2))
        call = torch.compile(model, backend="eager") if compiled else model
        for _ in range(3):
            optimizer.zero_grad()
            call(images(6, 3, 4)).square().mean().backward()
            assert not optimizer.step().failed
        found.append(torch.nn.utils.parameters_to_vector(model.parameters()))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)
