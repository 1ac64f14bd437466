"""The transformer compared with a plain reference, and in packs with single members, for each optimizer."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional

from sensitivity.study.errors import UserError
from sensitivity.study.problem import ProblemSpec
from sensitivity.study.trials import Pack, expand
from sensitivity.training import packed_composed
from sensitivity.training.loop import train_pack
from sensitivity.training.losses import cross_entropy
from sensitivity.training.models.transformer import transformer
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.problems import Problem, load_problem
from tests.training.plain_transformer import CLASSES, TIME, derived, plain_logits, sequences

WIDTH = 8
VARIANTS = {
    "learnt": {},
    "rotary": {"positions": "rotary"},
    "tied": {"tied": True},
    "dropout": {"dropout": 0.3},
}


def problem(**options) -> Problem:
    return Problem(
        dataset=sequences(),
        build_model=lambda: transformer((TIME,), CLASSES, width=WIDTH, **options).double(),
        loss=cross_entropy,
        has_classes=True,
        outputs=CLASSES,
        shipped=True,
    )


def numbers(result):
    return [(m.step, m.train_loss, m.test_loss, m.train_accuracy, m.test_accuracy) for m in result.measurements]


@pytest.mark.parametrize("variant", ["learnt", "rotary", "tied"])
def test_the_transformer_equals_the_reference_alone_and_in_packs(monkeypatch, variant):
    build = problem(**VARIANTS[variant]).build_model
    ids = torch.stack((sequences().train_inputs[:3], sequences().train_inputs[3:6]))
    for apart in (0, 10**9):
        monkeypatch.setattr(packed_composed, "_SEPARATE_FROM", apart)
        pack = PackedModel(build, [4, 9])
        outputs, _ = pack.train_outputs(ids, record=False)
        for k in range(2):
            own = {name: parameter[k] for name, parameter in pack.params.items()}
            assert torch.allclose(outputs[k], plain_logits(own, ids[k]), rtol=1e-12, atol=1e-12)
            assert torch.allclose(pack.member(k)(ids[k]), outputs[k], rtol=1e-12, atol=1e-12)


def test_no_position_sees_a_later_one():
    network, ids = problem().build_model(), sequences().train_inputs[:2]
    changed = ids.clone()
    changed[:, 3] = (changed[:, 3] + 1) % CLASSES
    differs = (network(ids) != network(changed)).any(-1).any(0)
    assert differs.tolist() == [False, False, False, True, True]


def plain_run(trial, options, steps, batch_size):
    """Train the reference network with torch's optimizers on independently drawn data."""
    torch.manual_seed(derived("init", trial.seed))
    network, settings = problem(**options).build_model(), dict(trial.hyperparameters)
    p = dict(network.named_parameters())
    if trial.settings["kind"] == "sgd":
        optimizer = torch.optim.SGD(p.values(), lr=settings["lr"], momentum=settings["momentum"])
    else:
        betas = (settings["beta1"], settings["beta2"])
        optimizer = torch.optim.AdamW(p.values(), lr=settings["lr"], betas=betas, weight_decay=settings["weight_decay"])
    data, generator = sequences(), torch.Generator().manual_seed(derived("order", trial.seed))
    order = torch.cat([torch.randperm(30, generator=generator) for _ in range(steps * batch_size // 30 + 1)])
    for step in range(steps):
        rows = order[step * batch_size : (step + 1) * batch_size]
        optimizer.zero_grad()
        logits = plain_logits(p, data.train_inputs[rows]).flatten(0, 1)
        functional.cross_entropy(logits, data.train_targets[rows].flatten()).backward()
        optimizer.step()
    with torch.no_grad():
        logits = plain_logits(p, data.test_inputs).flatten(0, 1)
        return functional.cross_entropy(logits, data.test_targets.flatten()).item()


@pytest.mark.parametrize("variant", ["learnt", "rotary", "tied"])
@pytest.mark.parametrize(
    "arm",
    [
        {"kind": "sgd", "lr": [0.1, 0.5], "momentum": 0.9},
        {"kind": "adamw", "lr": [0.003, 0.03], "weight_decay": 0.1},
    ],
    ids=["sgd", "adamw"],
)
def test_curves_equal_a_loop_of_plain_pytorch(make_study, variant, arm):
    spec = make_study(
        batch_sizes=[6], seeds=2, budget={"steps": 8}, evaluation={"every_steps": 8}, optimizers={"a": arm}
    )
    for result in train_pack(Pack(expand(spec)), problem(**VARIANTS[variant])):
        truth = plain_run(result.trial, VARIANTS[variant], steps=8, batch_size=6)
        assert result.measurements[-1].test_loss == pytest.approx(truth, rel=1e-8), result.trial.label()


KFAC = {"kind": "kfac", "lr": [0.01, 0.1], "damping": 0.1, "inverse_interval": 2}
ARMS = {
    "kfac": KFAC,
    "diagonal": {**KFAC, "others": "diagonal", "fisher": "monte_carlo"},
    "muon": {"kind": "muon", "lr": [0.01, 0.1]},
    "soap": {"kind": "soap", "lr": [1e-3, 1e-2]},
    "adamw": {"kind": "adamw", "lr": [1e-3, 1e-2]},
}


@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
@pytest.mark.parametrize(
    ("arm", "variant"),
    [("kfac", "learnt"), ("diagonal", "learnt"), ("muon", "rotary"), ("soap", "learnt"), ("adamw", "dropout")],
)
def test_members_of_a_pack_equal_the_same_trials_alone(make_study, monkeypatch, arm, variant, apart):
    monkeypatch.setattr(packed_composed, "_SEPARATE_FROM", 0 if apart else 10**9)
    task = problem(**VARIANTS[variant])
    spec = make_study(
        batch_sizes=[6], seeds=2, budget={"steps": 6}, evaluation={"every_steps": 3}, optimizers={"a": ARMS[arm]}
    )
    trials = expand(spec)
    for trial, packed in zip(trials, train_pack(Pack(trials), task), strict=True):
        (alone,) = train_pack(Pack((trial,)), task)
        for ours, theirs in zip(numbers(packed), numbers(alone), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-8)


def test_models_with_unknown_layers_use_their_own_code():
    class Other(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    def build():
        network = problem().build_model()
        network.head = Other(WIDTH, CLASSES).double()
        return network

    pack, ids = PackedModel(build, [0, 1]), sequences().train_inputs[:2]
    assert pack._layers is None
    outputs = pack.eval_outputs(ids)
    assert "performance drop" in pack._loops
    assert torch.allclose(outputs[1], pack.member(1)(ids))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"heads": 3}, r"heads: 3 heads must divide width = 8 into parts of equal size"),
        (
            {"heads": 8, "positions": "rotary"},
            r"heads: 8 heads must divide width = 8 into parts of equal and even size",
        ),
        ({"positions": "sine"}, r'positions: transformer takes "learnt" or "rotary"; got \'sine\''),
        ({"tied": 1}, r"tied: transformer takes true or false; got 1"),
        ({"depth": 0}, r"depth: transformer takes a whole number >= 1; got 0"),
        ({"dropout": 1.0}, r"dropout: transformer takes a number >= 0 and < 1; got 1"),
    ],
)
def test_arguments_that_do_not_fit_are_named(options, said):
    with pytest.raises(UserError, match=rf"problem\.model_arguments\.{said}"):
        transformer((TIME,), CLASSES, width=WIDTH, **options)


@pytest.mark.parametrize(
    ("change", "model", "said"),
    [
        (
            {},
            "perceptron",
            r"perceptron takes no sequences as own:data has .*\n  Here use model = \"transformer\"",
        ),
        (
            {"train_inputs": torch.zeros(30, TIME)},
            "transformer",
            r"must be ids of that shape, .* got float32 \[30, 5\]",
        ),
        ({"test_inputs": torch.full((10, TIME), 9)}, "transformer", r"ids from 0 to below .* 7; inputs have 0 to 9"),
    ],
    ids=["a perceptron for text", "numbers for a transformer", "ids out of range"],
)
def test_data_and_models_that_do_not_fit_are_named(monkeypatch, change, model, said):
    data = dataclasses.replace(sequences(), **change)
    monkeypatch.setattr("sensitivity.training.problems.load_dataset", lambda *_, **__: data)
    with pytest.raises(UserError, match=said):
        load_problem(ProblemSpec(dataset="own:data", model=model))


def test_a_transformer_for_images_is_refused():
    with pytest.raises(UserError, match=r"transformer takes no such inputs as digits has them"):
        load_problem(ProblemSpec(model="transformer"))
