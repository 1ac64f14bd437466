import copy
import itertools
import json
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from sensitivity.optimizers.kinds.kfac import KFACArm
from sensitivity.optimizers.kinds.sgd import SGDArm
from sensitivity.study.arms import OWN, arm_class, kinds
from sensitivity.study.errors import StudyFileError, UserError
from sensitivity.study.execution import ExecutionSpec
from sensitivity.study.load import find_study, load_study, parse_study, shipped
from sensitivity.study.primary import PrimarySpec
from sensitivity.study.problem import ProblemSpec
from sensitivity.study.protocol import BudgetSpec, EvaluationSpec, ScheduleSpec
from sensitivity.study.search import SearchSpec
from sensitivity.study.spec import StudySpec
from sensitivity.study.trials import expand


def mistakes(raw):
    with pytest.raises(StudyFileError) as caught:
        parse_study(raw, source="mine.toml")
    return caught.value.mistakes


MANY = """
name = "../escape"
batch_size = [32]
batch_sizes = []
seeds = [1, 1]

[problem]
dataset = "digit"
loss = "cross_entrophy"
test_fraction = 1.5

[budget]
epochs = 5
steps = 100

[schedule]
decay_at = [0.8, 0.5]

[targets]
test_accuracy = [95.0]

[optimizers.a]
kind = "sdg"
lr = 0.1

[optimizers.b]
lr = 0.1

[optimizers.c]
kind = "sgd"
lr = [0.1, 0.0]
momentum = { log = [0.1, 0.9], point = 3 }
nesterov = "yes"
moment = 0.9

[optimizers.d]
kind = "kfac"
design = "sobol"
lr = { log = [1e-3, 1.0], points = 8 }
inverse_interval = 7
factor_interval = 2
"""


