"""User tables: reading, splitting, and one message per mistake."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import csv, parquet

from sensitivity.study.errors import UserError
from sensitivity.study.problem import ProblemSpec
from sensitivity.training.problems import load_problem

ROWS = 60
RANDOM = np.random.default_rng(0)
TABLE = {
    "age": RANDOM.integers(20, 80, ROWS),
    "dose": RANDOM.normal(5.0, 2.0, ROWS),
    "patient": [f"p{k // 4}" for k in range(ROWS)],
    "fold": ["train"] * 40 + ["validation"] * 8 + ["test"] * 12,
    "kind": [("mild", "none", "severe")[k % 3] for k in range(ROWS)],
    "outcome": RANDOM.normal(100.0, 30.0, ROWS),
}
INPUTS = ["age", "dose"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("tables")
    arrow = pa.table(TABLE)
    csv.write_csv(arrow, found / "t.csv")
    parquet.write_table(arrow, found / "t.parquet")
    x = np.stack([TABLE["age"], TABLE["dose"]], 1)
    np.savez(found / "t.npz", x=x, y=TABLE["outcome"], kind=np.arange(ROWS) % 7)
    np.save(found / "t.npy", np.column_stack([x, TABLE["outcome"]]))
    parquet.write_table(arrow.append_column("hole", pa.array([None, *[1.0] * (ROWS - 1)])), found / "hole.parquet")
    (found / "bad.parquet").write_text("no table")
    return found


def load(folder, name, **fields):
    raw = {"dataset": f"table:{name}", "loss": "squared_error", **fields}
    return load_problem(ProblemSpec(**raw), folder=folder, dtype=torch.float64)


def of(problem):
    data = problem.dataset
    return torch.cat([data.train_inputs, data.test_inputs]), torch.cat([data.train_targets, data.test_targets])


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.npz", "t.npy"])
def test_every_form_holds_the_same_rows(folder, name):
    columns = {"inputs": INPUTS, "targets": "outcome"} if name in ("t.csv", "t.parquet") else {}
    problem = load(folder, name, columns={**columns, "standardise": "none"})
    inputs, targets = of(problem)
    order = targets[:, 0].argsort()
    expected = np.asarray(TABLE["outcome"]).argsort()
    assert inputs[order].numpy() == pytest.approx(np.stack([TABLE["age"], TABLE["dose"]], 1)[expected])
    assert targets[order, 0].numpy() == pytest.approx(TABLE["outcome"][expected])
    assert (problem.dataset.train_size, len(problem.dataset.test_inputs)) == (48, 12)
    assert len(problem.dataset.fingerprint) == 16


def test_standardisation_uses_training_rows_only(folder):
    problem = load(folder, "t.csv", columns={"inputs": INPUTS, "targets": "outcome"})
    data = problem.dataset
    for values in (data.train_inputs, data.train_targets):
        assert values.mean(0).abs().max() < 1e-9
        assert values.std(0, correction=0).numpy() == pytest.approx(1.0)
    assert data.test_inputs.mean(0).abs().max() > 1e-3


def test_a_column_says_which_rows_are_for_what(folder):
    problem = load(
        folder,
        "t.csv",
        validation_fraction=0.1,
        columns={"inputs": INPUTS, "targets": "outcome", "split": "fold", "standardise": "none"},
    )
    data = problem.dataset
    sizes = [len(targets) for targets in (data.train_targets, data.validation_targets, data.test_targets)]
    assert sizes == [40, 8, 12]
    assert sorted(data.validation_targets[:, 0].tolist()) == pytest.approx(sorted(TABLE["outcome"][40:48]))
    assert {metric.on for metric in problem.measured} == {"train", "validation", "test"}


def test_groups_stay_together_and_classes_are_split_alike(folder):
    columns = {"inputs": ["dose", "outcome"], "targets": "age", "group": "patient", "standardise": "none"}
    data = load(folder, "t.csv", columns=columns, validation_fraction=0.25).dataset
    group = {round(outcome, 6): patient for outcome, patient in zip(TABLE["outcome"], TABLE["patient"], strict=True)}
    splits = [data.train_inputs, data.validation_inputs, data.test_inputs]
    groups = [{group[round(value, 6)] for value in inputs[:, 1].tolist()} for inputs in splits]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 15
    assert all(len(inputs) % 4 == 0 for inputs in splits)
    columns = {"inputs": INPUTS, "targets": "kind"}
    data = load(folder, "t.csv", loss="cross_entropy", columns=columns, validation_fraction=0.25).dataset
    for targets in (data.train_targets, data.validation_targets, data.test_targets):
        assert len(set(torch.bincount(targets).tolist())) == 1, "three classes of 20 rows, alike in every split"


def test_outputs_may_exceed_the_classes_of_the_targets(folder):
    columns = {"targets": "kind"}
    problem = load(folder, "t.npz", loss="cross_entropy", outputs=96, columns=columns)
    assert problem.outputs == 96
    assert problem.build_model()(problem.dataset.train_inputs[:2]).shape == (2, 96)
    with pytest.raises(UserError, match=r"outputs: 6, but the targets of table:t\.npz have the class 6"):
        load(folder, "t.npz", loss="cross_entropy", outputs=6, columns=columns)


MISTAKES = [
    ("no.csv", {}, {}, r"there is no file 'no\.csv'; tried"),
    ("bad.parquet", {}, {}, r"bad\.parquet: can't be read as \.parquet"),
    ("t.csv", {"targets": "outcom"}, {}, r"targets: .* has no column 'outcom' \(did you mean 'outcome'\?\)"),
    ("t.csv", {"targets": "outcome"}, {}, r"column patient contains text; inputs are numbers"),
    ("t.csv", {"inputs": ["age"], "targets": "age"}, {}, r"'age' has another role"),
    (
        "hole.parquet",
        {"inputs": ["hole"], "targets": "outcome"},
        {},
        r"hole: 1 of 60 rows .* the first is row 1",
    ),
    (
        "t.csv",
        {"inputs": INPUTS, "targets": "outcome"},
        {"loss": "cross_entropy"},
        r"needs classes, but it contains",
    ),
    (
        "t.csv",
        {"inputs": INPUTS, "targets": "outcome", "split": "kind"},
        {},
        r"contains 'mild'; allowed are train",
    ),
    ("t.csv", {"inputs": INPUTS, "targets": "outcome", "split": "fold"}, {}, r"has validation rows; set problem"),
    ("t.npz", {"inputs": "z"}, {}, r"has no column 'z'"),
    ("t.csv", {"inputs": INPUTS, "targets": "outcome"}, {"outputs": 3}, r"outputs: 3, but a target has 1 numbers"),
    (
        "t.csv",
        {"inputs": INPUTS, "targets": "kind"},
        {"loss": "cross_entropy", "loss_arguments": {"class_weights": [1.0, 2.0]}},
        r"class_weights: 2 numbers; give one for each of the 3 classes",
    ),
    (
        "t.csv",
        {"inputs": INPUTS, "targets": "kind"},
        {"loss": "cross_entropy", "metrics": {"top5_accuracy": True}},
        r"top5_accuracy: it is always 100% with 3 outputs",
    ),
    ("t.csv", {"inputs": INPUTS, "targets": "outcome"}, {"loss": "binary_cross_entropy"}, r"a target from 0 to 1"),
]


@pytest.mark.parametrize(("name", "columns", "fields", "words"), MISTAKES, ids=lambda v: str(v)[:30])
def test_what_cannot_be_is_one_message(folder, name, columns, fields, words):
    with pytest.raises(UserError, match=words):
        load(folder, name, columns=columns, **fields)


def test_columns_belong_to_a_table():
    with pytest.raises(ValueError, match='belongs to dataset = "table:PATH"'):
        ProblemSpec(dataset="digits", columns={"inputs": "x"})
    with pytest.raises(ValueError, match=r"the path of a file that ends in \.csv"):
        ProblemSpec(dataset="table:data.xlsx")
