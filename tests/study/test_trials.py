import copy
import os
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensitivity.study.hashing import content_hash
from sensitivity.study.load import parse_study
from sensitivity.study.problem import ProblemSpec
from sensitivity.study.protocol import BudgetSpec, EvaluationSpec, ScheduleSpec
from sensitivity.study.trials import Trial, Workload, expand, group


def ids(raw, **options):
    return {trial.id for trial in expand(parse_study(raw, source="test"), **options)}


def test_every_combination_is_one_trial(minimal):
    trials = expand(parse_study(minimal, source="test"))
    assert len(trials) == 2 * 2 * (3 * 2 + 2) == len({trial.id for trial in trials})
    assert len({trial.cell_id for trial in trials}) == 16
    assert [trial.seed for trial in trials] == [0] * 16 + [1] * 16, "seeds outermost"
    first = trials[0]
    assert (first.arm, first.batch_size, first.settings["kind"]) == ("sgd", 32, "sgd")
    assert first.hyperparameters == (("lr", 0.01), ("momentum", 0.0), ("weight_decay", 0.0))
    assert first.label() == "sgd, batch 32, lr=0.01, momentum=0, weight_decay=0, seed 0"


GOLDEN_IDS = ["06ada3cd914b2582", "8cd80a9694317d48", "5f425da0961567fd"]
"""Without a spacing of evaluations, and with one in epochs or steps, as before `growth` was added.

If this changes, earlier results are no longer found: increment RESULT_VERSION on purpose, or correct the change."""
GOLDEN = """
from sensitivity.study.load import parse_study
from sensitivity.study.trials import expand
arm = {"kind": "kfac", "lr": {"log": [1e-3, 1.0], "points": 4}, "damping": 0.1}
raw = {"name": "x", "batch_sizes": [32], "seeds": 1, "budget": {"epochs": 5}, "optimizers": {"kfac": arm}}
for evaluation in ({}, {"every_epochs": 1}, {"every_steps": 20}):
    print(expand(parse_study({**raw, "evaluation": evaluation}, source="test"))[0].id)
"""