def test_all_mistakes_of_a_file_are_reported_at_once(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(MANY)
    with pytest.raises(StudyFileError) as caught:
        load_study(path)
    text = str(caught.value)
    assert text.splitlines()[0] == f"{path}: {len(caught.value.mistakes)} mistakes"
    every = "kind, design, device_hours, samples, design_seed, prune, clip_norm, schedule, problem, evaluation"
    sgd = f"{every}, lr, momentum, weight_decay, nesterov"
    assert set(caught.value.mistakes) == {
        "name: the name becomes a folder: a letter or digit, then up to 63 letters, digits, . _ - (got '../escape')",
        "batch_size: unknown field (did you mean 'batch_sizes'?). Allowed here: name, description, batch_sizes, seeds, "
        "observed, problem, budget, schedule, evaluation, optimizers, targets, pairs, primary, search, margins, "
        "execution, log",
        "batch_sizes: the list is empty: give at least one (got [])",
        "seeds: repeated: 1 (got [1, 1])",
        "problem.dataset: unknown data set 'digit'. Allowed: digits, diabetes, mnist, fashion_mnist, cifar10, "
        "cifar100, svhn, text, noisy_quadratic, imagefolder:PATH, text:PATH, table:PATH, or your own as "
        "\"module:function\" (did you mean 'digits'?)",
        "problem.loss: unknown loss 'cross_entrophy'. Allowed: cross_entropy, squared_error, huber, "
        "binary_cross_entropy, quadratic, or your own as \"module:function\" (did you mean 'cross_entropy'?)",
        "problem.test_fraction: must be < 1.0 (got 1.5)",
        "budget: give exactly one of epochs, adjusted_epochs and steps",
        "schedule.decay_at: decay_at must be strictly increasing (got [0.8, 0.5])",
        "targets: test_accuracy is a fraction: a target lies in (0, 1]; got 95. For 95% write 0.95",
        f"optimizers.a.kind: unknown optimizer 'sdg' (did you mean 'sgd'?). Allowed: {', '.join(kinds())}",
        f'optimizers.b.kind: missing; give kind = "sgd", say. Allowed: {", ".join(kinds())}',
        "optimizers.c.lr: lr must be > 0; got 0 (got [0.1, 0.0])",
        "optimizers.c.momentum.point: unknown field (did you mean 'points'?). Allowed here: log, linear, points",
        "optimizers.c.nesterov: give true or false (got 'yes')",
        f"optimizers.c.moment: unknown field (did you mean 'momentum'?). Allowed here: {sgd}",
        'optimizers.d.samples: missing; design = "sobol" needs the number of configurations to draw',
        'optimizers.d.lr: points belongs to design = "grid"; remove it',
        "optimizers.d.damping: missing; it has no default",
        "optimizers.d.inverse_interval: must be a multiple of factor_interval, so that each inverse uses new factors "
        "(got 7)",
    }


def put(raw, path, value):
    *folders, last = path
    for folder in folders:
        raw = raw.setdefault(folder, {})
    raw[last] = value


LR, MOMENTUM = ("optimizers", "sgd", "lr"), ("optimizers", "sgd", "momentum")
SINGLE = [
    # path, bad value, (field in the message, words in the message)
    (LR, [], "optimizers.sgd.lr: the list is empty"),
    (LR, [0.1, 0.2, 0.1], "optimizers.sgd.lr: repeated in the list: 0.1."),
    (LR, [0.1, 0.10000001], "optimizers.sgd.lr: repeated in the list: 0.1."),
    (LR, 0, "optimizers.sgd.lr: lr must be > 0; got 0"),
    (LR, -1.0, "optimizers.sgd.lr: lr must be > 0; got -1"),
    (LR, float("nan"), "optimizers.sgd.lr: nan is not a finite number"),
    (LR, [0.1, float("inf")], "optimizers.sgd.lr: inf is not a finite number"),
    (LR, True, "optimizers.sgd.lr: give a number, a list of numbers, or a table such as { log = [1e-3, 1.0]"),
    (LR, [0.1, True], "optimizers.sgd.lr: True is not a finite number"),
    (LR, 10**400, "optimizers.sgd.lr: 1000000000"),
    (LR, "0.1", "optimizers.sgd.lr: give a number"),
    (LR, {}, "optimizers.sgd.lr: give exactly one of log"),
    (LR, {"log": [0.1, 1.0], "linear": [0.1, 1.0], "points": 2}, "optimizers.sgd.lr: give exactly one of log"),
    (LR, {"log": [0.1, 1.0]}, "optimizers.sgd.lr: a grid needs points on each interval"),
    (LR, {"log": [0.0, 1.0], "points": 3}, "optimizers.sgd.lr: a log interval starts above 0; got 0."),
    (LR, {"log": [1.0, 0.1], "points": 3}, "optimizers.sgd.lr: the interval [1, 0.1] is empty"),
    (LR, {"log": [1.0, 1.0000001], "points": 3}, "optimizers.sgd.lr: the interval [1, 1] is empty"),
    (LR, {"log": [1.0, 1.0001], "points": 500}, "optimizers.sgd.lr: [1, 1.0001] is too narrow for 500 points"),
    (LR, {"log": [0.1], "points": 3}, "optimizers.sgd.lr.log[1]: missing"),
    (LR, {"log": [0.1, 1.0, 2.0], "points": 3}, "optimizers.sgd.lr.log: give 2 values"),
    (LR, {"log": [0.1, "1"], "points": 3}, "optimizers.sgd.lr.log[1]: give a number (got '1')"),
    (LR, {"log": [0.1, float("inf")], "points": 3}, "optimizers.sgd.lr.log[1]: give a finite number"),
    (LR, {"log": [0.1, 1.0], "points": 1}, "optimizers.sgd.lr.points: must be >= 2 (got 1)"),
    (LR, {"log": [0.1, 1.0], "points": 10**9}, "optimizers.sgd.lr.points: must be <= 1000 (got 1000000000)"),
    (LR, {"log": [0.1, 1.0], "points": 2.0}, "optimizers.sgd.lr.points: give a whole number"),
    (MOMENTUM, 1.0, "optimizers.sgd.momentum: momentum must be >= 0 and < 1; got 1"),
    (MOMENTUM, 0.9999999, "optimizers.sgd.momentum: momentum must be >= 0 and < 1; got 1"),
    (MOMENTUM, {"linear": [0.5, 0.9999999], "points": 2}, "optimizers.sgd.momentum: momentum must be >= 0 and < 1"),
    (("optimizers", "sgd", "weight_decay"), -0.1, "optimizers.sgd.weight_decay: weight_decay must be >= 0; got -0.1"),
    (("optimizers", "kfac", "damping"), 0.0, "optimizers.kfac.damping: damping must be > 0; got 0"),
    (("optimizers", "kfac", "kl_clip"), 0.0, "optimizers.kfac.kl_clip: must be > 0"),
    (("optimizers", "kfac", "factor_decay"), 1.0, "optimizers.kfac.factor_decay: must be < 1"),
    (("optimizers", "sgd", "nesterov"), True, "optimizers.sgd.nesterov: nesterov = true needs momentum > 0 everywhere"),
    (("optimizers", "sgd", "nesterov"), 1, "optimizers.sgd.nesterov: give true or false (got 1)"),
    (("optimizers", "sgd", "samples"), 4, "optimizers.sgd.samples: belongs to draws and searches"),
    (("optimizers", "sgd", "design"), "grit", "optimizers.sgd.design: unknown 'grit' (did you mean 'grid'?)"),
    (("optimizers", "sgd", "damping"), 1.0, "optimizers.sgd.damping: unknown field"),
    (("optimizers",), {}, "optimizers: no optimizer"),
    (("optimizers",), 3, "optimizers: give a table (got 3)"),
    (("optimizers", "sgd"), "sgd", "optimizers.sgd: give a table (got 'sgd')"),
    (("optimizers", "sgd", "kind"), 3, "optimizers.sgd.kind: unknown optimizer '3'"),
    (("optimizers", "a/b"), {"kind": "sgd", "lr": 0.1}, "optimizers: an optimizer's name is"),
    (("name",), "../x", "name: the name becomes a folder"),
    (("name",), "a/b", "name: the name becomes a folder"),
    (("name",), "..", "name: the name becomes a folder"),
    (("name",), "a\n", "name: the name becomes a folder"),
    (("name",), "", "name: the name becomes a folder"),
    (("name",), "a" * 65, "name: the name becomes a folder"),
    (("name",), 3, "name: give a string in quotes (got 3)"),
    (("seeds",), 0, "seeds: give a number of seeds from 1 to 10000, or a list of seeds (got 0)"),
    (("seeds",), -3, "seeds: give a number of seeds from 1"),
    (("seeds",), 10**30, "seeds: give a number of seeds from 1 to 10000"),
    (("seeds",), [], "seeds: the list is empty"),
    (("seeds",), [0, -1], "seeds[1]: must be >= 0 (got -1)"),
    (("seeds",), [2**31], "seeds[0]: must be < 2147483648"),
    (("seeds",), [3, 4, 3], "seeds: repeated: 3"),
    (("seeds",), True, "seeds: give a number of seeds, or a list of seeds (got True)"),
    (("seeds",), [True], "seeds[0]: give a whole number (got True)"),
    (("seeds",), "three", "seeds: give a number of seeds, or a list of seeds"),
    (("batch_sizes",), [0], "batch_sizes[0]: must be >= 1 (got 0)"),
    (("batch_sizes",), [32, 32], "batch_sizes: repeated: 32"),
    (("batch_sizes",), True, "batch_sizes: give a list (got True)"),
    (("batch_sizes",), ["32"], "batch_sizes[0]: give a whole number (got '32')"),
    (("batch_sizes",), [32.0], "batch_sizes[0]: give a whole number"),
    (("batch_sizes",), [10**40], "batch_sizes[0]: must be <= 1000000000"),
    (("problem", "dataset"), "minst", "problem.dataset: unknown data set 'minst'. Allowed: digits, diabetes, mnist, "),
    (("problem", "dataset"), "imagefolder: ", "problem.dataset: the path is empty: give imagefolder:PATH"),
    (("problem", "dataset"), "noisy_quadratic", "problem: the noisy quadratic needs all of dataset = "),
    (("problem", "model"), "quadratic", 'model = "quadratic", loss = "quadratic"'),
    (("problem", "loss"), "quadratic", "problem: the noisy quadratic needs all of"),
    (("problem", "image_size"), 32, 'problem.image_size: belongs to dataset = "imagefolder:PATH"; remove it'),
    (("problem", "augment"), "flip", "problem.augment: unknown 'flip' (did you mean 'crop_flip'?)"),
    (("problem", "ghost_batch"), 0, "problem.ghost_batch: must be >= 1"),
    (("problem", "ghost_batch"), 64, "problem: ghost_batch = 64 must divide every batch size"),
    (("problem", "ghost_batch"), 256, "got 32, 128"),
    (("problem", "train_subset"), 0, "problem.train_subset: must be >= 1"),
    (("problem", "model"), "perceptrons", "did you mean 'perceptron'?"),
    (("problem", "model"), "a..b:f", "problem.model: unknown model"),
    (("problem", "model"), "a:f\n", "problem.model: unknown model"),
    (("problem", "split"), 0, "problem.split: unknown field (did you mean 'split_seed'?)"),
    (("problem", "split_seed"), 2**32, "problem.split_seed: must be < 2147483648"),
    (("problem",), [], "problem: give a table"),
    (("budget",), {}, "budget: give exactly one of epochs, adjusted_epochs and steps"),
    (("budget", "epochs"), 0, "budget.epochs: must be > 0"),
    (("budget", "epochs"), "2", "budget.epochs: give a number (got '2')"),
    (("budget", "epochs"), True, "budget.epochs: give a number (got True)"),
    (("budget", "epochs"), float("inf"), "budget.epochs: give a finite number"),
    (("budget", "epochs"), 1e300, "budget.epochs: must be <= 1000000"),
    (
        ("budget",),
        {"adjusted_epochs": 5},
        "budget.base_batch_size: missing; adjusted_epochs are the epochs at the base",
    ),
    (("budget", "base_batch_size"), 32, "budget.base_batch_size: belongs to adjusted_epochs; remove it"),
    (
        ("budget",),
        {"adjusted_epochs": 5, "base_batch_size": 64},
        "base_batch_size = 64 must not be above any batch size",
    ),
    (("budget",), {"adjusted_epochs": 5, "base_batch_size": 32, "steps": 5}, "budget: give exactly one of"),
    (("schedule", "lr_scaling"), "sqrt", 'schedule.base_batch_size: missing; lr_scaling = "sqrt" needs'),
    (("schedule", "base_batch_size"), 32, 'schedule.base_batch_size: belongs to lr_scaling = "linear" or "sqrt"'),
    (("schedule", "decay"), "sine", "schedule.decay: unknown 'sine'"),
    (("schedule",), {"decay": "cosine", "decay_at": [0.5]}, 'schedule.decay_at: belongs to decay = "step"; remove it'),
    (("schedule", "decay_at"), [1.0], "schedule.decay_at[0]: must be < 1"),
    (("schedule", "decay_at"), [0.5, 0.5], "schedule.decay_at: decay_at must be strictly increasing"),
    (("schedule", "warmup"), 1, "schedule.warmup: unknown field (did you mean 'warmup_epochs'?)"),
    (("evaluation",), {"every_steps": 5, "every_epochs": 1}, "evaluation: give at most one of"),
    (("evaluation",), {"every_steps": 5, "growth": 0.1}, "evaluation: give at most one of growth, every_epochs"),
    (("evaluation",), {"growth": 0.0}, "evaluation.growth"),
    (("evaluation",), {"growth": 1.5}, "evaluation.growth"),
    (("evaluation", "divergence_bound"), 1.0, "evaluation.divergence_bound: must be > 1"),
    (
        ("targets", "test_acuracy"),
        [0.9],
        "targets: unknown 'test_acuracy' (did you mean 'test_accuracy'?)",
    ),
    (("targets", "test_accuracy"), {"is": 0.9}, "targets.test_accuracy: give a list"),
    (("targets", "test_accuracy"), [], "targets: test_accuracy: the list is empty"),
    (("targets", "test_accuracy"), [0.9, 0.9], "targets: test_accuracy: repeated: 0.9"),
    (("targets", "test_loss"), [0.0], "targets: test_loss: a target loss is above 0; got 0"),
    (("execution", "pack_size"), 0, "execution.pack_size: must be >= 1"),
    (("execution", "accelerator_share"), 0.3, "execution.accelerator_share: give 1 divided by a whole number: 1, 0.5"),
    (("execution", "accelerator_share"), 1.5, "execution.accelerator_share: must be <= 1"),
    (("problem", "precision"), "float16", "problem.precision: unknown 'float16' (did you mean 'bfloat16'?)"),
    (("problem", "precision"), "tf32", 'execution: problem.precision = "tf32" needs device = "cuda"'),
    (("execution", "micro_batch"), 0, "execution.micro_batch: must be >= 1"),
    (("execution", "device"), "gpu", "execution.device: unknown 'gpu' (did you mean 'cuda'?). Allowed: cpu, cuda"),
    (
        ("problem", "metrics"),
        {"cost": {"function": "a:b", "directon": "min"}},
        "problem.metrics.cost.directon: unknown field (did you mean 'direction'?)",
    ),
    (("problem", "loss"), "MSE", "problem.loss: unknown loss 'MSE'. Allowed: cross_entropy, squared_error"),
    (("execution", "workers"), 2, "execution.workers: unknown field"),
    (("seed",), 1, "seed: unknown field (did you mean 'seeds'?)"),
]


@pytest.mark.parametrize(("path", "value", "expected"), SINGLE, ids=lambda v: str(v)[:40])
def test_one_mistake_is_named_with_its_field(minimal, path, value, expected):
    put(minimal, path, value)
    found = mistakes(minimal)
    assert len(found) == 1
    assert expected in found[0]


@pytest.mark.parametrize("missing", ["name", "batch_sizes", "seeds", "optimizers", "budget"])
def test_missing_fields_without_default_are_reported(minimal, missing):
    del minimal[missing]
    assert mistakes(minimal) == (f"{missing}: missing; it has no default",)


def test_inapplicable_targets_are_reported_with_other_mistakes(minimal):
    put(minimal, ("problem", "loss"), "squared_error")
    put(minimal, ("targets",), {"test_accuracy": [0.9], "test_loss": [0.1]})
    put(minimal, ("extra",), 1)
    applicable, unknown = sorted(mistakes(minimal), reverse=True)
    assert applicable.startswith(
        "targets: test_accuracy can't be measured, because this loss has no classes. Measured metrics: train_loss"
    )
    assert unknown.startswith("extra: unknown field")


@pytest.mark.parametrize(
    ("path", "one"), [(("batch_sizes",), 32), (("targets", "test_accuracy"), 0.9), (("schedule", "decay_at"), 0.5)]
)
def test_one_value_is_a_list_of_one(minimal, path, one):
    def given(value):
        raw = copy.deepcopy(minimal)
        put(raw, path, value)
        return parse_study(raw, source="test")

    assert given(one) == given([one])


def test_ghost_batches_are_the_micro_batches(minimal):
    put(minimal, ("problem", "ghost_batch"), 32)
    put(minimal, ("execution", "micro_batch"), 32)
    assert mistakes(minimal) == ("execution: micro_batch: problem.ghost_batch is the micro-batch; remove one",)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"epochs": 2.5}, "2.5 epochs"),
        ({"steps": 12000}, "12,000 steps"),
        (
            {"adjusted_epochs": 100, "base_batch_size": 128},
            "(log2(B / 128) + 1) × 100 epochs at batch size B",
        ),
    ],
)
def test_a_budget_in_words(budget, words):
    assert BudgetSpec(**budget).words() == words


