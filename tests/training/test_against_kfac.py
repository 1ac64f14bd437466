"""Packs with K-FAC compared with `sensitivity.kfac.KFAC` on single networks: attention, unused and late layers."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from sensitivity.kfac import KFAC, KFACConfig
from sensitivity.study.trials import Pack, expand
from sensitivity.training.batches import MicroBatch
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.losses import cross_entropy
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.problems import Problem
from sensitivity.training.random_states import initialised
from sensitivity.training.step import make_optimizer, take_step


class Conditional(nn.Module):
    """Two layers of which each call uses one, and an unused layer; `late` is used from the third step on."""

    def __init__(self, late: bool = False) -> None:
        super().__init__()
        self.first, self.left, self.right = nn.Linear(12, 5), nn.Linear(5, 3), nn.Linear(5, 3)
        self.aux, self.late, self.calls = nn.Linear(5, 5), late, 0

    def forward(self, x):
        self.calls += 1
        go_left = self.calls < 3 if self.late else self.calls % 2 == 0
        return (self.left if go_left else self.right)(torch.tanh(self.first(x.flatten(1))))


class Pooled(nn.Module):
    """A torch encoder, pooled over time."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.inner(x).mean(1))


class Causal(nn.Module):
    """Torch attention, time first, with keys of a different length and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.MultiheadAttention(4, 2), nn.Linear(4, 3)

    def forward(self, x):
        x = x.transpose(0, 1)
        keys = x[:2]
        mask = torch.ones(3, 2, dtype=torch.bool).triu(1)
        return self.head(self.inner(x, keys, keys, attn_mask=mask)[0].mean(0))


class Volume(nn.Module):
    """A three-dimensional convolution and a transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv3d(1, 2, 2), nn.ConvTranspose3d(2, 1, 2, stride=2, output_padding=1)
        self.head = nn.Linear(45, 3)

    def forward(self, x):
        x = torch.tanh(self.down(x.unflatten(2, (2, 2)).unsqueeze(1)))
        return self.head(torch.tanh(self.up(x)).flatten(1))


class Tied(nn.Module):
    """A tied embedding of three tokens, multiplied by a module or a function."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.words, self.inner, self.form = nn.Embedding(3, 4), nn.Linear(4, 4), form
        if form == "module":
            self.head = nn.Linear(4, 3)
            self.head.weight = self.words.weight

    def forward(self, x):
        h = torch.tanh(self.inner(self.words((x[..., 0] > 0).long() + (x[..., 1] > 0)))).mean(1)
        if self.form == "module":
            return self.head(h)
        return h @ self.words.weight.T if self.form == "at" else functional.linear(h, self.words.weight)


class Bags(nn.Module):
    """Means of token embeddings, with the first token as padding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.EmbeddingBag(3, 4, mode="mean", padding_idx=0), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.words((x[..., 0] > 0).long() + (x[..., 1] > 0))))


MODELS = {
    "bags of words": Bags,
    "tied module": lambda: Tied("module"),
    "tied by a function": lambda: Tied("linear"),
    "tied by a product": lambda: Tied("at"),
    "encoder": Pooled,
    "attention, time first": Causal,
    "conditional": Conditional,
    "late": lambda: Conditional(late=True),
    "volume": Volume,
}


class Given:
    def __init__(self, inputs, targets):
        self.inputs, self.targets = inputs, targets

    def draw(self):
        yield MicroBatch(self.inputs, self.targets, 1.0)


def batch(member, step):
    generator = torch.Generator().manual_seed(100 * member + step)
    return torch.randn(8, 3, 4, generator=generator, dtype=torch.float64), torch.randint(3, (8,), generator=generator)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # vmap does not support one kind of attention
@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("model", MODELS)
def test_a_member_of_a_pack_is_the_optimizer_alone(make_study, model, members):
    def build():
        return MODELS[model]().double()

    x, y = batch(0, 0)
    data = Dataset(train_inputs=x, train_targets=y, test_inputs=x, test_targets=y)
    problem = Problem(dataset=data, build_model=build, loss=cross_entropy, has_classes=True, outputs=3)
    arm = {"kind": "kfac", "lr": 0.1, "damping": 0.1, "weight_decay": 0.01, "inverse_interval": 2}
    trials = expand(make_study(batch_sizes=[8], seeds=members, budget={"steps": 6}, optimizers={"a": arm}))
    packed = PackedModel(build, [trial.seed for trial in trials])
    optimizer = make_optimizer(Pack(trials), packed, problem)
    networks = [initialised(build, trial.seed) for trial in trials]
    config = KFACConfig(lr=0.1, damping=0.1, weight_decay=0.01, inverse_interval=2, terms_per_example=1)
    alone = [KFAC(network, config) for network in networks]
    packed.network.calls = 0
    for step in range(6):
        together = [batch(member, step) for member in range(members)]
        given = Given(*map(torch.stack, zip(*together, strict=True)))
        if hasattr(packed.network, "calls") and members > 1:
            packed.network.calls = step  # attempts with vmap and members that run one by one are counted separately
        _, failed = take_step(packed, problem, optimizer, given, step=step, lr_scale=1.0)
        assert failed is None or not failed.any()
        for network, own, (x, y) in zip(networks, alone, together, strict=True):
            own.zero_grad()
            functional.cross_entropy(network(x), y).backward()
            assert not own.step().failed
        for member, network in enumerate(networks):
            for name, p in network.named_parameters():
                torch.testing.assert_close(packed.params[name][member].detach(), p.detach(), rtol=1e-8, atol=1e-11)


def test_members_that_use_different_layers_are_rejected():
    class ByData(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            return (self.left if x.sum().item() > 0 else self.right)(x)

    pack = PackedModel(ByData, [0, 1])
    inputs = torch.stack([torch.ones(4, 3), -torch.ones(4, 3)])
    with pytest.raises(RuntimeError, match=r"differently in one step \(left, right\).*execution\.pack_size = 1"):
        pack.train_outputs(inputs, record=True)
    assert pack.train_outputs(inputs, record=False)[0].shape == (2, 4, 2)
