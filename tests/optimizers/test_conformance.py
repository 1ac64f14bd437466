"""One suite over every registered optimizer: results do not depend on the pack."""

import io
import math

import pytest
import torch
from torch.utils._pytree import tree_flatten_with_path

from sensitivity.study.arms import OWN, arm_class, kinds
from sensitivity.study.axes import Axis
from sensitivity.study.errors import StudyFileError
from sensitivity.study.hyperparameters import hyperparameter
from sensitivity.study.load import parse_study
from sensitivity.study.results import Status
from sensitivity.study.trials import Pack
from sensitivity.training import packed_model
from sensitivity.training.loop import train_pack
from sensitivity.training.pack_training import PackTraining
from tests.optimizers.cases import ARMS, WILD, losses, pack, problem


def test_every_registered_optimizer_is_here():
    ours = {kind if ":" not in kind else OWN for kind in ARMS} | {"newton"}  # its only problem has separate tests
    assert set(kinds()) == ours


@pytest.mark.parametrize("kind", ARMS)
def test_members_equal_their_trials_alone_despite_a_diverging_one(kind):
    together = train_pack(pack(kind, steps=50, every=10, lr=[*ARMS[kind]["lr"], WILD]), problem())
    calm = [result for result in together if dict(result.trial.hyperparameters)["lr"] != WILD]
    assert len(calm) == 4
    assert {result.status for result in together} == {Status.COMPLETED, Status.DIVERGED}
    for result in together:
        if result in calm:
            (alone,) = train_pack(Pack((result.trial,)), problem())
            assert result.status == Status.COMPLETED
            assert losses(result) == pytest.approx(losses(alone), rel=1e-10)
            assert result.measurements[-1].train_loss < result.measurements[0].train_loss, "it learns"
        else:
            assert result.status == Status.DIVERGED
            assert result.steps < 50, "it was dropped"


@pytest.mark.parametrize("kind", ARMS)
def test_resumed_training_is_bitwise_equal(kind):
    goes_on_to_the_bit(pack(kind, steps=30, seeds=2, lr=[ARMS[kind]["lr"][0], WILD]))


@pytest.mark.parametrize(("kind", "name"), [("rmsprop", "momentum"), ("kfac", "weight_decay")])
def test_resuming_after_dropping_members_of_another_form(kind, name):
    both = pack(kind, steps=30, lr=[ARMS[kind]["lr"][0], WILD], **{name: [0.0, 0.01]}).trials
    used = {False: ARMS[kind]["lr"][0], True: WILD}
    values = [dict(trial.hyperparameters) for trial in both]
    goes_on_to_the_bit(Pack(tuple(t for t, row in zip(both, values, strict=True) if row["lr"] == used[row[name] > 0])))


def goes_on_to_the_bit(trained):
    kept = []

    def look(training):
        if training.done == 15 and not kept:
            kept.append(io.BytesIO())
            torch.save(training.state(), kept[0])

    whole = train_pack(trained, problem(), on_check=look)
    kept[0].seek(0)
    state = torch.load(kept[0], weights_only=True)
    resumed = train_pack(trained, problem(), resume=state)
    for one, other in zip(whole, resumed, strict=True):
        assert losses(one)[8:] == losses(other)[8:] or one.status == Status.DIVERGED
        assert (one.status, one.steps, one.message) == (other.status, other.steps, other.message)


@pytest.mark.parametrize("kind", ARMS)
def test_parameters_may_be_side_by_side_or_apart(kind, monkeypatch):
    clip = {} if kind == "kfac" else {"clip_norm": 0.5}
    found, trained = [], pack(kind, steps=8, every=4, lr=[ARMS[kind]["lr"][0], WILD], **clip)
    for joined in (True, False):
        monkeypatch.setattr(packed_model, "are_joined", lambda params, trials, joined=joined: joined)
        training = PackTraining(trained, problem(), micro_batch=None)
        training.measure()
        training.advance(8)
        training.measure()
        found.append((training.results(), training.state()["optimizer"]["rule"]))
    for one, other in zip(found[0][0], found[1][0], strict=True):
        assert losses(one) == pytest.approx(losses(other), rel=1e-12)
    named = [[key for key, _ in tree_flatten_with_path(state)[0]] for _, state in found]
    assert named[0] == named[1], "states are by name, whatever they lie in"


@pytest.mark.parametrize("kind", ARMS)
def test_a_batch_in_parts_trains_as_the_whole(kind):
    whole = train_pack(pack(kind, steps=9, every=3), problem())
    parts = train_pack(pack(kind, steps=9, every=3), problem(), micro_batch=7)
    for one, other in zip(whole, parts, strict=True):
        assert losses(other) == pytest.approx(losses(one), rel=1e-8)


@pytest.mark.parametrize("kind", ARMS)
def test_measuring_more_often_changes_nothing(kind):
    often = train_pack(pack(kind, steps=10, every=1), problem())
    seldom = train_pack(pack(kind, steps=10, every=10), problem())
    assert [losses(result)[-2:] for result in often] == [losses(result)[-2:] for result in seldom]


@pytest.mark.parametrize("kind", ARMS)
def test_its_state_is_counted(kind):
    training = PackTraining(pack(kind, steps=3), problem(), micro_batch=None)
    training.measure()
    training.advance(2)
    state = training._optimizer.state_bytes
    numbers = sum(p.nbytes for p in training._model.params.values())
    multiples = {"sgd": 1, "adam": 2, "adamw": 2, "nadam": 2, "rmsprop": 3, "adagrad": 1, "lion": 1,
                 "schedule_free_sgd": 1, "schedule_free_adamw": 2, "torch.optim:AdamW": 2}  # fmt: skip
    if kind in multiples:
        assert state == pytest.approx(multiples[kind] * numbers, rel=0.05)
    else:
        assert state > numbers


def refused(kind, **changes):
    arm = {"kind": kind, **ARMS.get(kind, {"lr": 0.1, "damping": 0.1}), **changes}
    raw = {"name": "t", "batch_sizes": [8], "seeds": 1, "budget": {"steps": 3}, "optimizers": {"a": arm}}
    with pytest.raises(StudyFileError) as caught:
        parse_study(raw, source="test")
    (mistake,) = caught.value.mistakes
    return mistake


AXES = [
    (kind, name)
    for kind in sorted(set(kinds()) - {OWN})
    for name, field in arm_class(kind).model_fields.items()
    if field.annotation is Axis or name in ("precondition_interval", "ns_steps", "inverse_interval", "factor_interval")
]


@pytest.mark.parametrize(("kind", "name"), AXES)
def test_a_value_out_of_range_is_refused_with_the_range(kind, name):
    declared = hyperparameter(name)
    assert math.isfinite(declared.low), "every hyperparameter of a built-in optimizer declares its range"
    mistake = refused(kind, **{name: [-1.0]})
    assert mistake.startswith(f"optimizers.a.{name}: {name} must be {declared.allowed}; got -1")
    if declared.whole:
        assert "a whole number" in refused(kind, **{name: [2.5]})