def test_a_search_is_given_samples_or_hours(minimal):
    arm = {"kind": "sgd", "lr": {"log": [0.1, 1.0]}, "design": "tpe"}
    minimal |= {"search": {"objective": "test_loss"}, "optimizers": {"s": arm}}
    assert mistakes(minimal) == ('optimizers.s.samples: missing; design = "tpe" needs samples, or device_hours',)
    arm["device_hours"] = 0.0
    assert mistakes(minimal) == ("optimizers.s.device_hours: must be > 0.0",)
    arm["device_hours"] = 0.5
    spec = parse_study(minimal, source="test")
    assert spec.optimizers["s"].open_ended
    arm["samples"] = 4
    assert not parse_study(minimal, source="test").optimizers["s"].open_ended


def test_nothing_to_draw(minimal):
    minimal["optimizers"] = {"s": {"kind": "sgd", "lr": 0.1, "design": "random", "samples": 3}}
    assert mistakes(minimal) == ("optimizers.s: there is nothing to draw: no hyperparameter has a list or an interval",)


def test_a_study_too_large_for_memory_is_refused_before_it_is_expanded(minimal):
    interval = {"log": [0.001, 1.0], "points": 1000}
    put(minimal, LR, interval)
    put(minimal, MOMENTUM, {"linear": [0.0, 0.9], "points": 1000})
    (found,) = mistakes(minimal)
    assert found.startswith(
        "study: 1000002 configurations x 2 batch sizes x 2 seeds are 4000008 runs; at most 2000000."
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"name = ", "not valid TOML: Invalid value (at end of document)"),
        (b"name = 'a'\nname = 'b'\n", "line 2, column 11): name = 'b'  (a name may appear only once in a table)"),
        (
            b"# no quotes\nname = mine\n",
            "(at line 2, column 8): name = mine  (put strings in quotes",
        ),
        (b"name = '\xff'", "not UTF-8 text (byte 8, line 1); save the file as UTF-8"),
        (b"seeds = " + b"9" * 5000, "not valid TOML: "),
        (b"seeds = " + b"[" * 5000, "not valid TOML: "),
        (b"", "name: missing; it has no default"),
    ],
)
def test_files_that_are_no_study(tmp_path, data, words):
    path = tmp_path / "mine.toml"
    path.write_bytes(data)
    with pytest.raises(StudyFileError) as caught:
        load_study(path)
    assert words in caught.value.mistakes[0]
    assert str(path) in str(caught.value)


