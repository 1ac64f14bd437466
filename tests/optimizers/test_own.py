"""User optimizers: any torch.optim.Optimizer, or a function that returns one, stepped member by member."""

import copy
import dataclasses
import sys
import types

import pytest
import torch
from torch import nn

from sensitivity.execution.pricing import _remark
from sensitivity.execution.worker import _train
from sensitivity.kfac import KFAC, KFACConfig
from sensitivity.study.errors import StudyFileError, UserError
from sensitivity.study.load import parse_study
from sensitivity.study.results import Status
from sensitivity.study.trials import Pack, expand
from sensitivity.study.trials import group as packs_of
from sensitivity.training.batches import PackBatches
from sensitivity.training.checks import check_study
from sensitivity.training.loop import train_pack
from sensitivity.training.pack_training import PackTraining
from sensitivity.training.random_states import initialised
from tests.optimizers.cases import bare, losses, problem, walked
from tests.optimizers.references import trajectory


def study(kind, steps=12, **arm):
    raw = {
        "name": "t", "batch_sizes": [24], "seeds": 1, "budget": {"steps": steps}, "evaluation": {"every_steps": 4},
        "schedule": {"warmup_epochs": 2, "decay": "cosine"}, "optimizers": {"a": {"kind": kind, "lr": 0.05, **arm}},
    }  # fmt: skip
    return parse_study(raw, source="test")


def trained(kind, **options):
    return train_pack(Pack(expand(study(kind, **options))), problem())


class Noted(torch.optim.SGD):
    """SGD that records its arguments, replaces parameters, and has double-precision state."""

    def __init__(self, params, lr, *, warm=3, names=("a", "b"), exact=False, betas=(0.9, 0.99), **others):
        NOTED.append({"lr": lr, "warm": warm, "names": names, "exact": exact, "betas": betas, **others})
        super().__init__(params, lr=lr)

    def step(self):
        super().step()
        for group in self.param_groups:
            for p in group["params"]:
                p.data = p.data.clone()  # replaces the tensor


class Moody(torch.optim.SGD):
    """Evaluates at zero."""

    training, kept = True, None

    def train(self):
        self.training = True

    def eval(self):
        self.training = False
        for p in self.param_groups[0]["params"]:
            p.data.zero_()

    def step(self):
        assert self.training
        super().step()


class Raises(torch.optim.SGD):
    """Raises at a step."""

    def __init__(self, params, lr, at=0):
        super().__init__(params, lr=lr)
        self.at, self.taken = at, 0

    def step(self):
        self.taken += 1
        if self.taken == self.at:
            raise ArithmeticError(f"step {self.at} is too much")
        super().step()


class Fades(torch.optim.SGD):
    """Halves its own learning rate after every step."""

    def step(self):
        super().step()
        for group in self.param_groups:
            group["lr"] /= 2


class NeedsClosure(torch.optim.SGD):
    """Computes the loss itself."""

    def step(self, closure):
        closure()


class Shrinks(torch.optim.SGD):
    """Gives a parameter another shape."""

    def step(self):
        for p in self.param_groups[0]["params"]:
            p.data = p.data[..., :3].clone()


class Needs(torch.optim.SGD):
    """Has an argument without a default."""

    def __init__(self, params, lr, depth):
        super().__init__(params, lr=lr)


NOTED = []


@pytest.fixture(autouse=True)
def module(monkeypatch):
    NOTED.clear()
    users = types.ModuleType("users_optimizers")
    users.__file__ = "users_optimizers.py"
    for each in (Noted, Moody, Raises, Fades, NeedsClosure, Needs, Shrinks):
        setattr(users, each.__name__, each)
    users.kfac = kfac
    users.nothing = lambda params, lr: None
    users.halved = lambda params, lr: torch.optim.SGD(params, lr=lr / 2)
    monkeypatch.setitem(sys.modules, "users_optimizers", users)


def test_a_registered_optimizer_trains_like_the_built_in_one():
    theirs = trained("torch.optim:SGD", momentum=[0.5, 0.9], nesterov=True, weight_decay=0.01)
    ours = trained("sgd", momentum=[0.5, 0.9], nesterov=True, weight_decay=0.01)
    assert [losses(result) for result in theirs] == [pytest.approx(losses(result), rel=1e-9) for result in ours]


def test_functions_that_return_an_optimizer_are_accepted():
    (half,), (sgd,) = trained("users_optimizers:halved"), trained("sgd", lr=0.025)
    assert losses(half) == pytest.approx(losses(sgd), rel=1e-9)


