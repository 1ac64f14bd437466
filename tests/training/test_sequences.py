"""Sequences with a class at each position: losses, masks, evaluation and K-FAC, compared with plain PyTorch."""

import dataclasses
import hashlib
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from sensitivity.study.errors import StudyFileError, UserError
from sensitivity.study.problem import ProblemSpec
from sensitivity.study.trials import Pack, expand
from sensitivity.training import evaluation
from sensitivity.training.batches import PackBatches
from sensitivity.training.checks import check_study
from sensitivity.training.datasets import Dataset
from sensitivity.training.datasets.own_arrays import as_tensor
from sensitivity.training.loop import train_pack
from sensitivity.training.losses import IGNORED, cross_entropy, is_ignored
from sensitivity.training.metrics import MeanOfTerms, is_correct
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.problems import Problem, load_problem
from sensitivity.training.step import make_optimizer, take_step

CLASSES, TIME = 5, 6


class Tagger(nn.Module):
    """Mixes each position with the previous one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, 4)
        self.hidden = nn.Linear(4, 4)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        return self.head(torch.tanh(self.hidden(x + torch.roll(x, 1, 1))))


def sequences(*, masked: bool = False, padded: int = 0) -> Dataset:
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(0, CLASSES, (40, TIME + 1), generator=generator)
    x, y = tokens[:, :-1], tokens[:, 1:].clone()
    if masked:
        y[torch.rand(y.shape, generator=generator) < 0.4] = IGNORED
        y[:, 0] = tokens[:, 1]
    if padded:
        x = functional.pad(x, (0, padded), value=1)
        y = functional.pad(y, (0, padded), value=IGNORED)
    return Dataset(train_inputs=x[:30], train_targets=y[:30], test_inputs=x[30:], test_targets=y[30:])


def problem(dataset: Dataset, model: type[nn.Module] = Tagger) -> Problem:
    return Problem(
        dataset=dataset,
        build_model=lambda: model().double(),
        loss=dataclasses.replace(cross_entropy, masked=bool((dataset.train_targets == IGNORED).any())),
        has_classes=True,
        outputs=CLASSES,
    )


def numbers(result):
    return [(m.step, m.train_loss, m.test_loss, m.train_accuracy, m.test_accuracy) for m in result.measurements]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("classes", [5, 40])
def test_loss_and_accuracy_are_means_over_what_is_not_ignored(classes, smoothing):
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(3, 4, TIME, classes, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, classes, (3, 4, TIME), generator=generator)
    targets[torch.rand(targets.shape, generator=generator) < 0.3] = IGNORED
    loss = dataclasses.replace(cross_entropy, masked=True)
    losses = (loss.smoothed(smoothing) if smoothing else loss)(outputs, targets)
    for k in range(3):
        kept = targets[k] != IGNORED
        rows, wanted = outputs[k][kept], targets[k][kept]
        assert losses[k].item() == pytest.approx(
            functional.cross_entropy(rows, wanted, label_smoothing=smoothing).item(), rel=1e-12
        )
        share = MeanOfTerms(is_correct)
        share.add(outputs[k : k + 1], targets[k])
        assert share.result(losses).item() == pytest.approx(
            (rows.argmax(1) == wanted).double().mean().item(), rel=1e-12
        )


def plain_run(trial, dataset, *, batch_size, steps):
    """An independent loop: torch.optim.SGD and torch's mean over targets that are not ignored."""

    def seed(purpose):
        return int.from_bytes(hashlib.sha256(f"{purpose}/{trial.seed}".encode()).digest()[:4], "big")

    torch.manual_seed(seed("init"))
    network, numbers = Tagger().double(), dict(trial.hyperparameters)
    optimizer = torch.optim.SGD(network.parameters(), lr=numbers["lr"], momentum=numbers["momentum"])
    generator = torch.Generator().manual_seed(seed("order"))
    order = torch.cat([torch.randperm(len(dataset.train_inputs), generator=generator) for _ in range(4)])
    for step in range(steps):
        rows = order[step * batch_size : (step + 1) * batch_size]
        optimizer.zero_grad()
        logits = network(dataset.train_inputs[rows])
        functional.cross_entropy(logits.flatten(0, 1), dataset.train_targets[rows].flatten()).backward()
        optimizer.step()
    found = []
    with torch.no_grad():
        for inputs, targets in (
            (dataset.train_inputs, dataset.train_targets),
            (dataset.test_inputs, dataset.test_targets),
        ):
            found.append(functional.cross_entropy(network(inputs).flatten(0, 1), targets.flatten()).item())
    return found


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_members_of_a_pack_equal_a_plain_loop(make_study, monkeypatch, masked):
    monkeypatch.setitem(evaluation._AT_ONCE, "cpu", (16, 2**19, 2**16))  # chunks have different numbers of targets
    arms = {"a": {"kind": "sgd", "lr": [0.1, 0.5], "momentum": 0.9}}
    spec = make_study(batch_sizes=[7], seeds=2, budget={"steps": 9}, optimizers=arms)
    task = problem(sequences(masked=masked))
    for result in train_pack(Pack(expand(spec)), task):
        last = result.measurements[-1]
        truth = plain_run(result.trial, task.dataset, batch_size=7, steps=9)
        assert (last.train_loss, last.test_loss) == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize(
    "arm",
    [
        {"kind": "sophia", "lr": [1e-3, 1e-2], "hessian_interval": 2},
        {"kind": "kfac", "lr": 0.1, "damping": [0.01, 0.1], "fisher": "monte_carlo", "inverse_interval": 2},
        {"kind": "kfac", "lr": 0.1, "damping": [0.01, 0.1], "fisher": "type2", "damping_form": "exact"},
    ],
    ids=["sophia", "sampled K-FAC", "exact Fisher"],
)
def test_members_equal_the_same_trials_alone(make_study, arm):
    task = problem(sequences())
    trials = expand(
        make_study(batch_sizes=[7], budget={"steps": 7}, evaluation={"every_steps": 7}, optimizers={"a": arm})
    )
    for packed in train_pack(Pack(trials), task):
        (alone,) = train_pack(Pack((packed.trial,)), task)
        for ours, theirs in zip(numbers(packed), numbers(alone), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-9)


