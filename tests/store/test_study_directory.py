import io
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from sensitivity.store.counting import finished_trials
from sensitivity.store.directory import place
from sensitivity.store.manifest import read_manifest, spec_hash, write_manifest
from sensitivity.store.reader import export_runs, read_evaluations, read_plan, read_runs, read_study, studies
from sensitivity.store.schema import CURVE_COLUMNS, NOTE_COLUMNS, RESULT_COLUMNS, SCHEMA_VERSION, TRIAL_COLUMNS
from sensitivity.store.writer import write_plan
from sensitivity.study.errors import StorageError, UserError
from sensitivity.study.results import Status
from sensitivity.study.trials import expand


def parts(directory, folder):
    return [f"{folder}/{name}" for name in directory.child(folder).files(".parquet")]


def test_credentials_in_what_a_run_says_are_not_stored(directory, make):
    trials = make.filled(directory)
    said = "could not connect to postgresql://me:hush@host/db"
    make.add(directory, make.run(trials[4], Status.FAILED, message=said, traceback=f"Traceback\n{said}"))
    run = read_study(directory).runs.iloc[4]
    assert run["message"] == "could not connect to postgresql://me:***@host/db"
    assert "hush" not in run["traceback"]


def test_every_planned_run_is_read_back_with_its_status(directory, make):
    trials = make.filled(directory)
    study = read_study(directory)
    runs = study.runs
    assert runs["trial_id"].tolist() == [trial.id for trial in trials], "the plan's order"
    assert runs["cell_id"].tolist() == [trial.cell_id for trial in trials]
    assert runs["status"].tolist() == ["completed", "diverged", "failed", "interrupted"] + ["pending"] * 4
    assert runs["optimizer"].tolist() == ["sgd", "sgd", "kfac", "kfac"] * 2
    assert runs["seed"].tolist() == [0] * 4 + [1] * 4
    assert runs["param.lr"].tolist() == [0.1, 1.0, 0.1, 0.1] * 2
    assert runs["param.momentum"].tolist() == [0.0, 0.0, 0.9, 0.9] * 2
    np.testing.assert_array_equal(runs["param.damping"], [math.nan, math.nan, 0.01, 0.1] * 2)
    assert runs["message"].tolist()[1:5] == ["loss above the bound", "boom", "its worker was lost", ""]
    assert runs["traceback"].tolist()[2:5] == ["Traceback ...", "", ""]
    assert set(runs.columns) == {*TRIAL_COLUMNS, *RESULT_COLUMNS, *NOTE_COLUMNS} | {
        "param.lr", "param.momentum", "param.damping", "param.weight_decay"
    }  # fmt: skip
    assert study.unplanned == 0
    assert study.manifest.spec == make.study()


def test_a_runs_numbers_are_those_of_its_last_finite_evaluation(directory, make):
    make.filled(directory)
    completed, diverged, failed, interrupted, pending = (
        row for _, row in read_study(directory).runs.head(5).iterrows()
    )
    assert (completed.steps, completed.epochs, completed.initial_train_loss, completed.train_loss) == (
        10,
        1.0,
        2.0,
        0.5,
    )
    assert (diverged.steps, diverged.epochs, diverged.initial_train_loss, diverged.train_loss) == (8, 0.8, 2.0, 9.0)
    assert (failed.steps, failed.epochs, failed.train_loss) == (0, 0.0, 2.0)
    assert interrupted.steps == 0
    assert math.isnan(interrupted.train_loss)
    assert math.isnan(pending.steps)
    assert completed.pack_size == 2
    assert completed.started_at == pd.Timestamp("2001-09-09 01:46:40", tz="UTC")
    assert (completed.host, completed.device, completed.code_version, completed.spec_hash) == (
        "here",
        "cpu",
        "1.2+abc",
        "spec",
    )


def test_curves_are_read_back_in_order(directory, make):
    trials = make.filled(directory)
    curves = read_study(directory).curves
    assert list(curves.columns) == list(CURVE_COLUMNS)
    assert curves["trial_id"].is_monotonic_increasing
    first = curves[curves["trial_id"] == trials[0].id]
    assert first["step"].tolist() == [0, 5, 10]
    assert first["train_loss"].tolist() == [2.0, 1.0, 0.5]
    assert curves[curves["trial_id"] == trials[1].id]["train_loss"].tolist() == [2.0, 9.0, math.inf]
    assert len(curves) == 3 + 3 + 1


def test_a_retry_takes_the_place_of_an_interruption(directory, make):
    trials = make.filled(directory)
    assert finished_trials(directory) == {trial.id for trial in trials[:3]}
    make.add(directory, make.run(trials[3]))
    study = read_study(directory)
    assert study.runs["status"].tolist()[3] == "completed"
    assert len(study.runs) == 8
    assert finished_trials(directory) == {trial.id for trial in trials[:4]}


