"""Masked loss terms in parts, in packs and with each kind of optimizer, compared with dense references."""

import dataclasses
import hashlib

import pytest
import torch
from torch import nn
from torch.nn import functional

from sensitivity.study.trials import Pack, expand
from sensitivity.training.batches import PackBatches
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.loop import train_pack
from sensitivity.training.losses import IGNORED, cross_entropy
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.problems import Problem
from sensitivity.training.step import make_optimizer, take_step

CLASSES, TIME, BATCH = 5, 7, 12
KFAC = {"kind": "kfac", "lr": 0.1, "damping": [0.03, 0.1], "inverse_interval": 2}
ARMS = {
    "sgd": {"kind": "sgd", "lr": [0.1, 0.5], "momentum": 0.9},
    "adamw": {"kind": "adamw", "lr": [0.01, 0.05]},
    "sophia": {"kind": "sophia", "lr": [1e-3, 1e-2], "hessian_interval": 2},
    "kfac": KFAC,
    "clipped": {**KFAC, "kl_clip": 1e-3, "damping_rule": "levenberg_marquardt", "adapt_interval": 2},
    "sampled": {**KFAC, "fisher": "monte_carlo"},
    "exact": {**KFAC, "fisher": "type2", "damping_form": "exact"},
}


class Mixer(nn.Module):
    """Averages over previous positions like causal attention, so that tokens without a loss have gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.hidden, self.head = nn.Embedding(CLASSES, 4), nn.Linear(4, 6), nn.Linear(6, CLASSES)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.hidden(self.embedding(ids)))
        earlier = x.cumsum(-2) / torch.arange(1, x.shape[-2] + 1, dtype=x.dtype)[:, None]
        return self.head(x + earlier)


class Normalised(Mixer):
    """Normalises over a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(torch.tanh(self.hidden(self.embedding(ids))).mT).mT)


def sequences(*, padded: int = 0) -> Dataset:
    """Sequences with very different numbers of targets, from 1 to all."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(0, CLASSES, (40, TIME), generator=generator)
    y = torch.randint(0, CLASSES, (40, TIME), generator=generator)
    lengths = torch.randint(1, TIME + 1, (40, 1), generator=generator)
    y[torch.arange(TIME) >= lengths] = IGNORED
    y[(torch.rand(y.shape, generator=generator) < 0.3) & (torch.arange(TIME) + 1 < lengths)] = IGNORED
    if padded:
        x, y = functional.pad(x, (0, padded), value=2), functional.pad(y, (0, padded), value=IGNORED)
    return Dataset(train_inputs=x[:30], train_targets=y[:30], test_inputs=x[30:], test_targets=y[30:])


def problem(dataset: Dataset, model: type[nn.Module] = Mixer) -> Problem:
    return Problem(
        dataset=dataset,
        build_model=lambda: model().double(),
        loss=dataclasses.replace(cross_entropy, masked=True),
        has_classes=True,
        outputs=CLASSES,
    )


def trials_of(make_study, arm, *, seeds=2, **options):
    return expand(
        make_study(
            **{
                "batch_sizes": [BATCH],
                "seeds": seeds,
                "budget": {"steps": 6},
                "evaluation": {"every_steps": 1},
                "optimizers": {"a": arm},
                **options,
            }
        )
    )


def losses(results):
    return [[(m.train_loss, m.test_loss) for m in r.measurements] for r in results]


def assert_equal(ours, theirs):
    for a, b in zip(losses(ours), losses(theirs), strict=True):
        for one, other in zip(a, b, strict=True):
            assert one == pytest.approx(other, rel=1e-10)


@pytest.mark.parametrize("name", ARMS)
@pytest.mark.parametrize("micro_batch", [5, 1], ids=["uneven", "single examples"])
def test_parts_and_single_members_train_as_the_whole(make_study, name, micro_batch):
    trials, task = trials_of(make_study, ARMS[name]), problem(sequences())
    whole = train_pack(Pack(trials), task)
    assert_equal(train_pack(Pack(trials), task, micro_batch=micro_batch), whole)
    for trial, packed in list(zip(trials, whole, strict=True))[::3]:
        assert_equal(train_pack(Pack((trial,)), task, micro_batch=micro_batch), [packed])


@pytest.mark.parametrize("name", [name for name in ARMS if name not in ("sampled", "exact")])
def test_padding_changes_nothing(make_study, name):
    """K-FAC's sampled Fisher draws labels by position, so its draws differ; the exact Fisher is tested below."""
    trials = trials_of(make_study, ARMS[name], seeds=1)
    assert_equal(train_pack(Pack(trials), problem(sequences(padded=4))), train_pack(Pack(trials), problem(sequences())))