def test_a_value_is_mentioned_only_once():
    raw = {
        "name": "t",
        "batch_sizes": [8],
        "seeds": 1,
        "budget": {"steps": 1},
        "optimizers": {"a": {"kind": "sgd", "lr": -1.0}},
    }
    with pytest.raises(StudyFileError) as caught:
        parse_study(raw, source="t")
    assert str(caught.value).endswith("optimizers.a.lr: lr must be > 0; got -1")


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbf" + shipped()["quickstart"].read_bytes())
    assert load_study(path) == load_study(shipped()["quickstart"])


def test_a_file_that_is_missing_or_a_folder(tmp_path):
    with pytest.raises(UserError, match=r"no study file 'quickstrat' \(did you mean 'quickstart'\?\)\n.*quickstart"):
        find_study("quickstrat")
    with pytest.raises(UserError, match="no study file"):
        find_study(str(tmp_path))
    with pytest.raises(UserError, match="no study file"):
        find_study("x" * 5000)
    with pytest.raises(UserError, match="can't be read"):
        load_study(tmp_path)
    with pytest.raises(UserError, match="can't be read"):
        load_study(tmp_path / "absent.toml")


def test_a_study_is_found_by_path_or_by_its_shipped_name(tmp_path, monkeypatch):
    assert find_study("quickstart") == find_study("quickstart.toml") == shipped()["quickstart"]
    mine = tmp_path / "quickstart.toml"
    mine.write_text("")
    monkeypatch.chdir(tmp_path)
    assert find_study("quickstart.toml") == Path("quickstart.toml")