def test_an_interruption_never_hides_a_final_result_whatever_the_clocks_said(directory, make):
    trials = make.filled(directory)
    make.add(directory, make.interrupted(trials[0]))  # stamped later than the completed run
    assert read_study(directory).runs["status"].tolist()[0] == "completed"
    assert trials[0].id in finished_trials(directory)


def test_a_curve_comes_from_the_part_of_its_run(directory, make):
    trials = make.filled(directory)
    make.add(directory, make.run(trials[3], Status.INTERRUPTED, losses=(7.0, 7.0, 7.0, 7.0)), pack_id="0000")
    make.add(directory, make.run(trials[3], losses=(2.0, 1.0)), pack_id="ffff")
    make.add(directory, make.run(trials[3], Status.INTERRUPTED, losses=(8.0, 8.0, 8.0, 8.0)), pack_id="zzzz")
    curves = read_study(directory).curves
    assert curves[curves["trial_id"] == trials[3].id]["train_loss"].tolist() == [2.0, 1.0]


def test_curves_without_their_runs_do_not_count(directory, make, monkeypatch):
    trials = make.filled(directory)
    before = read_study(directory)
    monkeypatch.setattr(type(directory), "write", kill_before_runs(type(directory).write))
    with pytest.raises(KeyboardInterrupt):
        make.add(directory, make.run(trials[5]))
    monkeypatch.undo()
    assert len(parts(directory, "curves")) == len(parts(directory, "runs")) + 1
    after = read_study(directory)
    pd.testing.assert_frame_equal(after.runs, before.runs)
    pd.testing.assert_frame_equal(after.curves, before.curves)


def kill_before_runs(write):
    def killed(self, name, data):
        if name.startswith("runs/"):
            raise KeyboardInterrupt
        write(self, name, data)

    return killed


def test_runs_outside_the_present_plan_are_kept_and_counted(directory, make):
    trials = make.filled(directory)
    write_plan(directory, trials[1:])
    study = read_study(directory)
    assert len(study.runs) == 7
    assert study.unplanned == 1
    assert trials[0].id not in set(study.curves["trial_id"])
    assert trials[0].id in finished_trials(directory)


def test_a_kill_before_the_plan_still_leaves_every_run_pending(directory, make):
    write_manifest(directory, make.study(), "")
    study = read_study(directory)
    assert study.runs["trial_id"].tolist() == [trial.id for trial in expand(make.study())]
    assert set(study.runs["status"]) == {"pending"}
    assert study.curves.empty


def test_studies_are_listed_with_their_root(directory, make):
    make.filled(directory)
    root = type(directory)(directory.filesystem, directory.path.rpartition("/")[0], directory.uri.rpartition("/")[0])
    root.child("other").write("notes.txt", b"")
    assert [found.path for found in studies(root)] == [directory.path]
    write_manifest(directory.child("settle"), make.study(), "")
    assert [found.path for found in studies(directory)] == [directory.path], "without its settlement's folder"
    assert studies(root.child("absent")) == ()


# Manifests


def test_a_manifest_with_a_margin_that_study_files_no_longer_have_is_read(directory, make):
    write_manifest(directory, make.study(), "")
    content = json.loads(directory.read("study.json"))
    content["spec"]["margins"] = {"scaling_ratio": 1.4, "robust_decades": 0.25}
    directory.write("study.json", json.dumps(content).encode())
    assert read_manifest(directory).spec.margins.scaling_ratio == 1.4


def test_a_manifest_keeps_each_spec_it_was_run_with(directory, make):
    first, longer = make.study(), make.study(seeds=3, targets={"test_accuracy": [0.9]}, description="longer")
    write_manifest(directory, first, "")
    write_manifest(directory, longer, "")
    found = read_manifest(directory)
    assert found.spec == longer
    assert set(found.specs) == {spec_hash(first), spec_hash(longer)}
    assert found.spec_hash == spec_hash(longer)
    assert found.specs[spec_hash(first)]["spec"]["seeds"] == [0, 1]
    assert {"code_version", "packages", "machine"} < set(found.specs[spec_hash(first)])