def one_step(make_study, arm, *, micro_batch=None, model=Mixer, padded=0):
    """Take a step with learning rate 0; return the members' networks, their batch and the optimizer."""
    trials, task = trials_of(make_study, arm), problem(sequences(padded=padded), model)
    seeds = [trial.seed for trial in trials]
    network = PackedModel(task.build_model, seeds)
    optimizer = make_optimizer(Pack(trials), network, task)
    rows = PackBatches(seeds, task, batch_size=BATCH, micro_batch=None, augment=False).next().rows
    batches = PackBatches(seeds, task, batch_size=BATCH, micro_batch=micro_batch, augment=False)
    loss, _ = take_step(network, task, optimizer, batches, step=0, lr_scale=0.0)
    return network, task.dataset, rows.expand(len(seeds), -1), optimizer, loss


def terms_of(network, x, y):
    """Return the logits of each unmasked term in order of positions, and the layers' inputs and outputs."""
    held = {}
    for name in ("embedding", "hidden", "head"):
        module = network.get_submodule(name)
        module.register_forward_hook(lambda _, i, o, name=name: held.update({name: (i[0], o)}))
    logits = network(x)
    return logits[y != IGNORED], held


def dense_factors(network, x, y, name, slopes):
    """A and G from their definition, row by row: (1/M) Σ a aᵀ and (1/R) Σ g gᵀ over rows with a gradient.

    `slopes` maps the logits of unmasked terms to scalars with the summed gradients of the terms.
    """
    terms, held = terms_of(network, x, y)
    inputs, outputs = held[name]
    grads = [torch.autograd.grad(each, outputs, retain_graph=True)[0].flatten(0, 1) for each in slopes(terms)]
    reached = torch.stack([(g != 0).any(1) for g in grads]).any(0)
    rows = functional.one_hot(inputs, CLASSES) if name == "embedding" else inputs
    rows = rows.flatten(0, 1)[reached].double()
    if name != "embedding":
        rows = torch.cat((rows, torch.ones(len(rows), 1)), 1)
    return rows.T @ rows / len(terms), sum(g.T @ g for g in grads) / reached.sum()


def empirical(y, _):
    return lambda terms: [functional.cross_entropy(terms, y[y != IGNORED], reduction="sum")]


def exact(y, _):
    def slopes(terms):
        p = terms.detach().softmax(1)
        for c in range(CLASSES):
            root = p[:, c].sqrt()
            yield (terms * (root[:, None] * (functional.one_hot(torch.tensor(c), CLASSES) - p))).sum()

    return slopes


def sampled(y, seed):
    """Labels drawn as documented: one uniform number per position, from the member's generator."""
    word = hashlib.sha256(f"fisher/{seed}".encode()).digest()[:4]
    drawn = torch.rand(
        y.numel(), generator=torch.Generator().manual_seed(int.from_bytes(word, "big")), dtype=torch.float64
    )

    def slopes(terms):
        p = terms.detach().softmax(1)
        below = drawn[(y != IGNORED).flatten()][:, None] > p.cumsum(1)
        yield functional.cross_entropy(terms, below.sum(1), reduction="sum")

    return slopes


