"""The maximal-update parametrisation, compared with torch parameter groups and by the effect of steps at each width."""

import math

import pytest
import torch
from torch.nn import functional

from sensitivity.study.errors import StudyFileError, UserError
from sensitivity.study.trials import Pack, expand
from sensitivity.training.batches import PackBatches
from sensitivity.training.checks import check_study
from sensitivity.training.loop import train_pack
from sensitivity.training.losses import cross_entropy
from sensitivity.training.models.transformer import transformer
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.problems import Problem
from sensitivity.training.step import make_optimizer, take_step
from tests.training.plain_transformer import CLASSES, TIME, derived, plain_logits, sequences

BASE, WIDTH = 8, 24


def problem(width, parametrisation="mup", **options) -> Problem:
    return Problem(
        dataset=sequences(),
        build_model=lambda: transformer(
            (TIME,), CLASSES, width=width, parametrisation=parametrisation, base_width=BASE, **options
        ).double(),
        loss=cross_entropy,
        has_classes=True,
        outputs=CLASSES,
        shipped=True,
    )


def by_the_table(kind, p, settings):
    """The groups of table 8: hidden matrices have lr / m with Adam, others lr m with SGD; lr times decay is kept."""
    m = WIDTH / BASE
    hidden = [name for name in p if name.startswith("blocks") and "norm" not in name]
    groups = [[value for name, value in p.items() if (name in hidden) is wanted] for wanted in (True, False)]
    if kind == "sgd":
        rates = settings["lr"], settings["lr"] * m
        return torch.optim.SGD(
            [{"params": g, "lr": lr} for g, lr in zip(groups, rates, strict=True)], momentum=settings["momentum"]
        )
    decay = settings["weight_decay"]
    rows = [(groups[0], settings["lr"] / m, decay * m), (groups[1], settings["lr"], decay)]
    return torch.optim.AdamW([{"params": g, "lr": lr, "weight_decay": d} for g, lr, d in rows])


@pytest.mark.parametrize(
    "arm",
    [{"kind": "sgd", "lr": [0.1, 0.3], "momentum": 0.9}, {"kind": "adamw", "lr": [0.003, 0.03], "weight_decay": 0.5}],
    ids=["sgd", "adamw"],
)
def test_curves_equal_the_table_in_torchs_own_groups(make_study, arm):
    steps, batch = 6, 5
    spec = make_study(
        batch_sizes=[batch], budget={"steps": steps}, evaluation={"every_steps": steps}, optimizers={"a": arm}
    )
    task, data = problem(WIDTH), sequences()
    for result in train_pack(Pack(expand(spec)), task):
        torch.manual_seed(derived("init", result.trial.seed))
        p = dict(task.build_model().named_parameters())
        assert p["head.weight"].std().item() == pytest.approx(1 / math.sqrt(BASE), rel=0.2)
        optimizer = by_the_table(arm["kind"], p, dict(result.trial.hyperparameters))
        attention = math.sqrt(BASE / 2) / (WIDTH / 2)
        order = torch.randperm(30, generator=torch.Generator().manual_seed(derived("order", result.trial.seed)))
        for step in range(steps):
            rows = order[step * batch : (step + 1) * batch]
            optimizer.zero_grad()
            logits = plain_logits(p, data.train_inputs[rows], divided=WIDTH / BASE, sharpness=attention)
            functional.cross_entropy(logits.flatten(0, 1), data.train_targets[rows].flatten()).backward()
            optimizer.step()
        logits = plain_logits(p, data.test_inputs, divided=WIDTH / BASE, sharpness=attention).flatten(0, 1)
        truth = functional.cross_entropy(logits, data.test_targets.flatten()).item()
        assert result.measurements[-1].test_loss == pytest.approx(truth, rel=1e-8)


def test_at_the_base_width_it_is_the_standard_network(make_study):
    arms = {"a": {"kind": "adamw", "lr": 0.01}}
    trials = expand(make_study(batch_sizes=[6], budget={"steps": 3}, optimizers=arms))
    (ours,), (usual,) = (train_pack(Pack(trials), problem(BASE, each)) for each in ("mup", "standard"))
    assert [m.test_loss for m in ours.measurements] == [m.test_loss for m in usual.measurements]


def change(make_study, arm, width, parametrisation):
    """Return how much the last block's output changes in five steps: its mean absolute change."""
    task = problem(width, parametrisation)
    trials = expand(make_study(batch_sizes=[15], seeds=2, optimizers={"a": arm}))
    model = PackedModel(task.build_model, [trial.seed for trial in trials])
    optimizer = make_optimizer(Pack(trials), model, task)
    batches = PackBatches([trial.seed for trial in trials], task, batch_size=15, micro_batch=None, augment=False)
    seen = [last_block(model, task.dataset.train_inputs)]
    for step in range(5):
        take_step(model, task, optimizer, batches, step=step, lr_scale=1.0)
    seen.append(last_block(model, task.dataset.train_inputs))
    return (seen[1] - seen[0]).abs().mean().item()


@torch.no_grad()
def last_block(model, ids):
    found = []
    for place in range(2):
        network = model.member(place)
        network.norm.register_forward_pre_hook(lambda _, x: found.append(x[0].clone()))
        network(ids)
    return torch.stack(found)


@pytest.mark.parametrize(
    ("arm", "rises"),
    [({"kind": "adamw", "lr": 0.02}, 1.0), ({"kind": "sgd", "lr": 0.3}, None), ({"kind": "muon", "lr": 0.05}, None)],
    ids=["adamw", "sgd", "muon"],
)
def test_steps_change_activations_as_much_at_any_width(make_study, arm, rises):
    """The coordinate check of Yang et al. 2022, appendix D.1: the slope over widths, in logarithms, is about 0."""
    widths = (16, 64)
    slopes = {}
    for parametrisation in ("mup", "standard") if rises else ("mup",):
        low, high = (change(make_study, arm, width, parametrisation) for width in widths)
        slopes[parametrisation] = math.log(high / low) / math.log(widths[1] / widths[0])
    assert abs(slopes["mup"]) < 0.25
    assert rises is None or slopes["standard"] > rises / 2


def test_optimizers_without_a_width_rule_are_rejected_for_mup(make_study):
    arms = {"lion": {"kind": "lion", "lr": 0.01}, "kfac": {"kind": "kfac", "lr": 0.01, "damping": 0.1}}
    spec = make_study(batch_sizes=[6], optimizers=arms, problem={"dataset": "own:data"})
    with pytest.raises(StudyFileError) as error:
        check_study(spec, problem(WIDTH), source="test")
    assert 'optimizers.lion: parametrisation = "mup" has no rule for the learning rates of lion, only for adam' in str(
        error.value
    )
    assert "optimizers.kfac" not in str(error.value)
    check_study(spec, problem(BASE), source="test")


def test_parametrisations_have_names():
    with pytest.raises(UserError, match=r'takes "standard" or "mup"; got \'ntk\''):
        transformer((TIME,), CLASSES, parametrisation="ntk")