def test_a_different_study_of_the_same_name_is_refused_with_what_differs(directory, make):
    make.filled(directory)
    before = make.snapshot(directory)
    other = make.study(budget={"epochs": 3}, problem={"model": "small_cnn"})
    with pytest.raises(StorageError) as caught:
        write_manifest(directory, other, "")
    assert str(caught.value).splitlines() == [
        f"{directory.uri}: contains a different study named 'tiny'",
        "  - problem.model: 'perceptron' there, 'small_cnn' now",
        "  - budget.epochs: 2.0 there, 3.0 now",
        "  Undo these changes to continue it; or choose another name for this study, or another place with --storage. "
        "The existing study is unchanged",
    ]
    with pytest.raises(StorageError, match="the source of the problem's own code has changed"):
        write_manifest(directory, make.study(), "abcd")
    assert make.snapshot(directory) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"schema_version": 0, "written_by": "sensitivity 0.0.1"},
            r"schema version 0; this code reads .*\n.*0\.0\.1.*again",
        ),
        ({"schema_version": SCHEMA_VERSION + 1}, "upgrade this package"),
        ({"schema_version": "x"}, "schema version x"),
        (
            {"spec": {"name": "x"}},
            r"study\.json: damaged \(its study is not valid: batch_sizes: missing.*\n  Restore",
        ),
        ({"spec": None}, "damaged"),
        ({"specs": 3}, "damaged"),
        ({"determinism": []}, "damaged"),
        ({"determinism": {"sentence": None, "faults": []}}, "damaged"),
        ({"determinism": {"sentence": "equal", "faults": 5}}, "damaged"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(directory, make, change, words):
    make.filled(directory)
    content = json.loads(directory.read("study.json")) | change
    directory.write("study.json", json.dumps(content).encode())
    refuses(directory, make, words)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"3", b'"text"', b"{}", b"\xff\xfe", b"null", b"[" * 100000])
def test_a_damaged_manifest_is_named(directory, make, data):
    make.filled(directory)
    directory.write("study.json", data)
    refuses(directory, make, r"study\.json: damaged \(.*\)\n  Restore it from a copy")


def refuses(directory, make, words):
    before = make.snapshot(directory)
    with pytest.raises(StorageError, match=words):
        read_study(directory)
    with pytest.raises(StorageError, match=words):
        write_manifest(directory, make.study(), "")
    assert make.snapshot(directory) == before


def test_no_study_there(directory):
    with pytest.raises(StorageError, match=r"no study here \(no study\.json\)\n  Use a study directory"):
        read_study(directory)


# Damage