@pytest.mark.parametrize("hash_seed", ["0", "4242"])
def test_ids_are_the_same_in_every_process(hash_seed):
    answer = subprocess.run(
        [sys.executable, "-c", GOLDEN],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.split() == GOLDEN_IDS


CHANGES = [
    lambda raw: raw.update(batch_sizes=[33]),
    lambda raw: raw.update(seeds=[9]),
    lambda raw: raw.update(problem={"model": "small_cnn"}),
    lambda raw: raw.update(problem={"loss": "squared_error"}),
    lambda raw: raw.update(problem={"test_fraction": 0.3}),
    lambda raw: raw.update(problem={"split_seed": 1}),
    lambda raw: raw.update(problem={"dataset": "mine:data"}),
    lambda raw: raw.update(problem={"augment": "crop_flip"}),
    lambda raw: raw.update(problem={"ghost_batch": 16}),
    lambda raw: raw.update(problem={"train_subset": 500}),
    lambda raw: raw.update(problem={"test_subset": 500}),
    lambda raw: raw.update(problem={"dataset": "imagefolder:a"}),
    lambda raw: raw.update(problem={"dataset": "imagefolder:a", "image_size": 8}),
    lambda raw: raw.update(budget={"epochs": 3}),
    lambda raw: raw.update(budget={"steps": 2}),
    lambda raw: raw.update(budget={"adjusted_epochs": 2, "base_batch_size": 16}),
    lambda raw: raw.update(schedule={"lr_scaling": "linear", "base_batch_size": 32}),
    lambda raw: raw.update(schedule={"lr_scaling": "sqrt", "base_batch_size": 16}),
    lambda raw: raw.update(schedule={"decay": "cosine"}),
    lambda raw: raw.update(schedule={"warmup_epochs": 1}),
    lambda raw: raw.update(schedule={"decay_at": [0.5]}),
    lambda raw: raw.update(schedule={"decay_factor": 0.2}),
    lambda raw: raw.update(evaluation={"every_steps": 2}),
    lambda raw: raw.update(evaluation={"growth": 0.2}),
    lambda raw: raw.update(evaluation={"train_examples": 100}),
    lambda raw: raw.update(evaluation={"divergence_bound": 3.0}),
    lambda raw: raw["optimizers"]["k"].update(lr=[0.2]),
    lambda raw: raw["optimizers"]["k"].update(damping=0.2),
    lambda raw: raw["optimizers"]["k"].update(momentum=0.5),
    lambda raw: raw["optimizers"]["k"].update(weight_decay=0.1),
    lambda raw: raw["optimizers"]["k"].update(nesterov=True),
    lambda raw: raw["optimizers"]["k"].update(factor_decay=0.5),
    lambda raw: raw["optimizers"]["k"].update(factor_interval=5),
    lambda raw: raw["optimizers"]["k"].update(inverse_interval=7),
    lambda raw: raw["optimizers"]["k"].update(kl_clip=0.1),
]


@pytest.fixture
def single(minimal):
    return {
        **minimal,
        "batch_sizes": [32],
        "seeds": [0],
        "optimizers": {"k": {"kind": "kfac", "lr": 0.1, "damping": 0.1}},
    }


@pytest.mark.parametrize("change", CHANGES, ids=range(len(CHANGES)))
def test_what_determines_a_result_changes_its_id(single, change):
    changed = copy.deepcopy(single)
    change(changed)
    assert len(ids(single) | ids(changed)) == 2


def test_the_users_source_changes_ids(single):
    assert len(ids(single) | ids(single, source="aaaa") | ids(single, source="bbbb")) == 3


def test_what_does_not_determine_a_result_keeps_its_id(single):
    other = copy.deepcopy(single)
    other.update(
        name="other",
        description="other",
        targets={"test_loss": [0.5]},
        execution={"pack_size": 2, "threads": 3, "micro_batch": 8},
    )
    other["optimizers"]["k"].update(design="grid", momentum=[0.9], weight_decay=-0.0, inverse_interval=10)
    other["budget"] = {"epochs": 2.0}
    assert ids(other) == ids(single)


def test_an_extended_grid_re_uses_its_runs(minimal):
    before = ids(minimal)
    minimal.update(seeds=3, batch_sizes=[512, 32, 128])
    minimal["optimizers"]["sgd"]["lr"] = {"log": [0.01, 1.0], "points": 5}  # every second point is an old one
    minimal["optimizers"]["more"] = {"kind": "sgd", "lr": 0.1}
    assert before < ids(minimal)


def test_a_cell_is_its_trials_without_the_seed(minimal):
    by_cell = Counter(
        (t.cell_id, t.arm, t.batch_size, t.hyperparameters) for t in expand(parse_study(minimal, source="t"))
    )
    assert set(by_cell.values()) == {2}
    assert len(by_cell) == len({cell for cell, *_ in by_cell})


def test_an_id_is_the_hash_of_the_content(minimal):
    for trial in expand(parse_study(minimal, source="test"), source="a hash"):
        content = {
            "arm": trial.arm,
            "settings": trial.settings,
            "hyperparameters": dict(trial.hyperparameters),
            "batch_size": trial.batch_size,
            "workload": trial.workload.content,
        }
        assert trial.cell_id == content_hash(content)
        assert trial.id == content_hash({**content, "seed": trial.seed})


def test_content_hash_ignores_key_order():
    assert content_hash({"a": 1, "b": {"c": 2, "d": 3}}) == content_hash({"b": {"d": 3, "c": 2}, "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 1.5})


WORKLOAD = Workload(
    problem=ProblemSpec(), source="", budget=BudgetSpec(epochs=1), schedule=ScheduleSpec(), evaluation=EvaluationSpec()
)
KEYS = st.tuples(st.sampled_from(["sgd", "kfac"]), st.sampled_from([32, 64]), st.integers(0, 2))


@given(st.lists(KEYS, max_size=60), st.integers(1, 20))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_packs_hold_every_trial_once_evenly_in_order(keys, size):
    trials = [
        Trial(
            arm=arm,
            settings={"kind": arm},
            hyperparameters=(("lr", float(k)),),
            batch_size=batch,
            seed=seed,
            workload=WORKLOAD,
        )
        for k, (arm, batch, seed) in enumerate(keys)
    ]
    packs = group(trials, size)
    assert sorted(t.hyperparameters for p in packs for t in p.trials) == [t.hyperparameters for t in trials]
    sizes = {}
    for pack in packs:
        assert {t.group for t in pack.trials} == {(pack.arm, pack.batch_size)}
        seeds = {t.seed for t in pack.trials}
        for seed in seeds:
            own = [t.hyperparameters for t in pack.trials if t.seed == seed]
            assert own == sorted(own), "in order"
            assert len(seeds) == 1 or 2 * keys.count((*pack.trials[0].group, seed)) <= size, "seeds mix where few"
        assert 1 <= len(pack.trials) <= size
        key = (*pack.trials[0].group, seeds.pop() if len(seeds) == 1 else None)
        sizes.setdefault(key, []).append(len(pack.trials))
    for (arm, batch, seed), found in sizes.items():
        whole = sum(key[:2] == (arm, batch) and seed in (None, key[2]) for key in keys)
        assert max(found) - min(found) <= 1, "evenly filled"
        assert len(found) == -(-whole // size), "no more packs than needed"


def test_a_packs_id_is_its_trials(minimal):
    trials = expand(parse_study(minimal, source="test"))
    assert [p.id for p in group(trials, 4)] == [p.id for p in group(trials, 4)]
    assert len({p.id for p in group(trials, 4)}) == len(group(trials, 4))
