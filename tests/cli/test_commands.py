"""The commands as a user runs them: answers, JSON, and mistakes without tracebacks."""

import json
import resource
import subprocess
import sys
from types import SimpleNamespace

import pandas as pd
import pytest

from sensitivity.cli.display import table_lines
from sensitivity.cli.shrinking import shrunk
from sensitivity.report.page import Report
from sensitivity.study.load import load_study, parse_study, shipped
from sensitivity.study.provenance import code_version


def test_help_answers_within_a_second():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "sensitivity.cli.main", "--help"], capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime  # a busy machine takes longer
    for name in ("plan", "run", "report", "export", "list"):
        assert name in done.stdout
    assert seconds < 1.0, seconds


def test_plan_prices_every_arm_and_batch_size(command, study_file, tmp_path):
    answer = command("plan", study_file, "--storage", tmp_path / "none", "--json", "--workers", 3)
    assert answer.code == 0
    content = json.loads(answer.out)
    (line,) = content["lines"]
    assert (line["optimizer"], line["batch_size"], line["planned"], line["missing"]) == ("sgd", 64, 4, 4)
    assert line["cost"]["steps"] == 2
    assert content["wall_seconds"] == pytest.approx(content["device_seconds"] / 3)
    assert content["device_seconds"] > 0
    assert not (tmp_path / "none").exists()


def test_plan_excludes_finished_runs(command, study_file, half_done):
    answer = command("plan", study_file, "--storage", half_done.parent)
    assert answer.code == 0
    assert "2 of 4 runs to do" in answer.out


def test_list_counts_every_state(command, half_done):
    (row,) = json.loads(command("list", half_done.parent, "--json").out)
    assert row == {
        "schema_version": 1,
        "study": "small",
        "directory": str(half_done),
        "planned": 4,
        "completed": 1,
        "diverged": 1,
        "pending": 2,
        "stopped": 0,
        "failed": 0,
        "interrupted": 0,
        "settlement": None,
        "settlement_runs": 0,
        "settlement_by_status": {},
    }
    assert "small" in command("list", half_done.parent).out
    (half_done.parent / "nothing").mkdir()
    assert "no studies" in command("list", half_done.parent / "nothing").out
    absent = command("list", half_done.parent / "nowhere")
    assert (absent.code, absent.out) == (2, "")
    assert "nowhere: no such folder" in absent.err
    file = command("list", half_done / "study.json")
    assert (file.code, file.out) == (2, "")
    assert file.err.startswith(f"error: {half_done / 'study.json'}: a file, not a folder\n  Give a folder of studies;")
    assert "Errno" not in file.err


def test_list_shows_a_damaged_study_with_the_others(command, half_done):
    other = half_done.parent / "broken"
    other.mkdir()
    (other / "study.json").write_text("{")
    answer = command("list", half_done.parent, "--json")
    assert answer.code == 0
    rows = {row["study"]: row for row in json.loads(answer.out)}
    assert "damaged" in rows["broken"]["error"]
    assert rows["small"]["planned"] == 4


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_export_contains_every_planned_run(command, half_done, tmp_path, suffix):
    target = tmp_path / "new" / f"runs.{suffix}"
    answer = command("export", half_done, target)
    assert answer.code == 0
    runs = pd.read_csv(target) if suffix == "csv" else pd.read_parquet(target)
    assert len(runs) == 4
    assert runs["status"].value_counts().to_dict() == {"pending": 2, "completed": 1, "diverged": 1}
    assert set(runs["param.lr"]) == {0.01, 0.1}


def test_report_is_one_file(command, half_done, tmp_path):
    target = tmp_path / "report.html"
    answer = command("report", half_done, "-o", target)
    assert answer.code == 0
    assert str(target) in answer.out
    assert target.read_text().startswith("<!doctype html>")


def test_report_without_a_suffix_is_an_html_file(command, half_done, tmp_path, monkeypatch):
    monkeypatch.setattr("sensitivity.report.write_report", lambda _: Report(html="a page", figures={}))
    answer = command("report", half_done, "-o", tmp_path / "mine")
    assert f"report: {tmp_path / 'mine.html'}" in answer.out
    assert (tmp_path / "mine.html").read_text() == "a page"
    assert not (tmp_path / "mine").exists()
    (tmp_path / "folder").mkdir()
    assert "folder" in command("report", half_done, "-o", tmp_path / "folder").err


def test_output_in_a_study_directory_leaves_the_study_unchanged(command, half_done):
    before = {path: path.read_bytes() for path in half_done.rglob("*") if path.is_file()}
    listed = command("list", half_done).out
    assert command("figure", half_done, "status", "-o", half_done / "status.csv").code == 0
    assert command("list", half_done).out == listed
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", "quickstrat"], ["no study file", "quickstart"]),
        (["run", "quickstrat"], ["no study file", "quickstart"]),
        (["report", "{tmp}/nowhere"], ["no study here", "sensitivity list"]),
        (["export", "{tmp}/nowhere", "runs.csv"], ["no study here"]),
        (["export", "{half}", "{tmp}/runs.xlsx"], [".xlsx", ".csv, .parquet"]),
        (["export", "{half}", "{half}/study.json/runs.csv"], ["can't be written"]),
        (["report", "{half}", "-o", "{half}/study.json/x.html"], ["can't be written"]),
        (["report", "{half}", "-o", "{half}/settle/ledger.html"], ["settle is part of the record"]),
        (["run", "{file}", "--storage", "{file}"], ["can't be written", "--storage"]),
        (["run", "{file}", "--storage", "nosuch://x/y"], ["nosuch", "s3://"]),
        (["report", "s3//typo"], ["no study here"]),
        (
            ["verdict", "{tmp}/own.toml"],
            ["no study here", "A study file has no results. Use the directory"],
        ),
    ],
)
def test_user_mistakes_give_a_message_and_exit_code_2(command, half_done, study_file, tmp_path, arguments, said):
    places = {"tmp": tmp_path, "half": half_done, "file": study_file}
    before = {path: path.read_bytes() for path in half_done.rglob("*") if path.is_file()}
    answer = command(*(argument.format(**places) for argument in arguments))
    assert answer.code == 2, answer
    assert "Traceback" not in answer.err
    for part in said:
        assert part in answer.err
    assert answer.err.count("\n") <= 4
    assert {path: path.read_bytes() for path in half_done.rglob("*") if path.is_file()} == before