@pytest.mark.parametrize("micro_batch", [None, 5, 1])
@pytest.mark.parametrize(
    ("name", "reference"),
    [("kfac", empirical), ("sampled", sampled), ("exact", exact)],
    ids=["own", "sampled", "type 2"],
)
def test_factors_are_those_of_the_rows_that_the_loss_depends_on(make_study, name, reference, micro_batch):
    network, data, every_row, optimizer, _ = one_step(make_study, ARMS[name], micro_batch=micro_batch, padded=2)
    banks, diagonals = optimizer.state()["rule"]["factors"], optimizer.state()["rule"]["diagonals"]
    seeds = [trial.seed for trial in trials_of(make_study, ARMS[name])]
    for member, rows in enumerate(every_row):
        x, y = data.train_inputs[rows], data.train_targets[rows]
        for place in optimizer._rule._layout.placements:
            layer = place.layer.name
            a, g = dense_factors(network.member(member), x, y, layer, reference(y, seeds[member]))
            found = diagonals[layer][member].diag() if place.inputs is None else place.inputs.of(banks)[0, member]
            torch.testing.assert_close(found, a, rtol=1e-10, atol=1e-14)
            torch.testing.assert_close(place.outputs.of(banks)[0, member], g, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("micro_batch", [None, 5, 1])
def test_sophias_curvature_is_that_of_the_terms_that_have_a_loss(make_study, micro_batch):
    """β-averaged from 0: h = (1 − β₂) ĝ² M/B, ĝ the gradient of the mean over the M kept terms' sampled labels."""
    arm = {**ARMS["sophia"], "lr": 1e-3}
    network, data, every_row, optimizer, _ = one_step(make_study, arm, micro_batch=micro_batch)
    trials = trials_of(make_study, arm)
    for member, (rows, trial) in enumerate(zip(every_row, trials, strict=True)):
        x, y = data.train_inputs[rows], data.train_targets[rows]
        module = network.member(member)
        terms, _ = terms_of(module, x, y)
        word = hashlib.sha256(f"sophia/{trial.seed}/0".encode()).digest()[:4]
        generator = torch.Generator().manual_seed(int.from_bytes(word, "big"))
        drawn = torch.rand(len(terms), generator=generator, dtype=torch.float64)
        labels = (drawn[:, None] > terms.detach().softmax(1).cumsum(1)).sum(1)
        named = dict(module.named_parameters())
        grads = torch.autograd.grad(functional.cross_entropy(terms, labels), list(named.values()))
        for name, g in zip(named, grads, strict=True):
            wanted = (1 - 0.99) * g.square() * len(terms) / (BATCH * TIME)
            found = optimizer.state()["rule"]["curvature"][name][member]
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-18)


@pytest.mark.parametrize("name", ["sgd", "kfac"])
def test_ghost_batches_weigh_by_the_terms_of_the_whole_batch(make_study, name):
    """Each part is normalised separately, and its gradient is weighted by its share of the batch's terms."""
    ghost = {"problem": {"ghost_batch": 4}}
    arm = {**ARMS[name], "lr": 0.5}
    trials, task = trials_of(make_study, arm, **ghost), problem(sequences(), Normalised)
    seeds = [trial.seed for trial in trials]
    model = PackedModel(task.build_model, seeds)
    optimizer = make_optimizer(Pack(trials), model, task)
    before = {key: p.detach().clone() for key, p in model.params.items()}
    rows = PackBatches(seeds, task, batch_size=BATCH, micro_batch=None, augment=False).next().rows
    batches = PackBatches(seeds, task, batch_size=BATCH, micro_batch=4, augment=False)
    loss, _ = take_step(model, task, optimizer, batches, step=0, lr_scale=1.0)
    for member in range(len(trials)):
        network = Normalised().double()
        network.load_state_dict({key: p[member] for key, p in before.items()}, strict=False)
        kept = (task.dataset.train_targets[rows.expand(len(seeds), -1)[member]] != IGNORED).sum()
        total = 0.0
        for part in rows.expand(len(seeds), -1)[member].split(4):
            logits = network(task.dataset.train_inputs[part])
            y = task.dataset.train_targets[part]
            total = total + functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum") / kept
        assert loss[member].item() == pytest.approx(total.item(), rel=1e-10)
        total.backward()
        if name == "sgd":
            for key, p in network.named_parameters():
                moved = (before[key] - model.params[key].detach())[member] / 0.5
                torch.testing.assert_close(moved, p.grad, rtol=1e-9, atol=1e-12)
    assert_equal(
        train_pack(Pack(trials), task),
        train_pack(Pack(trials_of(make_study, arm)), task, micro_batch=4),
    )