@pytest.mark.parametrize("name", shipped())
def test_shipped_files_are_valid_studies(name):
    spec = load_study(shipped()[name])
    assert spec.name == name
    assert spec.description
    trials = expand(spec)
    assert len({trial.id for trial in trials}) == len(trials)
    assert trials or all(arm.adaptive for arm in spec.optimizers.values())


def test_the_template_shows_every_field():
    text = shipped()["template"].read_text()
    models = (
        *(StudySpec, ProblemSpec, BudgetSpec, ScheduleSpec, EvaluationSpec, SearchSpec, ExecutionSpec, PrimarySpec),
        *(SGDArm, KFACArm),
    )
    names = {name for model in models for name in model.model_fields} | {"log", "linear", "points"}
    shown = set(re.findall(r"(?:^#? *|[{,] *)(\w+) = ", text, re.MULTILINE)) | set(
        re.findall(r"^\[(\w+)", text, re.MULTILINE)
    )
    assert names <= shown
    raw = tomllib.loads(text)
    assert raw["problem"]["dataset"] == "digits"
    design = {
        "design",
        "samples",
        "device_hours",
        "design_seed",
        "prune",
        "kl_clip",
        "damping_end",
        "clip_norm",
        "schedule",
        "problem",
        "evaluation",
    }  # some of these exclude others
    for kind in set(kinds()) - {OWN, "newton"}:
        arm = next(arm for arm in raw["optimizers"].values() if arm["kind"] == kind)
        assert set(arm_class(kind).model_fields) - set(arm) <= design, kind
        if kind not in ("sgd", "kfac"):  # these are shown at their defaults
            fields = arm_class(kind).model_validate(arm)
            assert fields == arm_class(kind).model_validate({"kind": kind, "lr": arm["lr"]})


