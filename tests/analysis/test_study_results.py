"""One object answers for every face: few evaluations say what whole curves say, a view changes what it names alone."""

import dataclasses
from dataclasses import replace
from itertools import product
from threading import Thread

import numpy as np
import pandas as pd
import pytest

from sensitivity.analysis import memo
from sensitivity.analysis.evaluations import read_tables
from sensitivity.analysis.maps import compute_maps
from sensitivity.analysis.study_results import StudyResults
from sensitivity.analysis.success import compute_success
from sensitivity.analysis.times import compute_times
from sensitivity.analysis.view import Narrowed
from sensitivity.store.reader import read_study
from sensitivity.study.errors import UserError
from sensitivity.study.results import Status
from sensitivity.study.spec import MarginsSpec

ANSWERS = (
    "summary", "costs", "cost_ratios", "time_splits", "clipping", "maps", "cautions", "best_of_k", "importance",
    "lr_sensitivity", "tunings", "own_regions", "target_regions", "varying", "success", "planes", "draws", "prices",
    "claims", "why_not", "look_cautions", "metrics", "metric", "target", "targets", "pairs",
)  # fmt: skip


def plain(value):
    """A result as nested tuples and text, in which NaN equals NaN."""
    if dataclasses.is_dataclass(value):
        return tuple(plain(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, (tuple, list)):
        return tuple(map(plain, value))
    if isinstance(value, np.ndarray):
        return tuple(map(plain, value.tolist()))
    return repr(value)


def answers(results):
    found = {name: getattr(results, name) for name in ANSWERS}
    for target, unit in product(results.targets, ("steps", "seconds")):
        found["scaling", target, unit] = results.scaling_to(target, unit)
        found["outcomes", target] = results.outcomes(target)
    for pair in results.pairs:
        found["difference", pair], found["ratio", pair] = results.success_difference(pair), results.price_ratios(pair)
    found["profiles"] = results.profiles()
    return {name: plain(value) for name, value in found.items()}


def mixed(synthetic, trial):
    """Diverged at the largest rate, failed for SGD at the smallest, one seed pending at 128, else a known loss."""
    lr = dict(trial.hyperparameters)["lr"]
    if trial.seed == 2 and trial.batch_size == 128:
        return None
    if lr == 1.0:
        return synthetic.run(trial, [9.0], Status.DIVERGED)
    if trial.arm == "sgd" and lr == 0.01:
        return synthetic.run(trial, [], Status.FAILED)
    return synthetic.run(trial, [2.0, lr + 0.05 * trial.seed + 0.1, 0.02 + 0.05 * trial.seed])


def interrupted(synthetic, trial):
    return replace(synthetic.run(trial, [0.01, 0.01]), status=Status.INTERRUPTED)


CASES = {
    "mixed": {},
    "in two parts": {},
    "pending": {},
    "no target": {"targets": {}},
    "one optimizer": {"optimizers": {"kfac": {"kind": "kfac", "lr": [0.01, 0.1], "damping": [0.01, 0.1]}}},
    "draws": {
        "optimizers": {
            name: {"kind": "sgd", "lr": {"log": [0.01, 1.0]}, "design": "random", "samples": 4} for name in ("a", "b")
        }
    },
    "three": {
        "optimizers": {
            "kfac": {"kind": "kfac", "lr": [0.01, 0.1, 1.0], "damping": [0.01, 0.1]},
            "sgd": {"kind": "sgd", "lr": [0.01, 0.1, 1.0]},
            "heavy": {"kind": "sgd", "lr": [0.01, 0.1, 1.0], "momentum": 0.9},
        },
        "pairs": [("kfac", "sgd"), ("heavy", "sgd")],
    },
}


@pytest.fixture(scope="module")
def directory(synthetic, tmp_path_factory):
    made = {}

    def make(case):
        if case not in made:
            outcome = (lambda _: None) if case == "pending" else (lambda trial: mixed(synthetic, trial))
            spec, folder = synthetic.make_spec(**CASES[case]), tmp_path_factory.mktemp("s") / "study"
            if case == "in two parts":  # the first pack was interrupted, so that another part has better curves of it
                synthetic.write_study(folder, spec, lambda trial: interrupted(synthetic, trial), packs=1)
            made[case] = synthetic.write_study(folder, spec, outcome)
        return made[case]

    return make


@pytest.mark.parametrize("case", CASES)
def test_few_evaluations_give_the_answers_of_whole_curves(directory, case):
    place = directory(case)
    cheap, whole = answers(StudyResults(read_tables(place))), answers(StudyResults(read_study(place)))
    assert cheap.keys() == whole.keys()
    assert [name for name in cheap if cheap[name] != whole[name]] == []


VIEWS = {
    "batch": ({"batch_sizes": (32,)}, lambda runs: runs[runs["batch_size"] == 32]),
    "box": (
        {"box": (Narrowed("kfac", "lr", 0.01, 0.2),)},
        lambda runs: runs[(runs["optimizer"] != "kfac") | (runs["param.lr"] < 0.21)],
    ),
    "loss": ({"metric": "train_loss"}, lambda runs: runs),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("case", ["mixed", "in two parts"])
def test_few_evaluations_give_the_answers_of_what_a_view_leaves(directory, case, view):
    asked, left = VIEWS[view]
    study = read_study(directory(case))
    runs = left(study.runs)
    curves = study.curves[study.curves["trial_id"].isin(runs["trial_id"])]
    found = StudyResults(read_tables(directory(case))).under(**asked)
    assert len(runs) > 0
    pd.testing.assert_frame_equal(found.runs, runs)
    designs = {"kfac": "grid", "sgd": "grid"}
    assert plain(found.maps) == plain(compute_maps(runs, curves, found.metric, designs=designs))
    assert plain(found.success) == plain(compute_success(runs, curves, found.metric.name, designs=designs))
    pd.testing.assert_frame_equal(found.times(found.target), compute_times(runs, curves, *found.target))
    for cell in runs["cell_id"].iloc[[0, -1]]:
        rows = found.cell_rows(cell)["trial_id"]
        read = found.tables.curves_of(rows).sort_values(["trial_id", "step"], ignore_index=True)
        pd.testing.assert_frame_equal(read, curves[curves["trial_id"].isin(rows)].reset_index(drop=True))


def test_without_a_view_the_study_decides_what_is_looked_at(directory, synthetic):
    results = StudyResults(read_tables(directory("mixed")))
    assert (results.target, results.metric.name) == (("test_accuracy", 0.9), "test_accuracy")
    assert not results.chosen
    other = synthetic.make_spec(
        targets={"train_loss": [0.5, 0.3]}, primary={"question": "scaling", "target": {"train_loss": 0.3}}
    )
    tables = replace(read_study(directory("mixed")), manifest=replace(results.manifest, spec=other))
    assert StudyResults(tables).target == ("train_loss", 0.3), "the primary claim's, not the first"
    assert StudyResults(tables).metric.name == "train_loss"
    assert StudyResults(tables).targets == (("train_loss", 0.5), ("train_loss", 0.3))
    pending = StudyResults(read_tables(directory("pending")))
    assert (pending.metrics, pending.maps, pending.metric.name) == ((), (), "test_accuracy")
    assert [why.code for why in StudyResults(read_tables(directory("no target"))).why_not] == ["no-target"]
    assert [why.code for why in StudyResults(read_tables(directory("one optimizer"))).why_not] == ["one-optimizer"]


def test_a_metric_is_looked_at_without_changing_what_is_claimed(directory):
    results = StudyResults(read_tables(directory("mixed")))
    loss = results.under(metric="train_loss")
    assert (loss.maps[0].metric.name, results.maps[0].metric.name) == ("train_loss", "test_accuracy")
    assert loss.target == results.target
    assert loss.claims is results.claims, "computed once"


@pytest.mark.parametrize(
    ("view", "said"),
    [
        ({"metrc": "test_loss"}, "there is no field of a view 'metrc'; did you mean 'metric'?"),
        ({"metric": "test_acuracy"}, "there is no metric 'test_acuracy'; did you mean 'test_accuracy'?"),
        ({"target": ("accuracy", 0.9)}, "there is no metric 'accuracy'"),
        ({"target": "test_accuracy"}, 'must be a metric and a level, such as ("test_accuracy", 0.9)'),
        ({"optimizers": ("KFAC",)}, "there is no optimizer 'KFAC'; did you mean 'kfac'?"),
        ({"optimizers": "kfac"}, "optimizers: must be a tuple"),
        ({"batch_sizes": (17,)}, "there is no batch size 17"),
    ],
)
def test_a_view_of_what_the_study_lacks_is_refused(directory, view, said):
    results = StudyResults(read_tables(directory("mixed")))
    with pytest.raises(UserError) as caught:
        results.under(**view)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "view",
    [
        {"batch_sizes": (32,)},
        {"optimizers": ("kfac",)},
        {"box": (Narrowed("kfac", "lr", 0.01, 0.1),)},
        {"target": ("test_accuracy", 0.8)},
        {"margins": MarginsSpec(scaling_ratio=3.0)},
    ],
    ids=lambda view: next(iter(view)),
)
def test_what_is_chosen_after_the_fact_is_exploratory(directory, view):
    results = StudyResults(read_tables(directory("mixed")))
    assert {claim.role for claim in results.claims} == {"confirmatory"}
    assert {claim.role for claim in results.under(**view).claims} <= {"exploratory"}
    assert {claim.role for claim in results.claims} == {"confirmatory"}, "the study itself is as it was"


def test_margins_of_the_study_and_of_the_view_decide_the_verdict(synthetic, tmp_path):
    """Twice as many steps: beyond a margin of 1.25, within one of 3. The dashboard once ignored `[margins]`."""
    arms = {name: {"kind": "sgd", "lr": 0.1} for name in ("fast", "slow")}
    spec = synthetic.make_spec(
        optimizers=arms, pairs=[("fast", "slow")], seeds=8, batch_sizes=[32, 128], budget={"epochs": 9},
        targets={"train_loss": [0.5]}, margins={"scaling_ratio": 3.0},
    )  # fmt: skip

    def outcome(trial):
        epochs = (2 if trial.arm == "fast" else 4) + (trial.batch_size == 32) * (1 if trial.arm == "fast" else 2)
        return synthetic.run(trial, [2.0] * (epochs - 1) + [0.4 - 0.001 * trial.seed] * (10 - epochs))

    results = StudyResults(read_tables(synthetic.write_study(tmp_path / "s", spec, outcome)))
    margins = [claim.verdict.by_batch[0].margin for claim in results.claims if claim.verdict.by_batch]
    assert margins == pytest.approx([np.log(3.0)])
    narrow = results.under(margins=spec.margins.model_copy(update={"scaling_ratio": 1.25}))
    assert [c.verdict.by_batch[0].margin for c in narrow.claims if c.verdict.by_batch] == pytest.approx([np.log(1.25)])


def test_confirmations_time_winners_and_enter_nothing_else(directory):
    study = read_study(directory("mixed"))
    before = StudyResults(study)
    winner = before.scaling_to(("train_loss", 0.5))[0].points[0]
    rows = study.runs[study.runs["cell_id"] == winner.cell_id]
    fresh = rows.assign(
        seed=rows["seed"] + 10**9, confirmation=True, trial_id=rows["trial_id"] + "f",
        test_accuracy=0.999, train_loss=1e-6, test_loss=1e-6, train_accuracy=1.0,
    )  # fmt: skip
    curves = study.curves[study.curves["trial_id"].isin(rows["trial_id"])]
    later = curves.assign(trial_id=curves["trial_id"] + "f", step=curves["step"] * 2)
    whole = replace(study, runs=pd.concat([study.runs, fresh]), curves=pd.concat([study.curves, later]))
    after = StudyResults(whole)
    assert after.summary.total.planned == before.summary.total.planned + len(fresh)
    unmoved = {
        "maps", "best_of_k", "importance", "lr_sensitivity", "tunings", "own_regions", "target_regions", "success",
        "planes", "draws", "prices", "varying",
    }  # fmt: skip
    old, new = answers(before), answers(after)
    assert [name for name in unmoved if old[name] != new[name]] == []
    assert [name for name in old if name[0] == "outcomes" and old[name] != new[name]] == []
    timed = after.scaling_to(("train_loss", 0.5))[0].points[0]
    assert timed.cell_id == winner.cell_id
    assert (winner.method, timed.method) == ("cross-fitted", "confirmed")
    assert timed.time.value == pytest.approx(2 * winner.time.value), "on the fresh seeds, which take twice as long"


def test_narrowing_any_hyperparameter_filters_its_optimizer_and_its_prior(directory):
    results = StudyResults(read_tables(directory("mixed")))
    narrowed = results.under(box=(Narrowed("sgd", "momentum", 0.5, 0.9),))
    momenta = narrowed.runs.groupby("optimizer")["param.momentum"].unique()
    assert sorted(momenta["sgd"]) == [0.5, 0.9]
    assert (narrowed.runs["optimizer"] == "kfac").sum() == (results.runs["optimizer"] == "kfac").sum()
    priors = [{draws.optimizer: draws.prior for draws in of.draws}["sgd"] for of in (results, narrowed)]
    assert "momentum one of 3 values, 0 to 0.9" in priors[0]
    assert "momentum one of 2 values, 0.5 to 0.9" in priors[1]


def test_an_answer_is_computed_once_whoever_asks_and_few_filters_are_kept(directory, monkeypatch):
    results, computed = StudyResults(read_tables(directory("mixed"))), []
    compute = memo.Memo.get

    def counting(self, key, make):
        return compute(self, key, lambda: (computed.append(key), make())[1])

    monkeypatch.setattr(memo.Memo, "get", counting)
    threads = [Thread(target=lambda: results.under(metric="test_accuracy").maps) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(key[0] == "maps" for key in computed if isinstance(key[0], str)) == 1
    for k in range(20):
        assert len(results.under(box=(Narrowed("kfac", "lr", 0.01 * (1 + k / 100), 1.0),)).runs) > 0
    assert len(results.memo._kept) == 8


def test_a_list_looks_at_the_same_as_a_tuple(directory):
    results = StudyResults(read_tables(directory("mixed")))
    assert results.under(batch_sizes=[32]).maps is results.under(batch_sizes=(32,)).maps


def test_metrics_are_those_that_the_problem_has(directory, synthetic):
    """A squared-error problem has no accuracy, whatever columns its runs were given."""
    study = read_study(directory("mixed"))
    spec = synthetic.make_spec(problem={"loss": "squared_error"}, targets={})
    results = StudyResults(replace(study, manifest=replace(study.manifest, spec=spec)))
    assert {metric.name for metric in results.metrics} == {"train_loss", "test_loss"}
    assert all(results.under(metric=metric.name).maps for metric in results.metrics)
