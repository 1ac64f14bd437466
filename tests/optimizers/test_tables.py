"""Numbers of [schedule], [problem] and [evaluation] may be axes of the whole study or of one optimizer."""

import pickle
import sys
import types

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sensitivity.execution.costs import _average_cost, samples
from sensitivity.execution.prepare import Plan
from sensitivity.study.errors import StudyFileError, UserError
from sensitivity.study.load import parse_study
from sensitivity.study.spec import StudySpec
from sensitivity.study.trials import Pack, expand, group
from sensitivity.training.batches import PackBatches
from sensitivity.training.calibration import Cost
from sensitivity.training.checks import check_study
from sensitivity.training.loop import train_pack
from sensitivity.training.problems import load_problem
from sensitivity.training.random_states import initialised
from tests.optimizers.cases import losses
from tests.optimizers.cases import problem as small_problem

SGD = {"kind": "sgd", "lr": [0.1, 0.3], "momentum": 0.9}
KFAC = {"kind": "kfac", "lr": 0.03, "damping": 0.1}


def study(arms=None, **tables):
    raw = {
        "name": "t", "batch_sizes": [24], "seeds": 1, "budget": {"steps": 6}, "evaluation": {"every_steps": 3},
        "optimizers": {"sgd": SGD, "kfac": KFAC} if arms is None else arms,
    }  # fmt: skip
    for name, table in tables.items():
        raw[name] = {**raw.get(name, {}), **table}
    return parse_study(raw, source="test")


def refusal(**kwargs):
    with pytest.raises(StudyFileError) as caught:
        study(**kwargs)
    return str(caught.value)


def test_an_axis_of_the_study_is_that_axis_of_every_optimizer():
    whole = study(schedule={"warmup_epochs": [0, 1, 5]}, problem={"model_arguments": {"width": [8, 16]}})
    own = {"schedule": {"warmup_epochs": [0, 1, 5]}, "problem": {"model_arguments": {"width": [8, 16]}}}
    each = study({"sgd": {**SGD, **own}, "kfac": {**KFAC, **own}})
    assert whole.hyperparameters == each.hyperparameters
    assert {"model.width", "warmup_epochs"} < set(whole.hyperparameters)
    assert [trial.id for trial in expand(whole)] == [trial.id for trial in expand(each)]
    assert whole.axes == each.axes
    assert whole.schedule.warmup_epochs == 0.0, "the table itself has its default"


def test_it_is_written_as_it_was_and_read_again():
    tables = {
        "schedule": {"decay": "trapezoidal", "decay_fraction": [0.1, 0.5]},
        "problem": {"label_smoothing": {"linear": [0.0, 0.2], "points": 3},
                    "model_arguments": {"width": {"log": [8, 64], "points": 4}, "dropout": 0.5}},
        "evaluation": {"ema_decay": [0.0, 0.9]},
    }  # fmt: skip
    spec = study(
        {"sgd": {**SGD, "schedule": {"warmup_epochs": [0.0, 1.0]}, "problem": {"label_smoothing": 0.1}}}, **tables
    )
    content = spec.model_dump(mode="json", exclude_unset=True)
    for name, table in tables.items():
        assert content[name] | table == content[name]
    for again in (
        StudySpec.model_validate(spec.model_dump(mode="json")),
        StudySpec.model_validate(content),
        spec.replace(seeds=1),
    ):
        assert again == spec
        assert [trial.id for trial in expand(again)] == [trial.id for trial in expand(spec)]
    assert spec.axes["sgd"]["model.width"].grid() == (8.0, 16.0, 32.0, 64.0)
    assert "label_smoothing" not in spec.axes["sgd"], "its own value stands in for the study's axis"


def test_an_extended_axis_re_uses_its_runs_and_stays_the_same_study():
    short, long = (study(problem={"label_smoothing": values}) for values in ([0.0, 0.1], [0.0, 0.1, 0.2]))
    assert short.identity() == long.identity()
    assert {trial.id for trial in expand(short)} < {trial.id for trial in expand(long)}


def test_every_trial_trains_as_the_study_with_its_values():
    spec = study(problem={"label_smoothing": [0.0, 0.2], "model_arguments": {"width": [8, 12], "depth": 1}})
    task = load_problem(spec.problem.fixed(), dtype=torch.float64)
    packs = group(expand(spec), 8)
    assert sorted(len(pack.trials) for pack in packs) == [1] * 4 + [2] * 4, "learning rates share packs, models do not"
    seen = set()
    for pack in packs:
        for found in train_pack(pack, task):
            numbers = dict(found.trial.hyperparameters)
            fixed = study(
                {pack.arm: {**(SGD if pack.arm == "sgd" else KFAC), "lr": numbers["lr"]}},
                problem={"label_smoothing": numbers["label_smoothing"],
                         "model_arguments": {"width": int(numbers["model.width"]), "depth": 1}},
            )  # fmt: skip
            (truth,) = train_pack(Pack(expand(fixed)), load_problem(fixed.problem, dtype=torch.float64))
            assert losses(found) == pytest.approx(losses(truth), rel=1e-9)
            assert found.flops == truth.flops, "of its own model"
            seen.add((pack.arm, found.flops, losses(found)[-1]))
    assert len(seen) == 12


