"""Growing evaluation intervals: when each split is measured, its effects, and when divergence is found."""

import io
import math

import pytest
import torch
from torch import nn

from sensitivity.store.writer import result_row
from sensitivity.study.results import Measurement, RunResult, Status
from sensitivity.study.schedule import evaluation_steps, training_steps
from sensitivity.study.trials import Pack, expand
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.loop import train_pack
from sensitivity.training.losses import cross_entropy, squared_error
from sensitivity.training.members import DivergenceMonitor
from sensitivity.training.problems import Problem

SGD = {"kind": "sgd", "lr": [0.01, 0.1], "momentum": [0.0, 0.9]}
KFAC = {"kind": "kfac", "lr": [0.01, 0.05], "damping": [0.1, 0.5], "inverse_interval": 2, "kl_clip": 1e-2}
SIZES = {"train_size": 120, "batch_size": 10}
"""Epochs of 12 steps: the training split is measured at 0, 12, 24, 50, 103, ... and at the end."""


@pytest.fixture(scope="module")
def task():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(150, 6, generator=generator, dtype=torch.float64)
    y = (x @ torch.randn(6, 3, generator=generator, dtype=torch.float64)).argmax(1)
    return Problem(
        dataset=Dataset(train_inputs=x[:120], train_targets=y[:120], test_inputs=x[120:], test_targets=y[120:]),
        build_model=lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double(),
        loss=cross_entropy,
        has_classes=True,
        outputs=3,
    )


def study(make_study, **changes):
    return make_study(**{"batch_sizes": [10], "budget": {"steps": 60}, **changes})


def trained_numbers(result):
    return [(m.step, m.lr, m.flops, m.effective_lr, m.test_loss, m.test_accuracy) for m in result.measurements]


def training_numbers(result):
    return [(m.step, m.train_loss, m.train_accuracy) for m in result.measurements if not math.isnan(m.train_loss)]


@pytest.mark.parametrize("arm", [SGD, KFAC], ids=["sgd", "kfac"])
def test_members_equal_the_same_trials_alone(make_study, task, arm):
    trials = expand(study(make_study, optimizers={"a": arm}))
    for trial, packed in zip(trials, train_pack(Pack(trials), task), strict=True):
        (alone,) = train_pack(Pack((trial,)), task)
        spacing, sizes = trial.workload.evaluation, {"total": 60, **SIZES}
        assert [m.step for m in packed.measurements] == [0, *evaluation_steps(spacing, **sizes)]
        assert [step for step, *_ in training_numbers(packed)] == [0, *training_steps(spacing, **sizes)]
        for of in (trained_numbers, training_numbers):
            for ours, theirs in zip(of(packed), of(alone), strict=True):
                assert ours == pytest.approx(theirs, rel=1e-9, nan_ok=True)


@pytest.mark.parametrize("at", [1, 12, 50, 55])
def test_resuming_at_any_evaluation_gives_the_same_results(make_study, task, at):
    pack, kept = Pack(expand(study(make_study, optimizers={"a": {**KFAC, "lr": [0.01, 1e6]}}))), []

    def keep(training):
        if training.done == at and not kept:
            torch.save(training.state(), buffer := io.BytesIO())
            kept.append(buffer)

    whole = train_pack(pack, task, on_check=keep)
    kept[0].seek(0)
    resumed = train_pack(pack, task, resume=torch.load(kept[0], weights_only=True))
    for a, b in zip(whole, resumed, strict=True):
        assert (a.status, a.steps, a.message) == (b.status, b.steps, b.message)
        assert repr(trained_numbers(a)) == repr(trained_numbers(b))
        assert training_numbers(a) == training_numbers(b)


def test_training_targets_add_measurements_and_change_nothing_else(make_study, task):
    """Such a target may be added to a finished study without changing its runs."""
    arms = {"a": {"kind": "sgd", "lr": [0.01, 0.05, 0.1, 3.0], "momentum": 0.9, "prune": "median"}}
    settings = {"optimizers": arms, "evaluation": {"divergence_bound": 1.5}}
    sparse, dense = (expand(study(make_study, **settings, **more)) for more in ({}, {"targets": {"train_loss": [0.1]}}))
    assert [trial.id for trial in sparse] == [trial.id for trial in dense]
    runs = train_pack(Pack(sparse), task), train_pack(Pack(dense), task)
    assert {run.status for run in runs[0]} == {Status.COMPLETED, Status.STOPPED, Status.DIVERGED}
    for few, many in zip(*runs, strict=True):
        assert (few.status, few.steps, few.message) == (many.status, many.steps, many.message)
        assert repr(trained_numbers(few)) == repr(trained_numbers(many))
        assert set(training_numbers(few)) < set(training_numbers(many))
        assert len(training_numbers(many)) == len(many.measurements)


def test_search_targets_on_the_training_split_are_measured(make_study):
    def asked(search):
        return expand(study(make_study, optimizers={"a": SGD}, search=search))[0].workload.training_asked

    assert asked({"objective": "steps_to_target", "target": {"train_accuracy": 0.9}})
    assert not asked({"objective": "steps_to_target", "target": {"test_accuracy": 0.9}})
    assert not asked({"objective": "train_loss"}), "that at the end is measured in any case"