def test_the_template_states_the_true_defaults():
    text = shipped()["template"].read_text()
    names = "test_fraction split_seed warmup_epochs divergence_bound threads design_seed factor_decay factor_interval"
    stated = {
        name: re.findall(rf"Default: ([^\s;]+?)[.;]?(?: [^\n]*)?\n(?:#[^\n]*\n)*{name} = ", text)
        for name in [*names.split(), "inverse_interval"]
    }
    fields = {**KFACArm.model_fields}
    for model in (ProblemSpec, ScheduleSpec, EvaluationSpec, ExecutionSpec):
        fields |= model.model_fields
    for name, found in stated.items():
        assert [float(value) for value in found] == [fields[name].default], name


@pytest.mark.parametrize("name", shipped())
def test_a_study_survives_json(name):
    spec = load_study(shipped()[name])
    again = StudySpec.model_validate(json.loads(json.dumps(spec.model_dump(mode="json"))))
    assert again == spec
    assert [trial.id for trial in expand(again)] == [trial.id for trial in expand(spec)]


NAMES = [
    *StudySpec.model_fields, *ProblemSpec.model_fields, *BudgetSpec.model_fields, *ScheduleSpec.model_fields,
    *EvaluationSpec.model_fields, *ExecutionSpec.model_fields, *SGDArm.model_fields, *KFACArm.model_fields,
    "log", "linear", "points", "test_accuracy", "train_loss", "sgd", "kfac",
]  # fmt: skip
SCALARS = st.one_of(
    st.booleans(),
    st.integers(),
    st.sampled_from([0, 1, -1, 10**18, 10**400, -(10**400), 2**63]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["sgd", "kfac", "grid", "sobol", "random", "digits", "a:b", "{name}", "%s", "squared_error", "."]),
    st.datetimes(),
    st.dates(),
    st.times(),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(st.sampled_from(NAMES), st.text(max_size=5)), inner)
    ),
    max_leaves=12,
)
TABLES = st.dictionaries(st.one_of(st.sampled_from(list(StudySpec.model_fields)), st.text(max_size=5)), TREES)