def test_label_smoothing_equals_torch_and_is_not_evaluated():
    spec, task = study({"a": {**SGD, "lr": 0.1}}, problem={"label_smoothing": 0.3}), small_problem()
    (found,) = train_pack(Pack(expand(spec)), task)
    network = initialised(task.build_model, 0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    batches = PackBatches([0], task, batch_size=24, micro_batch=None, augment=False)
    for _ in range(found.steps):
        (part,) = batches.draw()
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(part.inputs[0]), part.targets[0], label_smoothing=0.3).backward()
        optimizer.step()
    with torch.no_grad():
        loss = nn.functional.cross_entropy(network(task.dataset.train_inputs), task.dataset.train_targets).item()
    assert found.measurements[-1].train_loss == pytest.approx(loss, rel=1e-10)


def test_averages_are_those_of_torch_and_training_does_not_see_them():
    spec, task = study({"a": {**SGD, "lr": [0.1, 1e9]}}, evaluation={"ema_decay": [0.0, 0.5, 0.9]}), small_problem()
    trials = expand(spec)
    found = dict(zip([trial.hyperparameters for trial in trials], train_pack(Pack(trials), task), strict=True))
    (plain, _) = train_pack(Pack(expand(study({"a": {**SGD, "lr": [0.1, 1e9]}}))), task)
    for trial in trials:
        numbers, result = dict(trial.hyperparameters), found[trial.hyperparameters]
        if numbers["lr"] > 1:
            assert result.status == "diverged", "a neighbour that is dropped on the way"
            continue
        network = initialised(task.build_model, 0)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(numbers["ema_decay"]))
        batches = PackBatches([0], task, batch_size=24, micro_batch=None, augment=False)
        for _ in range(result.steps):
            (part,) = batches.draw()
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(part.inputs[0]), part.targets[0]).backward()
            optimizer.step()
            averaged.update_parameters(network)
        with torch.no_grad():
            loss = nn.functional.cross_entropy(averaged(task.dataset.train_inputs), task.dataset.train_targets).item()
        assert result.measurements[-1].train_loss == pytest.approx(loss, rel=1e-10)
        if not numbers["ema_decay"]:
            assert losses(result) == pytest.approx(losses(plain), rel=1e-12)


@pytest.mark.parametrize("decay", [0.9, [0.8, 0.9]])
def test_averages_go_on_from_where_they_were_put_aside(decay):
    spec, task = study({"a": SGD}, evaluation={"ema_decay": decay}), small_problem()
    pack, states = Pack(expand(spec)), []
    whole = train_pack(pack, task)

    def keep(training):
        if training.done == 3:
            states.append(pickle.loads(pickle.dumps(training.state())))

    train_pack(pack, task, on_check=keep)
    again = train_pack(pack, task, resume=states[0])
    assert [losses(each) for each in again] == [losses(each) for each in whole]


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"schedule": {"warmup_epochs": [-1.0, 1.0]}}, "schedule.warmup_epochs: must be >= 0.0 (got -1.0)"),
        ({"schedule": {"decay_fraction": [0.1, 0.5]}}, 'schedule.decay_fraction: belongs to decay = "trapezoidal"'),
        ({"schedule": {"decay_factor": {"log": [0.1]}}}, "schedule.decay_factor.log[1]: missing"),
        ({"schedule": {"decay_factor": [0.1, 0.1]}}, "schedule.decay_factor: repeated in the list: 0.1"),
        ({"schedule": {"warmup_epochs": {"linear": [0, 5]}}}, "schedule.warmup_epochs: a grid needs points"),
        ({"problem": {"label_smoothing": [0.1, 1.0]}}, "problem.label_smoothing: must be < 1.0"),
        ({"problem": {"loss": "squared_error", "label_smoothing": [0.1, 0.2]}}, 'belongs to loss = "cross_entropy"'),
        ({"problem": {"model_arguments": {"width": ["a", 3]}}}, "problem.model_arguments.width: 'a' is not a finite"),
        ({"problem": {"model_arguments": {"width": {"points": 3}}}}, "problem.model_arguments.width: give exactly one"),
        ({"evaluation": {"ema_decay": [0.5, 1.0]}}, "evaluation.ema_decay: must be < 1.0"),
        ({"evaluation": {"ema_decay": {"lo": [0.1, 0.2]}}}, "ema_decay.lo: unknown field (did you mean 'log'"),
        ({"evaluation": {"ema_decays": [0.5]}}, "evaluation.ema_decays: unknown field (did you mean 'ema_decay'?)"),
        ({"arms": {"a": {**SGD, "problem": {"model": "lenet"}}}}, "optimizers.a.problem.model: unknown field"),
        ({"arms": {"a": {**SGD, "evaluation": {"ema_decay": [0.5, 1.5]}}}}, "ema_decay must be >= 0 and < 1; got 1.5"),
        (
            {"problem": {"loss": "squared_error"}, "arms": {"a": {**SGD, "problem": {"label_smoothing": 0.1}}}},
            'optimizers.a.problem.label_smoothing: belongs to loss = "cross_entropy"',
        ),
    ],
)  # fmt: skip
def test_what_is_refused_is_said(tables, said):
    assert said in refusal(**tables)