def above(*steps, trials=1, of=100):
    """Return losses ``[steps, trials]`` that are 1, and 3 at `steps`."""
    losses = torch.ones(of, trials)
    losses[list(steps)] = 3.0
    return losses


@pytest.mark.parametrize("look_every", [1, 7, 100])
@pytest.mark.parametrize(
    ("steps", "found"),
    [
        (range(20, 24), 23),  # the fourth in a row
        (range(20, 100), 23),
        ((20, 21, 22, 24, 25, 26), None),  # never four in a row
        ((0, 1, 2, 3), 3),
        ((), None),
    ],
)
def test_consecutive_batches_above_the_bound_are_found_at_any_check(look_every, steps, found):
    monitor, faults = DivergenceMonitor(1, patience=4), []
    for step, losses in enumerate(above(*steps)):
        monitor.observe(step, losses, None)
        if step % look_every == look_every - 1:
            faults = monitor.faults([2.0])
    faults = faults or monitor.faults([2.0])
    assert [(fault.step, fault.kind) for fault in faults] == (
        [] if found is None else [(found, "loss above the bound")]
    )


def test_the_first_fault_of_each_member_counts():
    monitor = DivergenceMonitor(4, patience=2)
    nan, inf = math.nan, math.inf
    seen = [[1, 1, 1, 1], [3, 3, 1, 1], [3, nan, inf, 1], [nan, 3, 1, 1]]
    for step, losses in enumerate(seen):
        monitor.observe(step, torch.tensor(losses, dtype=torch.float32), torch.tensor([False, False, step == 1, False]))
    faults = monitor.faults([2.0] * 4)
    assert [(fault.place, fault.step, fault.kind) for fault in faults] == [
        (0, 2, "loss above the bound"),
        (1, 2, "loss not finite"),
        (2, 1, "update failed"),
    ]
    monitor.select([3, 0])
    assert [(fault.place, fault.step) for fault in monitor.faults([2.0] * 2)] == [(1, 2)]


@pytest.mark.parametrize("members", [1, 3])
def test_divergence_between_evaluations_is_found_within_an_epoch(make_study, monkeypatch, members):
    """Least squares, with a loss that grows by a factor per step but stays finite after an unstable warm-up."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(120, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(120, 1, generator=generator, dtype=torch.float64)
    data = Dataset(train_inputs=x, train_targets=y, test_inputs=x[:9], test_targets=y[:9])
    line = Problem(
        dataset=data,
        build_model=lambda: nn.Sequential(nn.Linear(4, 1)).double(),
        loss=squared_error,
        has_classes=False,
        outputs=1,
    )
    spec = study(
        make_study,
        budget={"steps": 100},
        schedule={"warmup_epochs": 100 / 12},
        optimizers={"a": {"kind": "sgd", "lr": [*(0.1, 0.2, 0.3)[:members], 3.0]}},
    )
    losses, observe = {}, DivergenceMonitor.observe

    def spy(self, step, batch, failed):
        losses[step] = batch[-1].item()
        observe(self, step, batch, failed)

    monkeypatch.setattr(DivergenceMonitor, "observe", spy)
    *calm, wild = train_pack(Pack(expand(spec)), line)
    (alone,) = train_pack(Pack((wild.trial,)), line)
    assert {run.status for run in calm} == {Status.COMPLETED}
    assert (alone.status, alone.steps, alone.message) == (wild.status, wild.steps, wild.message)
    assert wild.status is Status.DIVERGED
    assert "10 batches in a row above the bound" in wild.message
    bound = 10 * wild.measurements[0].train_loss
    assert wild.steps - max(step for step in range(wild.steps) if losses[step] <= bound) == 10
    assert all(math.isnan(m.train_loss) for m in wild.measurements if m.step > wild.steps - 10), "not by the split"


def test_the_runs_table_has_the_last_finite_value_of_each_split(make_study):
    def at(step, train_loss, test_loss):
        return Measurement(
            step=step, epoch=step, lr=0.1, train_seconds=0.0, flops=0.0,
            train_loss=train_loss, train_accuracy=train_loss / 10, test_loss=test_loss, test_accuracy=test_loss / 10,
        )  # fmt: skip

    (trial,) = expand(study(make_study, optimizers={"a": {"kind": "sgd", "lr": 0.1}}))
    curve = (at(0, 2.0, 2.1), at(1, math.nan, 1.5), at(2, 1.0, 1.2), at(3, math.nan, 1.1), at(4, math.nan, math.inf))
    row = result_row(RunResult(trial=trial, status=Status.DIVERGED, measurements=curve))
    assert (row["initial_train_loss"], row["train_loss"], row["train_accuracy"]) == (2.0, 1.0, 0.1)
    assert (row["test_loss"], row["test_accuracy"]) == (1.1, pytest.approx(0.11))