def test_all_mistakes_of_a_study_file_are_reported_at_once(command, study_text, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(
        study_text.replace("steps = 2", "epoch = 2").replace("[0.01, 0.1]", "[0.1, 0.1]").replace("[64]", "[0]")
    )
    answer = command("run", path)
    assert answer.code == 2
    assert "budget.epoch: unknown field (did you mean 'epochs'?)" in answer.err
    assert "optimizers.sgd.lr: repeated in the list: 0.1" in answer.err
    assert "batch_sizes[0]" in answer.err
    assert not (tmp_path / "studies").exists()


def test_batch_larger_than_the_data_is_refused_before_ray_starts(command, study_text, tmp_path):
    path = tmp_path / "large.toml"
    path.write_text(study_text.replace("[64]", "[64, 2048]"))
    answer = command("run", path, "--storage", tmp_path / "studies")
    assert answer.code == 2
    assert "batch_sizes[1]: 2048 is larger than the training set; allowed: 1 to 1437" in answer.err
    assert not (tmp_path / "studies").exists()


def test_unreachable_cluster_address_is_reported(study_file, tmp_path):
    # In a process of its own: Ray reads its environment once, when it is imported.
    command = (sys.executable, "-m", "sensitivity.cli.main", "run", str(study_file), "--storage", str(tmp_path / "s"))
    done = subprocess.run((*command, "--address", "127.0.0.1:1"), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no Ray cluster answers at '127.0.0.1:1'" in done.stderr
    assert "ray start --head" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "s" / "small" / "writer.lock").exists()


def test_user_code_that_calls_exit_gives_a_message(command, study_text, tmp_path):
    (tmp_path / "it_exits.py").write_text("import sys\ndef model(shape, outputs): sys.exit(3)\n")
    path = tmp_path / "exits.toml"
    path.write_text(study_text.replace("[budget]", '[problem]\nmodel = "it_exits:model"\n[budget]'))
    answer = command("plan", path, "--storage", tmp_path / "none")
    assert answer.code == 2
    assert "problem.model: it_exits:model: it exits the process (sys.exit(3))" in answer.err


def test_version_is_that_of_the_code(command):
    assert command("--version").out == f"sensitivity {code_version()}\n"


def test_new_study_file_is_copied_from_a_shipped_one(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = command("new", "mine", "--from", "quickstart")
    assert (answer.code, answer.err) == (0, "")
    made, ships = load_study(tmp_path / "mine.toml"), load_study(shipped()["quickstart"])
    assert made == ships.model_copy(update={"name": "mine"})
    assert "# K-FAC against SGD" in (tmp_path / "mine.toml").read_text(), "with its comments"
    again = command("new", "mine")
    assert (again.code, "mine.toml exists already" in again.err) == (2, True)
    for odd in ("a/b", 'x"y', "x\\1"):
        assert "the name becomes a folder" in command("new", odd).err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


def test_plan_without_its_device_is_priced_by_flops(command, study_file, study_text):
    study_file.write_text(study_text + '[execution]\ndevice = "cuda"\n')
    answer = command("plan", study_file, "--tflops", "1e-6")
    assert answer.code == 0
    header, line, total = answer.out.splitlines()
    assert header.split() == ["optimizer", "batch", "runs", "steps", "FLOP/run", "time"]
    assert line.split()[:4] == ["sgd", "64", "4", "2"]
    assert "FLOP in total" in total
    assert "can't be combined with --json" in command("plan", study_file, "--tflops", 1, "--shrink-to", "1h").err
    assert "--tflops: give a number above 0" in command("plan", study_file, "--tflops", 0).err


def test_suggestions_to_shrink_a_study():
    spec = parse_study(
        {
            "name": "s", "batch_sizes": [16, 32, 64, 128], "seeds": 20, "budget": {"steps": 2},
            "optimizers": {"sgd": {"kind": "sgd", "lr": 0.1}},
        },
        source="s",
    )  # fmt: skip

    def lines(seconds):
        each = [SimpleNamespace(batch_size=size, device_seconds=100.0 * size) for size in spec.batch_sizes]
        return shrunk(spec, SimpleNamespace(lines=each, workers=2, wall_seconds=12_000.0), seconds)

    assert lines(12_000) == ("It fits into 3.3 h without changes.",)
    less = lines(6_000)
    assert less[1] == "  seeds = 10"
    assert "Scaling with batch size can be answered." in less[3]
    fewer = lines(4_000)
    assert fewer[1:3] == ("  batch_sizes = [16, 32, 128]", "  seeds = 9"), "the ends of the range are kept"
    few = lines(2_000)
    assert few[2] == "  seeds = 4"
    assert "gets a direction at most: a claim needs 7 seeds" in few[4]
    assert "does not fit into" in lines(100)[0]


def test_tables_are_not_cut_in_narrow_terminals_or_pipes():
    header, row = table_lines(("optimizer", "n"), [["a long name of an optimizer" * 4, 1]], 1)
    assert row.endswith("  1")
    assert len(header) == len(row)