def test_arguments_arrive_as_the_function_has_them():
    numbers = {"warm": [4, 6], "names": {"fixed": ["c", "d"]}, "exact": True, "beta2": 0.5}
    results = trained("users_optimizers:Noted", **numbers)
    assert [noted["warm"] for noted in NOTED] == [4, 6]
    assert all(type(noted["warm"]) is int for noted in NOTED)
    assert NOTED[0] == {"lr": 0.05, "warm": 4, "names": ("c", "d"), "exact": True, "betas": (0.9, 0.5)}
    assert results[0].trial.settings == {
        "kind": "users_optimizers:Noted", "names": {"fixed": ["c", "d"]}, "exact": True,
    }  # fmt: skip
    assert losses(results[0]) == pytest.approx(losses(trained("sgd")[0])), "replaced parameters are put into the pack"


@pytest.mark.parametrize("name", ["decay", "decay_at", "settings", "axes", "label", "model_config"])
def test_arguments_may_have_the_names_of_other_things(name):
    results = trained("users_optimizers:Noted", **{name: [0.5, 0.75]})
    assert [dict(result.trial.hyperparameters)[name] for result in results] == [0.5, 0.75]
    assert [noted[name] for noted in NOTED] == [0.5, 0.75]


def test_one_of_two_betas_may_be_an_axis():
    trained("users_optimizers:Noted", betas={"fixed": [0.8, 0.7]}, beta1=[0.5, 0.6])
    assert [noted["betas"] for noted in NOTED] == [(0.5, 0.7), (0.6, 0.7)]


def test_rates_changed_by_the_optimizer_are_scaled_and_checkpointed():
    def fresh():
        params = {"w": torch.zeros(2, 3, dtype=torch.float64)}
        return params, bare("users_optimizers:Fades", params, lr=0.5)

    multipliers = (1.0, 1.0, 0.25, 0.25, 0.0, 1.0, 1.0)
    params, optimizer = fresh()
    moved, saved = [], None
    for step, multiplier in enumerate(multipliers):
        if step == 3:
            saved = copy.deepcopy((params["w"], optimizer.state()))
        before = params["w"][0, 0].item()
        optimizer.step(params, {"w": torch.ones_like(params["w"])}, multiplier, step=step)
        moved.append(before - params["w"][0, 0].item())
    assert moved == pytest.approx([0.5, 0.25, 0.25 * 0.125, 0.25 * 0.0625, 0.0, 0.03125, 0.015625])
    again, resumed = fresh()
    again["w"].copy_(saved[0])
    resumed.restore(saved[1])
    for step in range(3, len(multipliers)):
        resumed.step(again, {"w": torch.ones_like(again["w"])}, multipliers[step], step=step)
    assert torch.equal(again["w"], params["w"])


def test_its_schedule_may_have_axes():
    ours, theirs = (
        [losses(trained_one) for pack in packs_of(expand(study(kind, schedule={"warmup_epochs": [1, 3]})), 8)
         for trained_one in train_pack(pack, problem())]
        for kind in ("torch.optim:SGD", "sgd")
    )  # fmt: skip
    assert ours[0] != ours[1]
    assert ours == [pytest.approx(each, rel=1e-9) for each in theirs]


@pytest.mark.parametrize("name", ["warmup_epochs", "decay_factor", "decay_fraction"])
def test_numbers_of_its_schedule_are_not_taken_for_arguments(name):
    with pytest.raises(StudyFileError, match=f"optimizers.a.{name}: belongs to the table .schedule"):
        study("torch.optim:SGD", **{name: 1.0})


def test_the_optimizers_eval_mode_does_not_affect_training():
    ends = []
    for kind in ("users_optimizers:Moody", "sgd"):
        training = PackTraining(Pack(expand(study(kind))), problem(), micro_batch=None)
        training.measure()
        while (until := training.next_evaluation) is not None:
            training.advance(until)
            training.measure()
        ends.append((training.results()[0], training._model.params))
    (moody, ours), (_, theirs) = ends
    at_zero = torch.tensor(6.0).log().item()
    assert [m.train_loss for m in moody.measurements] == pytest.approx([at_zero] * 4)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value)


def kfac(model, lr, damping):
    return KFAC(model, KFACConfig(lr=lr, damping=damping, inverse_interval=3))


def test_optimizers_that_need_the_module_receive_it_and_hook_it():
    numbers = {"lr": [0.03, 0.05, 1e9], "damping": 0.2}
    theirs = trained("users_optimizers:kfac", **numbers)
    ours = trained("kfac", inverse_interval=3, **numbers)
    assert [result.status for result in theirs] == [Status.COMPLETED, Status.COMPLETED, Status.DIVERGED]
    for one, other in zip(theirs[:2], ours[:2], strict=True):
        assert losses(one) == pytest.approx(losses(other), rel=1e-9)