def outcome(raw):
    try:
        return parse_study(raw, source="fuzz")
    except StudyFileError as error:
        return error


FIELD = re.compile(r'  - ([\w-]|"[^\n]*"[.:\[])[^\n]*: |  - and \d+ more$')


def valid_or_named(raw):
    result = outcome(raw)  # any other exception fails the test
    if isinstance(result, StudySpec):
        assert StudySpec.model_validate(result.model_dump(mode="json")) == result
    else:
        assert result.mistakes
        first, *lines = str(result).split("\n")
        assert len(lines) == len(result.mistakes) == min(int(first.split()[1]), 41), "one line each, and how many more"
        assert [line for line in lines if not FIELD.match(line)] == [], "each begins with a field path"
        assert max(map(len, lines)) < 700


CHEAP = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],  # examples are small already, and shrinking takes minutes
    suppress_health_check=[HealthCheck.too_slow],
)


@given(TABLES)
@example({"[key]": 1})
@settings(CHEAP, max_examples=60)
def test_any_toml_is_a_study_or_named_mistakes(raw):
    valid_or_named(raw)


def places(tree, path=()):
    for name, value in tree.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from places(value, (*path, name))


BASES = [tomllib.loads(path.read_text()) for path in shipped().values()]
SPOTS = [(base, path) for base in BASES for path in places(base)]


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(["set", "delete", "add"]), TREES), min_size=1, max_size=4)
)
@settings(CHEAP, max_examples=150)
def test_a_damaged_study_is_a_study_or_named_mistakes(changes):
    base = copy.deepcopy(BASES[changes[0][0] % len(BASES)])
    for spot, action, value in changes:
        *folders, last = next(itertools.islice(itertools.cycle(list(places(base)) or [("name",)]), spot % 97, None))
        table = base
        for folder in folders:
            table = table[folder]
        if action == "delete":
            table.pop(last, None)
        elif action == "set":
            table[last] = value
        else:
            table[f"{last}_"] = value
    valid_or_named(base)