class Pointwise(Tagger):
    """Processes each position independently, so that padding can only affect the loss."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.hidden(self.embedding(ids))))


def test_padding_changes_nothing(make_study):
    arms = {"a": {"kind": "adamw", "lr": [0.01, 0.1], "weight_decay": 0.1}}
    trials = expand(make_study(batch_sizes=[7], budget={"steps": 8}, evaluation={"every_steps": 4}, optimizers=arms))
    whole = train_pack(Pack(trials), problem(sequences(masked=True), Pointwise))
    padded = train_pack(Pack(trials), problem(sequences(masked=True, padded=3), Pointwise))
    for ours, theirs in zip(padded, whole, strict=True):
        for a, b in zip(numbers(ours), numbers(theirs), strict=True):
            assert a == pytest.approx(b, rel=1e-12)


def test_factors_of_kfac_are_those_of_the_mean_over_tokens(make_study):
    """A = mean over terms of a aᵀ, G = mean over terms of g gᵀ with g the gradient of one term, computed one by one."""
    data = sequences()
    task = problem(data)
    arm = {"kind": "kfac", "lr": 0.1, "damping": 0.1}
    trials = expand(make_study(batch_sizes=[30], seeds=2, budget={"steps": 1}, optimizers={"a": arm}))
    seeds = [trial.seed for trial in trials]
    model = PackedModel(task.build_model, seeds)
    optimizer = make_optimizer(Pack(trials), model, task)
    batches = PackBatches(seeds, task, batch_size=30, micro_batch=None, augment=False)
    take_step(model, task, optimizer, batches, step=0, lr_scale=0.0)
    state = optimizer.state()["rule"]
    found, banks = {each.layer.name: each for each in optimizer._rule._layout.placements}, state["factors"]
    for member, trial in enumerate(trials):
        network = model.member(member)
        for name in ("hidden", "head"):
            inputs, grads = term_rows(network, name, data)
            ones = torch.cat((inputs, torch.ones(len(inputs), 1, dtype=inputs.dtype)), 1)
            a = found[name].inputs.of(banks)[0, member]
            g = found[name].outputs.of(banks)[0, member]
            assert torch.allclose(a, ones.T @ ones / len(ones), rtol=1e-10), (name, trial.seed)
            assert torch.allclose(g, grads.T @ grads / len(grads), rtol=1e-10), (name, trial.seed)


def term_rows(network, name, data):
    """Return a layer's input at each position, and the gradient of the term at that position by the layer's output."""
    kept = {}
    hook = network.get_submodule(name).register_forward_hook(lambda m, x, y: kept.update(x=x[0], y=y))
    logits = network(data.train_inputs)
    hook.remove()
    rows = []
    for b, t in itertools.product(range(len(logits)), range(TIME)):
        term = functional.cross_entropy(logits[b, t][None], data.train_targets[b, t][None])
        rows.append(torch.autograd.grad(term, kept["y"], retain_graph=True)[0][b, t])
    return kept["x"].detach().flatten(0, 1), torch.stack(rows)


def test_windows_of_a_file_that_is_mapped_stay_views_of_it(tmp_path, monkeypatch):
    np.save(tmp_path / "tokens.npy", np.arange(101, dtype=np.int32) % CLASSES)
    stream = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    windows = np.lib.stride_tricks.sliding_window_view(stream, TIME + 1)[::TIME]
    inputs, targets = as_tensor(windows[:, :-1], "inputs"), as_tensor(windows[:, 1:], "targets")
    assert inputs.data_ptr() + 4 == targets.data_ptr() == stream.ctypes.data + 4
    data = Dataset(
        train_inputs=inputs[:12], train_targets=targets[:12], test_inputs=inputs[12:], test_targets=targets[12:]
    )
    assert data.to(torch.device("cpu"), torch.float64).train_inputs.data_ptr() == stream.ctypes.data
    assert data.labels(data.train_targets[[0, 2]]).tolist() == stream[[[*range(1, 7)], [*range(13, 19)]]].tolist()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda x, y: (x, y.masked_fill(y == 1, -5)),
            "from 0; got .*, the smallest -5; use -100 for positions without a loss",
        ),
        (lambda x, y: (x, y.index_fill(0, torch.tensor([2, 4]), IGNORED)), "2 of 40 sequences have no target"),
        (lambda x, y: (x[:, :4], y), r"or \[examples, 6, features\]; got int64 \[40, 4\]"),
    ],
    ids=["a negative class", "no target", "other lengths"],
)
def test_targets_that_are_none_are_refused(monkeypatch, change, said):
    data = sequences()
    x, y = change(torch.cat((data.train_inputs, data.test_inputs)), torch.cat((data.train_targets, data.test_targets)))
    whole = Dataset(train_inputs=x, train_targets=y, test_inputs=x[:3, :4], test_targets=y[:3])
    monkeypatch.setattr("sensitivity.training.problems.load_dataset", lambda *_, **__: whole)
    with pytest.raises(UserError, match=said):
        load_problem(ProblemSpec(dataset="own:data", model="own:model"))


def test_no_byte_is_taken_for_a_target_that_is_ignored():
    """156 is -100 modulo 256, which is how torch compares it."""
    assert not bool(is_ignored(torch.tensor([156], dtype=torch.uint8)).any())
    assert bool(is_ignored(torch.tensor([IGNORED])).all())


class Convolved(Tagger):
    """Has a convolution over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed = nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.mixed(self.embedding(ids).mT).mT)