def test_draws_need_no_points_and_may_vary_only_a_study_table():
    drawn = {"kind": "sgd", "lr": 0.1, "design": "sobol", "samples": 4}
    spec = study({"a": drawn, "b": SGD}, problem={"label_smoothing": {"linear": [0.0, 0.4], "points": 2}})
    values = {dict(trial.hyperparameters)["label_smoothing"] for trial in expand(spec) if trial.arm == "a"}
    assert len(values) == 4
    with pytest.raises(StudyFileError, match=r"optimizers\.a: there is nothing to draw"):
        study({"a": drawn})


def net(shape, outputs, *, width=6, bias=True):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width, bias=bias), nn.Tanh(), nn.Linear(width, outputs))


def needy(shape, outputs, width):
    return net(shape, outputs, width=width)


@pytest.fixture
def models(monkeypatch):
    module = types.ModuleType("models_of_mine")
    module.net, module.needy = net, needy
    monkeypatch.setitem(sys.modules, "models_of_mine", module)


def checked(spec):
    check_study(spec, load_problem(spec.problem), source="test")


def test_a_model_of_the_users_has_arguments_and_axes(models):
    arguments = {"width": [3, 5], "bias": False}
    spec = study(problem={"model": "models_of_mine:net", "model_arguments": arguments})
    checked(spec)
    task = load_problem(spec.problem.fixed())
    shapes = [[p.shape for p in task.of(trial.problem).build_model().parameters()] for trial in expand(spec)]
    assert [[shape[0] for shape in each] for each in shapes] == [[3, 10, 10], [5, 10, 10]] * 3


@pytest.mark.parametrize(
    ("model", "arguments", "said"),
    [
        ("models_of_mine:net", {"widht": [3]}, "widht: unknown argument of models_of_mine:net (did you mean 'width'?)"),
        (
            "models_of_mine:needy", {"width": [3, 5]},
            "width: missing; models_of_mine:needy has no default for it; an argument that has an axis needs one",
        ),
        ("perceptron", {"width": [0, 5]}, "width: perceptron takes a whole number >= 1; got 0"),
        ("perceptron", {"dropout": [0.5, 1.0]}, "dropout: perceptron takes a number >= 0 and < 1; got 1.0"),
        ("lenet", {"width": 3}, "width: unknown argument of lenet. It takes no arguments"),
    ],
)  # fmt: skip
def test_arguments_that_the_model_does_not_take_are_refused(models, model, arguments, said):
    with pytest.raises(UserError) as caught:
        checked(study(problem={"model": model, "model_arguments": arguments}))
    assert f"problem.model_arguments.{said}" in str(caught.value)


def test_ema_is_rejected_for_optimizers_that_average_themselves():
    arms = {"a": SGD, "b": {"kind": "schedule_free_sgd", "lr": 1.0}}
    with pytest.raises(StudyFileError, match=r"optimizers\.b\.evaluation\.ema_decay: this optimizer already averages"):
        checked(study(arms, evaluation={"ema_decay": [0.0, 0.9]}))
    checked(study({**arms, "b": {**arms["b"], "evaluation": {"ema_decay": 0.0}}}, evaluation={"ema_decay": 0.9}))


def test_every_model_is_priced_and_a_pack_of_the_largest_fits():
    values = [4, 8, 16, 32, 64, 128]
    spec = study({"sgd": SGD}, problem={"model_arguments": {"width": values}, "label_smoothing": [0.0, 0.1, 0.2]})
    trials = expand(spec)
    plan = Plan(spec=spec, problem=None, source="", origin=None, trials=trials)
    ((_, found),) = samples(plan, finished=frozenset()).items()
    assert [dict(each.trials[0].structure) for each in found] == [
        {"model.width": width, "label_smoothing": 0.1} for width in (8, 32, 128)
    ]
    assert [each.share for each in found] == pytest.approx([1 / 3] * 3)
    costs = [
        Cost(steps=6, flops=f, step_seconds=s, evaluation_seconds=1.0, pack_size=p, most=p, gain=2.0, member_bytes=b)
        for f, s, p, b in ((1.0, 1.0, 64, 10.0), (3.0, 3.0, 16, 90.0))
    ]
    both = _average_cost(list(zip(costs, (0.75, 0.25), strict=True)))
    assert (both.flops, both.step_seconds, both.pack_size, both.most, both.member_bytes) == (1.5, 1.5, 16, 16, 90.0)
    assert both.gain == pytest.approx(2.0)


def test_ids_of_trials_without_any_of_this_have_not_changed():
    trials = expand(study({"sgd": SGD, "kfac": {**KFAC, "schedule": {"warmup_epochs": [0.0, 1.0], "decay": "cosine"}}}))
    assert [trial.id for trial in trials] == [
        "969ccc08d66056f4", "3c70131d7f5df6c4", "cc84221d0b30788b", "2aac82de56894625",
    ]  # fmt: skip
