"""What is read is either a table that analysis can trust, or an error that names the file."""

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import fs

from sensitivity.analysis.summary import compute_summary
from sensitivity.store import validation
from sensitivity.store.counting import finished_trials, read_counts, read_statuses
from sensitivity.store.directory import Place, place
from sensitivity.store.manifest import read_manifest, write_manifest
from sensitivity.store.reader import export_runs, read_evaluations, read_runs, read_study, studies
from sensitivity.store.schema import CURVE_COLUMNS, RESULT_COLUMNS, TRIAL_COLUMNS
from sensitivity.store.writer import append, plan_table, write_plan
from sensitivity.study.errors import StorageError
from sensitivity.study.results import Status
from sensitivity.study.trials import expand, group


def rewrite(directory, name, change):
    """Replace the table of a file by what `change` makes of it."""
    table = change(pq.read_table(pa.BufferReader(directory.read(name))))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    directory.write(name, sink.getvalue())


def with_value(column, value, row=0):
    def change(table):
        values = table[column].to_pylist()
        values[row] = value
        kind = table.schema.field(column).type
        if pa.types.is_timestamp(kind):
            array = pa.array(
                [v if isinstance(v, int) or v is None else int(v.timestamp() * 1e6) for v in values], pa.int64()
            ).cast(kind)
        else:
            array = pa.array(values, kind)
        return table.set_column(table.column_names.index(column), column, array)

    return change


def in_memory():
    return Place(fs._MockFileSystem(), "bucket/tiny", "mock://bucket/tiny")


def files(directory):
    part = directory.child("runs").files(".parquet")
    return {"plan": "plan.parquet", "runs": f"runs/{part[0]}", "curves": f"curves/{part[0]}"}


def test_each_column_has_a_rule():
    assert set(validation.TRIAL_RULES) == set(TRIAL_COLUMNS)
    assert set(validation.RESULT_RULES) == {name for name in RESULT_COLUMNS if not name.startswith("seconds.")}
    assert set(validation.CURVE_RULES) == set(CURVE_COLUMNS)


@pytest.mark.parametrize(
    ("table", "column", "value", "words"),
    [
        (
            "runs",
            "finished_at",
            316_000_000_000_000_000,
            "11983-08-23T09:46:40.000000; it must be a time from 1970 to 2200",
        ),
        ("runs", "finished_at", -(2**63) + 1, "it must be a time from 1970"),
        ("runs", "started_at", None, "nothing; it must be a time"),
        ("runs", "status", "done", "'done'; it must be one of completed, diverged"),
        ("runs", "status", "pending", "must be one of"),
        ("runs", "train_loss", math.nan, "nan; it must be the finite loss of a completed run"),
        ("runs", "train_loss", 1e308, r"1e\+308; it must be a number from"),
        ("runs", "train_seconds", math.inf, "inf; it must be a number from 0"),
        ("runs", "test_accuracy", 95.0, "95.0; it must be a number from 0 to 1"),
        ("runs", "steps", -1, "-1; it must be a whole number from 0"),
        ("runs", "trial_id", "x" * 10**4, r"column trial_id, row 0: 'x+\.\.\. \(10,002 characters\); it must be an id"),
        ("plan", "optimizer", "adam", "'adam'; it must be an optimizer of the study: sgd, kfac"),
        ("plan", "kind", "kfac", "'kfac'; it must be sgd, the kind of optimizer sgd"),
        ("plan", "batch_size", 0, "0; it must be a whole number from 1"),
        ("plan", "seed", None, "nothing; it must be a whole number"),
        ("plan", "param.lr", -0.1, "-0.1; it must be > 0"),
        ("plan", "param.damping", 0.1, "empty: optimizer sgd has no damping"),
        ("plan", "param.momentum", None, "nan; it must be >= 0 and < 1"),
        ("curves", "step", 5, "5 occurs twice in the curve of a run"),
        ("curves", "lr", math.nan, "nan; it must be a number from 0"),
        ("curves", "train_loss", -1e200, "number from -1e"),
    ],
)
def test_an_impossible_value_is_named_with_file_column_and_row(make, table, column, value, words):
    directory = in_memory()
    make.filled(directory)
    name = next(
        f"{table}/{part}" if table != "plan" else "plan.parquet"
        for part in directory.child("runs").files(".parquet")
        if "sgd" in pq.read_table(pa.BufferReader(directory.read(f"runs/{part}")))["optimizer"].to_pylist()
    )
    rewrite(directory, name, with_value(column, value))
    with pytest.raises(StorageError, match=words) as caught:
        read_study(directory)
    first, fix = str(caught.value).splitlines()
    assert first.startswith(f"{directory.uri}/{name}: ")
    assert f"column {column}, row" in first
    assert "run the same study again" in fix.lower()