# Sizes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr = [" + "1, " * 20_000 + "]", r"lr: 20,000 values; at most 10,000"),
        ("lr = [" + "1.5, " * 9_999 + "]", r"repeated in the list: 1\.5\."),
        ("lr = 1\n" + "".join(f"k{i} = 1\n" for i in range(9_000)), r"9,00\d mistakes"),
        ("lr = " + "[" * 60 + "]" * 60, "nested tables and lists"),
        ("lr = 1\n" + "a." * 5_000 + "b = 1", "a key of more than 20 parts"),
        ('lr = 1\nkind = "' + "q" * 9_000 + '"', "lr|kind"),
        ('lr = 1\ndesign = "' + "q" * 20_000 + '"', "a string of 20,000 characters"),
        ("lr = 1\n" + "q" * 20_000 + " = 1", "a name of 20,000 characters"),
        ("lr = " + "9" * 4_000, "is not a finite number"),
        ("lr = 1 #" + "x" * 1_000_000, "larger than 1,000,000 bytes"),
    ],
)
def test_no_message_is_longer_than_a_screen(tmp_path, text, words):
    path = tmp_path / "big.toml"
    head = 'name = "x"\nbatch_sizes = [8]\nseeds = 1\nbudget = { steps = 2 }\n[optimizers.sgd]\n'
    path.write_text(head + ("" if "\nkind" in text else 'kind = "sgd"\n') + text)
    with pytest.raises(StudyFileError, match=words) as caught:
        load_study(path)
    message = str(caught.value)
    assert len(message) < 70 * 120
    assert len(message.splitlines()) <= 60
    assert len(caught.value.mistakes) <= 41


def test_a_message_keeps_its_beginning_and_its_end():
    text = str(UserError("\n".join(["start", *("x" * 10**5 for _ in range(10**3)), "the fix"])))
    lines = text.splitlines()
    assert (lines[0], lines[-1]) == ("start", "the fix")
    assert len(lines) == 61
    assert max(map(len, lines)) < 1_510


def test_a_long_word_leaves_room_for_what_is_wrong_with_it():
    line = str(UserError(f"no study at {'studies/' * 400}: File name too long"))
    assert len(line) < 350
    assert line.startswith("no study at studies/")
    assert line.endswith(": File name too long")