@pytest.mark.parametrize(
    ("options", "model", "said"),
    [
        ({"sharing": "reduce"}, Tagger, 'sharing = "reduce" is not defined'),
        ({"batch_fraction": 0.5}, Tagger, "batch_fraction is not defined"),
        ({"damping_form": "exact", "ekfac": True}, Tagger, "EKFAC is not defined"),
        ({"others": "diagonal"}, Tagger, 'others = "diagonal" is not defined'),
        ({}, Convolved, "the convolution mixed is not covered"),
    ],
)
def test_options_undefined_for_masked_targets_are_rejected(make_study, options, model, said):
    kfac = {"kind": "kfac", "lr": 0.1, "damping": 0.1}
    arms = {"kfac": {**kfac, **options}, "sgd": {"kind": "sgd", "lr": 0.1}}
    spec = make_study(batch_sizes=[8], optimizers=arms, execution={"micro_batch": 4}, problem={"dataset": "own:data"})
    with pytest.raises(StudyFileError) as error:
        check_study(spec, dataclasses.replace(problem(sequences(masked=True), model), shipped=True), source="test")
    assert f"optimizers.kfac: {said} if some targets are masked" in str(error.value)
    assert str(error.value).count("optimizers.") == 1
    check_study(
        make_study(batch_sizes=[8], optimizers={"a": kfac}, execution={"micro_batch": 4}),
        dataclasses.replace(problem(sequences(masked=True)), shipped=True),
        source="test",
    )


class Flat(Tagger):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids)[:, -1]


def test_wrong_sequence_outputs_are_reported(make_study):
    with pytest.raises(StudyFileError, match=r"returns \[8, 5\] for 8 training examples; it must be \[8, 6, 5\]"):
        check_study(make_study(batch_sizes=[8]), problem(sequences(), Flat), source="test")