@pytest.mark.parametrize("column", ["cell_id", "trial_id"])
def test_a_trial_stands_once_in_a_plan(make, column):
    directory = in_memory()
    make.filled(directory)

    def repeat(table):
        values = table[column].to_pylist()
        values[4] = values[0]  # seed 1 for seed 0
        seeds = [0] * 8
        table = table.set_column(table.column_names.index("seed"), "seed", pa.array(seeds))
        return table.set_column(table.column_names.index(column), column, pa.array(values))

    rewrite(directory, "plan.parquet", repeat)
    with pytest.raises(StorageError, match=r"plan\.parquet: .*the same trial occurs twice"):
        read_study(directory)


def test_one_bad_study_leaves_the_others_readable(make, tmp_path):
    for name in "abc":
        make.filled(place(str(tmp_path / name)))
    rewrite(place(str(tmp_path / "b")), files(place(str(tmp_path / "b")))["runs"], with_value("finished_at", 2**62))
    found = studies(place(str(tmp_path)))
    assert [directory.path.rpartition("/")[2] for directory in found] == ["a", "b", "c"]
    for directory in (found[0], found[2]):
        assert read_counts(directory).by_status["completed"] == 1
    for read in (read_counts, read_study, read_runs, finished_trials):
        with pytest.raises(StorageError, match=r"/b/runs/.*column finished_at"):
            read(found[1])


def test_counts_are_those_of_the_whole_table(directory, make):
    trials = make.filled(directory)
    make.add(directory, make.interrupted(trials[0]))  # later than its completed result
    write_plan(directory, trials[1:])
    counts, runs = read_counts(directory), read_study(directory).runs
    assert counts.planned == len(runs) == 7
    assert {name: n for name, n in counts.by_status.items() if n} == runs["status"].value_counts().to_dict()


def test_statuses_are_those_of_the_whole_table(directory, make):
    trials = make.filled(directory)
    make.add(directory, make.interrupted(trials[0]))  # later than its completed result
    make.add(directory, make.run(trials[3]), pack_id="retry")
    write_plan(directory, trials[1:])
    found, runs = read_statuses(directory), read_runs(directory).runs
    assert found.planned == len(runs)
    assert dict(found.by_status) == runs["status"].value_counts().to_dict()
    assert [*found.by_status.values()] == sorted(found.by_status.values(), reverse=True)
    unsound = runs[runs["status"].isin(["failed", "interrupted"])]
    assert dict(found.causes) == unsound["message"].value_counts().to_dict() != {}
    assert found.unfinished == set(runs.loc[runs["status"].isin(["pending", "interrupted"]), "trial_id"]) != set()


def test_a_plan_is_the_same_table_whatever_the_number_of_rows_that_are_converted_at_once(directory, make, monkeypatch):
    trials = make.filled(directory)
    whole = plan_table(trials)
    monkeypatch.setattr("sensitivity.store.writer._ROWS_AT_ONCE", 3)
    assert plan_table(trials).equals(whole)
    assert plan_table(trials[:0]).schema.names == plan_table(trials[:0], ["lr"]).schema.names[:-1]


def test_a_message_of_any_size_and_bytes_is_kept_readable(directory, make):
    trials = make.filled(directory)
    make.add(directory, make.run(trials[4], Status.FAILED, losses=(), message="\ud800" + "m" * 10**7))
    message = read_study(directory).runs["message"][4]
    assert len(message) < 200_000
    assert message.startswith("?mm")