def truncated(data):
    return data[: len(data) // 2]


def emptied(data):
    return b""


def garbled(data):
    return b"not parquet at all"


def flipped(data):
    """The same file with a few bytes of its first pages changed."""
    return data[:40] + bytes(255 - b for b in data[40:48]) + data[48:]


def other_columns(data):
    sink = io.BytesIO()
    pq.write_table(pa.table({"x": [1]}), sink)
    return sink.getvalue()


def other_types(data):
    table = pq.read_table(io.BytesIO(data))
    sink = io.BytesIO()
    pq.write_table(table.set_column(0, "trial_id", pa.array([[1]] * len(table))), sink)
    return sink.getvalue()


@pytest.mark.parametrize("damage", [truncated, emptied, garbled, flipped, other_columns, other_types])
@pytest.mark.parametrize("kind", ["plan", "runs", "curves"])
def test_a_damaged_part_is_named_with_its_mend(directory, make, damage, kind):
    make.filled(directory)
    name = "plan.parquet" if kind == "plan" else parts(directory, kind)[0]
    directory.write(name, damage(directory.read(name)))
    before = make.snapshot(directory)
    with pytest.raises(StorageError) as caught:
        read_study(directory)
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{directory.uri}/{name}: damaged Parquet file (")
    again = "the plan is rewritten" if kind == "plan" else f"/runs/{name.partition('/')[2]} away"
    assert again in second
    assert second.endswith("nothing was changed")
    if kind == "runs":
        with pytest.raises(StorageError, match="damaged"):
            finished_trials(directory)
    assert make.snapshot(directory) == before


@pytest.mark.parametrize("kind", ["runs", "curves"])
def test_the_mend_works(directory, make, kind):
    trials = make.filled(directory)
    name = parts(directory, kind)[0]
    directory.write(name, b"damaged")
    directory.delete(f"runs/{name.partition('/')[2]}")
    lost = len(trials[:3]) - len(finished_trials(directory))
    assert lost in (1, 2)
    assert len(read_study(directory).runs) == 8


def test_a_damaged_plan_is_mended_by_another_run(directory, make, caplog):
    trials = make.filled(directory)
    assert set(read_plan(directory)["trial_id"]) == {trial.id for trial in trials}
    directory.write("plan.parquet", b"damaged")
    known = read_plan(directory)  # what a search goes on from
    assert "plan.parquet: damaged" in caplog.text
    done = {trial.id: trial for trial in trials if trial.id in set(known["trial_id"])}
    assert len(done) == len(known) == 4
    for row in known.to_dict("records"):
        trial = done[row["trial_id"]]
        assert (row["optimizer"], row["batch_size"], row["seed"]) == (trial.arm, trial.batch_size, trial.seed)
        assert all(row[f"param.{name}"] == value for name, value in trial.hyperparameters)
    write_plan(directory, trials)
    assert len(read_study(directory).runs) == 8


def test_a_missing_curves_part_is_named(directory, make):
    make.filled(directory)
    name = parts(directory, "curves")[0]
    directory.delete(name)
    with pytest.raises(StorageError, match=r"curves/.*: damaged Parquet file \(it is missing\)"):
        read_study(directory)


# For others


def test_an_export_equals_the_table(directory, make):
    make.filled(directory)
    runs = read_study(directory).runs
    table = pq.read_table(pa.BufferReader(export_runs(directory, ".parquet")))
    assert table.num_rows == 8
    assert str(table.schema.field("steps").type) == "int64"
    assert table.schema.field("status").metadata[b"description"].startswith(b"completed, diverged")
    pd.testing.assert_frame_equal(table.to_pandas()[runs.columns], runs, check_dtype=False)
    text = export_runs(directory, ".csv").decode()
    assert text.splitlines()[0] == ",".join(table.column_names)
    csv = pd.read_csv(io.StringIO(text), keep_default_na=False, dtype=str)
    assert csv["steps"].tolist() == ["10", "8", "0", "0", "", "", "", ""]
    assert csv["status"].tolist() == runs["status"].tolist()
    assert csv["param.damping"].tolist() == ["", "", "0.01", "0.1"] * 2
    np.testing.assert_array_equal(pd.to_numeric(csv["train_loss"]), runs["train_loss"])


@pytest.mark.parametrize("suffix", ["", ".xlsx", ".json"])
def test_an_export_of_another_kind_is_refused(directory, make, suffix):
    make.filled(directory)
    with pytest.raises(UserError, match=r"can't export to .*; allowed: \.csv, \.parquet"):
        export_runs(directory, suffix)


def test_others_read_the_parts_with_no_code_of_ours(tmp_path, make):
    trials = make.filled(place(str(tmp_path)))
    runs = pyarrow.dataset.dataset(tmp_path / "runs").to_table().to_pandas()
    assert sorted(runs["trial_id"]) == sorted(trial.id for trial in trials[:4])
    assert len(pd.read_parquet(tmp_path / "curves")) == 7
    plan = pd.read_parquet(tmp_path / "plan.parquet")
    assert plan["trial_id"].tolist() == [trial.id for trial in trials]
    joined = plan.merge(runs[["trial_id", "status"]], how="left")
    assert joined["status"].notna().sum() == 4
    schema = pq.read_schema(next(Path(tmp_path / "curves").iterdir()))
    assert all(
        schema.field(name).metadata[b"description"].decode() == text for name, (_, text) in CURVE_COLUMNS.items()
    )


def test_columns_of_a_part_are_those_of_the_whole_curves(directory, make):
    make.filled(directory)
    study, read = read_study(directory), read_runs(directory)
    pd.testing.assert_frame_equal(read.runs, study.runs)
    columns = ["trial_id", "step", "test_loss"]
    tables = [read_evaluations(directory, part, columns).to_pandas() for part in dict.fromkeys(read.parts)]
    found = pd.concat([table.assign(trial_id=table["trial_id"].astype("str")) for table in tables])
    pd.testing.assert_frame_equal(
        found.sort_values(["trial_id", "step"], ignore_index=True), study.curves[columns].reset_index(drop=True)
    )
    one = read.parts.index[0]
    alone = read_evaluations(directory, read.parts[one], columns, [one]).to_pandas()
    assert set(alone["trial_id"]) == {one}
    assert alone["step"].tolist() == study.curves.loc[study.curves["trial_id"] == one, "step"].tolist()


def test_parts_that_were_read_are_not_read_again(directory, make):
    make.filled(directory)
    kept = {}
    whole = read_runs(directory, kept).runs
    assert sorted(kept) == list(directory.child("runs").files(".parquet"))
    for name in kept:
        directory.write(f"runs/{name}", b"not read")
    pd.testing.assert_frame_equal(read_runs(directory, kept).runs, whole)
    with pytest.raises(StorageError, match="damaged"):
        read_runs(directory)


@pytest.mark.parametrize("harm", ["cut", "bits", "gone"])
def test_a_damaged_part_of_curves_is_named_when_columns_are_asked_for(directory, make, harm):
    make.filled(directory)
    name = read_runs(directory).parts.iloc[0]
    data = bytearray(directory.read(f"curves/{name}"))
    if harm == "gone":
        directory.delete(f"curves/{name}")
    else:
        half = len(data) // 4
        changed = data[: len(data) // 2] if harm == "cut" else data[:half] + bytes(64) + data[half + 64 :]
        directory.write(f"curves/{name}", bytes(changed))
    with pytest.raises(StorageError, match=f"curves/{name}: damaged"):
        read_evaluations(directory, name, list(CURVE_COLUMNS))