def test_member_modules_use_the_members_buffers_and_generators():
    task = problem()
    layers = lambda: nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 6)).double()  # noqa: E731
    task = dataclasses.replace(task, build_model=layers)
    pack = Pack(expand(study("users_optimizers:kfac", damping=0.2, lr=[0.03, 0.05, 1e9])))
    together = train_pack(pack, task)
    for result in together[:2]:
        (alone,) = train_pack(Pack((result.trial,)), task)
        assert losses(result) == pytest.approx(losses(alone), rel=1e-9)
    network = initialised(layers, 0)
    optimizer = kfac(network, lr=0.03, damping=0.2)
    (part,) = PackBatches([0], task, batch_size=24, micro_batch=None, augment=False).draw()
    training = PackTraining(Pack(pack.trials[:1]), task, micro_batch=None)
    network[2].p = 0.0
    nn.functional.cross_entropy(network(part.inputs[0]), part.targets[0]).backward()
    optimizer.step()
    training.measure()
    training.advance(1)
    torch.testing.assert_close(training._model.state()["buffers"]["1.running_mean"][0], network[1].running_mean)


def test_an_optimizer_that_raises_fails_only_its_run():
    class Checkpoint:
        def discard(self):
            pass

    pack = Pack(expand(study("users_optimizers:Raises", at=[0, 7])))
    results = _train(torch.device("cpu"), pack, lambda pack, _: train_pack(pack, problem()), lambda pack: Checkpoint())
    assert [result.status for result in results] == [Status.COMPLETED, Status.FAILED]
    assert results[1].message == "ArithmeticError: step 7 is too much"
    assert "self.at" in results[1].traceback


@pytest.mark.parametrize(
    ("kind", "arm", "said"),
    [
        ("users_optimizers:NeedsClosure", {}, "its step needs a closure that computes the loss again"),
        ("users_optimizers:nothing", {}, "returned None; it must be, or return, a torch.optim.Optimizer"),
        ("users_optimizers:Absent", {}, "has no function 'Absent'"),
        ("torch.optim:Rprop", {"etas": {"fixed": [0.9, 0.5]}}, "Invalid eta values: 0.9, 0.5"),
        (
            "torch.optim:AdamW",
            {"beta3": 0.9},
            "a.beta3: unknown argument of torch.optim:AdamW (did you",
        ),
        ("torch.optim:AdamW", {"LR_": 0.9}, "(did you mean 'lr'?). It takes: lr, beta1, beta2, eps, weight_decay, "),
        ("users_optimizers:Needs", {}, "optimizers.a.depth: missing; users_optimizers:Needs has no default for it"),
        ("users_optimizers:kfac", {"damping": 0.1, "clip_norm": 1.0}, "clip_norm: users_optimizers:kfac takes the"),
        ("torch.optim:Muon", {}, "Muon only supports 2D parameters"),
        (
            "torch.optim:SparseAdam",
            {},
            'takes sparse gradients only, but those of a study are dense; use kind = "adam"',
        ),
        ("users_optimizers:Shrinks", {}, "changed the shape of the parameter 0.weight from [6, 6] to [6, 3]"),
    ],
)
def test_user_optimizer_errors_are_reported_before_a_run(kind, arm, said):
    with pytest.raises((StudyFileError, UserError)) as caught:
        check_study(study(kind, **arm), problem(), source="x.toml")
    assert "optimizers.a." in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("torch.optim:AdamW", "gradients are computed for the whole pack, but updates run for one run at a time"),
        ("users_optimizers:kfac", "takes the network itself, so the runs of a pack are trained one by one"),
    ],
)
def test_a_plan_says_how_much_of_it_is_packed(kind, said):
    arm = study(kind, **({"damping": 0.1} if "kfac" in kind else {})).optimizers["a"]
    assert said in _remark(arm)


def test_mistakes_in_the_file_are_named_with_their_field():
    for arm, said in (
        ({"depth": {"log": [1, 2]}}, "optimizers.a.depth: a grid needs points on each interval"),
        ({"depth": []}, "optimizers.a.depth: the list is empty"),
        ({"depth": {"log": [0.0, 2.0], "points": 3}}, "optimizers.a.depth: a log interval starts above 0"),
        ({"lr": -1.0}, "optimizers.a.lr: lr must be > 0"),
    ):
        with pytest.raises(StudyFileError) as caught:
            study("mine:Own", **arm)
        assert said in str(caught.value)


def test_studies_with_user_optimizers_round_trip():
    spec = study("mine:Own", depth=[1, 2], names={"fixed": [1, 2]}, fast=True, decay={"log": [0.1, 1], "points": 2})
    assert spec.hyperparameters == ("decay", "depth", "lr")
    again = parse_study(spec.model_dump(mode="json"), source="again")
    assert again == spec
    assert [trial.id for trial in expand(again)] == [trial.id for trial in expand(spec)]


def test_schedule_free_ones_are_evaluated_at_their_average():
    schedulefree = pytest.importorskip("schedulefree")
    theirs = trajectory(lambda p: schedulefree.SGDScheduleFree(p, lr=0.1, momentum=0.8), evaluated=True)
    ours = walked("schedulefree:SGDScheduleFree", lr=0.1, momentum=0.8)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value)