# Memory


def bomb(table, rows, **changes):
    """A small file of many rows that are all equal to the first of a table."""
    columns = {}
    for field in table.schema:
        value = changes.get(field.name, table[field.name][0].as_py())
        indices = pa.array(np.zeros(rows, np.int32))
        one = pa.array([value], field.type)
        columns[field.name] = pa.DictionaryArray.from_arrays(indices, one) if value is not None else one.take(indices)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd", write_statistics=False)
    return sink.getvalue()


@pytest.mark.parametrize("kind", ["plan", "runs", "curves"])
@pytest.mark.parametrize(("rows", "text"), [(2_000_000, "x"), (2_000, "x" * 100_000)])
def test_a_small_file_that_stands_for_much_memory_is_refused_by_its_footer(make, kind, rows, text):
    directory = in_memory()
    make.filled(directory)
    name = files(directory)[kind]
    whole = pq.read_table(pa.BufferReader(directory.read(name)))
    data = bomb(whole, rows, trial_id=text)
    assert data.size < 500_000
    directory.write(name, data)
    before = pa.total_allocated_bytes()
    with pytest.raises(
        StorageError, match=f"{name}: .*(of memory; files of this size contain at most|column trial_id)"
    ):
        read_study(directory)
    assert pa.total_allocated_bytes() - before < 64 * 2**20


def test_many_small_files_share_one_allowance(make):
    directory = in_memory()
    make.filled(directory)
    whole = pq.read_table(pa.BufferReader(directory.read(files(directory)["runs"])))
    data = bomb(whole, 60_000)
    for k in range(20):
        directory.write(f"runs/x{k}.parquet", data)
    with pytest.raises(StorageError, match=r"runs/x\d+\.parquet: .*of memory"):
        read_runs(directory)


def test_a_large_study_file_is_not_parsed(make):
    directory = in_memory()
    make.filled(directory)
    directory.write("study.json", b"[" * (64 * 2**20 + 1))
    with pytest.raises(StorageError, match=r"study\.json: damaged \(it has more than"):
        read_manifest(directory)


# Property


_FILLED = {}
"""A study's files, written once for all examples."""
PLACEHOLDER = {
    "float": st.floats(width=64) | st.sampled_from([1e308, -0.0, math.nan, math.inf]),
    "int": st.integers(-(2**63), 2**63 - 1),
    "text": st.text(max_size=8) | st.sampled_from(["completed", "sgd", "kfac", "x" * 10**5]),
    "bool": st.booleans(),
}


def any_value(kind):
    if pa.types.is_floating(kind):
        return PLACEHOLDER["float"]
    if pa.types.is_boolean(kind):
        return PLACEHOLDER["bool"]
    return PLACEHOLDER["int"] if pa.types.is_integer(kind) or pa.types.is_timestamp(kind) else PLACEHOLDER["text"]


def changed(table, what, which, row, draw):
    column = table.column_names[which % len(table.column_names)]
    place_, kind, row = table.column_names.index(column), table.schema.field(column).type, row % len(table)
    if what == "value":
        return with_value(column, draw(any_value(kind)), row)(table)
    if what == "null":
        return with_value(column, None, row)(table)
    if what == "type":
        return table.set_column(place_, column, pa.array([draw(st.integers(0, 3))] * len(table), pa.int8()))
    if what == "drop":
        return table.drop_columns([column])
    if what == "double":
        return pa.concat_tables([table, table.slice(row, 1)])
    return table.set_column(place_, column, pa.array([b"\xff\xfe"] * len(table), pa.binary()))


@settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # functions alone
)
@given(data=st.data())
def test_any_cell_gives_a_valid_table_or_an_error_with_the_file(make, data):
    directory = in_memory()
    if not _FILLED:
        make.filled(directory)
        _FILLED.update(make.snapshot(directory))
    for path, content in _FILLED.items():
        directory.write(path.removeprefix("bucket/tiny/"), content)
    what = data.draw(st.sampled_from(["value"] * 6 + ["null", "type", "drop", "double", "bytes", "text"]))
    name = files(directory)[data.draw(st.sampled_from(["plan", "runs", "curves"]))]
    which, row = data.draw(st.integers(0, 50)), data.draw(st.integers(0, 3))
    if what == "bytes":
        content = bytearray(directory.read(name))
        content[(7919 * which + 31 * row) % len(content)] ^= 1 + data.draw(st.integers(0, 254))
        directory.write(name, bytes(content))
    else:
        rewrite(directory, name, lambda table: changed(table, what, which, row, data.draw))
    study, counts, refusal = None, None, None
    try:
        study, counts = read_study(directory), read_counts(directory)
        for part in dict.fromkeys(read_runs(directory).parts):
            read_evaluations(directory, part, ["trial_id", "step", "test_loss"])
        export_runs(directory, ".csv")
        export_runs(directory, ".parquet")
    except StorageError as error:
        refusal = str(error)
    if refusal is not None:
        assert name in refusal
        assert len(refusal) < 2_000
        return
    runs = study.runs
    assert counts.planned == len(runs)
    assert runs["trial_id"].is_unique
    assert not runs.duplicated(["cell_id", "seed"]).any()
    assert set(runs["optimizer"]) <= {"sgd", "kfac"}
    assert set(runs["status"]) <= {status.value for status in Status}
    assert np.isfinite(runs.loc[runs["status"] == "completed", "train_loss"]).all()
    assert (runs["param.lr"] > 0).all()
    assert not study.curves.duplicated(["trial_id", "step"]).any()
    assert compute_summary(runs).total.planned == len(runs)
    pd.to_datetime(runs["finished_at"]).dropna().dt.to_pydatetime()


# For others


@pytest.fixture
def two_arms(make, tmp_path):
    """A study whose first part is of SGD, which has no damping."""
    directory = place(str(tmp_path / "study"))
    spec = make.study()
    write_manifest(directory, spec, "")
    trials = expand(spec)
    write_plan(directory, trials, spec.hyperparameters)
    for pack, name in zip(group(trials, 4), ["0-sgd", "1-kfac"], strict=False):
        runs = [make.run(trial) for trial in pack.trials]
        result = make.result(*runs, pack_id=name)
        append(directory, result, spec_hash="", code_version="", hyperparameters=spec.hyperparameters)
    return tmp_path / "study"


def test_a_part_of_one_optimizer_hides_no_column_of_another(two_arms):
    expected = pd.read_parquet(two_arms / "plan.parquet").set_index("trial_id")["param.damping"]
    assert expected.notna().sum() == 4
    readers = {
        "pandas": lambda: pd.read_parquet(two_arms / "runs"),
        "pyarrow": lambda: pyarrow.dataset.dataset(two_arms / "runs").to_table().to_pandas(),
    }
    for read in readers.values():
        found = read().set_index("trial_id")["param.damping"]
        pd.testing.assert_series_equal(found.sort_index(), expected.sort_index(), check_dtype=False)
    schemas = {pq.read_schema(path).remove_metadata() for path in (two_arms / "runs").iterdir()}
    assert len(schemas) == 1
    assert set(pq.read_schema(two_arms / "plan.parquet").names) < set(next(iter(schemas)).names)


@pytest.mark.parametrize("engine", ["duckdb", "polars"])
def test_other_engines_read_the_folder(two_arms, engine):
    module = pytest.importorskip(engine)
    if engine == "duckdb":
        found = (
            module.connect().execute(f"select count(\"param.damping\") from '{two_arms}/runs/*.parquet'").fetchone()[0]
        )
    else:
        found = module.read_parquet(two_arms / "runs")["param.damping"].count()
    assert found == 4


def test_parts_without_a_column_that_the_study_has_now_are_read(make, tmp_path):
    directory = place(str(tmp_path))
    trials = make.filled(directory)  # parts of each optimizer alone, as they were written before
    append(directory, make.result(make.run(trials[4])), spec_hash="", code_version="", hyperparameters=["lr", "new"])
    runs = read_study(directory).runs
    assert runs["status"].tolist()[4] == "completed"
    assert runs["param.damping"].notna().sum() == 4
