"""Outputs of the commands with --json, for each state of a study, validated with the schemas in docs/json."""

import contextlib
import json
import re
import runpy
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import typer
from jsonschema import Draft202012Validator, ValidationError

from sensitivity.cli.json_output.schemas import OUTPUTS, files
from sensitivity.cli.main import app
from sensitivity.execution.prepare import prepare
from sensitivity.execution.worker import run_pack
from sensitivity.store.directory import place
from sensitivity.store.manifest import read_manifest, record_determinism, write_manifest
from sensitivity.store.writer import append, write_plan
from sensitivity.study.provenance import code_version
from sensitivity.study.results import Status
from sensitivity.study.trials import group

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "json"
synthetic = SimpleNamespace(**runpy.run_path(str(ROOT / "tests" / "analysis" / "synthetic.py")))


def validate(command, content):
    schema = json.loads((FOLDER / f"{command}.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(content)


@pytest.fixture
def printed(command):
    """Run a command with --json and return its output, validated with its schema."""

    def call(name, *arguments, code=0):
        answer = command(name, *arguments, "--json")
        assert answer.code == code, answer.err
        content = json.loads(answer.out, parse_constant=pytest.fail)
        validate(name, content)
        for each in content if isinstance(content, list) else [content]:
            assert next(iter(each.items())) == ("schema_version", 1)
        return content

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished study trained in this process: its study file and its directory."""
    folder = tmp_path_factory.mktemp("trained")
    file = folder / "small.toml"
    file.write_text(
        'name = "small"\nbatch_sizes = [64]\nseeds = 2\n[budget]\nsteps = 2\n'
        '[optimizers.sgd]\nkind = "sgd"\nlr = [0.01, 1e6]\n'
    )
    plan, directory = prepare(str(file)), place(str(folder / "studies" / "small"))
    manifest = write_manifest(directory, plan.spec, plan.source, plan.origin)
    write_plan(directory, plan.trials)
    for pack in group(plan.trials, 4):
        result = run_pack(pack, plan.spec.execution, plan.origin, directory)
        append(directory, result, spec_hash=manifest.spec_hash, code_version=code_version())
    return file, directory


@pytest.fixture
def finished(trained, tmp_path):
    """A copy of the trained study."""
    file, directory = trained
    shutil.copytree(Path(directory.path).parent, tmp_path / "copy")
    return file, place(str(tmp_path / "copy" / "small"))


def test_committed_schemas_match_the_outputs():
    committed = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
    assert committed == files(), "update them: python -m sensitivity.cli.json_output.schemas docs/json"


def test_every_command_with_json_has_a_schema():
    commands = typer.main.get_command(app).commands
    with_json = {name for name, each in commands.items() if any("--json" in one.opts for one in each.params)}
    assert with_json == set(OUTPUTS)


@pytest.mark.parametrize("command", OUTPUTS)
def test_schemas_describe_every_key_and_allow_no_other(command):
    schema = json.loads(files()[f"{command}.schema.json"])
    Draft202012Validator.check_schema(schema)

    def objects(part):
        if isinstance(part, dict):
            yield from [part] if "properties" in part else []
            part = list(part.values())
        if isinstance(part, list):
            for each in part:
                yield from objects(each)

    for each in objects(schema):
        assert each["additionalProperties"] is False
        assert set(each["required"]) == set(each["properties"])
        assert each["description"]
        assert all(value["description"] for value in each["properties"].values())


def test_documented_examples_are_valid():
    text = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    examples = re.findall(r"^## `sensitivity (\w+) .*?^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert [command for command, _ in examples] == list(OUTPUTS)
    for command, example in examples:
        validate(command, json.loads(example))
        assert f"json/{command}.schema.json" in text


def test_plan(printed, study_file, half_done, trained):
    fresh = printed("plan", study_file, "--storage", half_done)
    assert [line["missing"] for line in fresh["lines"]] == [4]
    assert [line["missing"] for line in printed("plan", study_file, "--storage", half_done.parent)["lines"]] == [2]
    done = printed("plan", trained[0], "--storage", Path(trained[1].path).parent)
    assert (done["lines"][0]["missing"], done["device_seconds"], done["lines"][0]["limit"]) == (0, 0, None)


def test_plan_of_a_search_with_a_time_limit(printed, study_text, tmp_path):
    file = tmp_path / "search.toml"
    search = 'lr = { log = [0.01, 0.1] }\ndesign = "tpe"\ndevice_hours = 0.01\n[search]\nobjective = "test_accuracy"\n'
    file.write_text(study_text.replace("lr = [0.01, 0.1]\n", search))
    (line,) = printed("plan", file, "--storage", tmp_path)["lines"]
    assert line["estimated"] is True
    assert line["device_seconds"] <= line["limit"]


def test_list(printed, half_done, tmp_path):
    (tmp_path / "nothing").mkdir()
    assert printed("list", tmp_path / "nothing") == []
    broken = half_done.parent / "broken"
    broken.mkdir()
    (broken / "study.json").write_text("{")
    rows = {row["study"]: row for row in printed("list", half_done.parent)}
    assert "damaged" in rows["broken"]["error"]
    assert {status: rows["small"][status] for status in Status} == {**dict.fromkeys(Status, 0)} | {
        "completed": 1, "diverged": 1, "pending": 2,
    }  # fmt: skip


TIMED = {
    "batch_sizes": [32, 64, 128],
    "seeds": 14,
    "budget": {"epochs": 40},
    "targets": {"train_loss": [0.5]},
    "optimizers": {name: {"kind": "sgd", "lr": [0.1]} for name in ("one", "two")},
    "pairs": [("one", "two")],
}
SINGLE = {**TIMED, "pairs": [], "optimizers": {"one": {"kind": "sgd", "lr": [0.1]}}}


def reaching(trial, epochs):
    """A run that reaches the target after the given number of epochs, and up to 2% more depending on its seed."""
    late = epochs * (1 + 0.01 * (trial.seed % 3))
    return synthetic.run(trial, [2.5 * 5 ** (-k / late) for k in range(1, 41)])


def timed(trial):
    """A run that takes S(B) = S_min (1 + B_c / B) epochs to the target; B_c is 256 for "one" and 32 for "two"."""
    least, critical = (4, 256) if trial.arm == "one" else (18, 32)
    return reaching(trial, least * (1 + critical / trial.batch_size))


def unbounded(trial):
    """A run with the same time to the target at every batch size ("one"), or a time proportional to it ("two")."""
    return reaching(trial, 8 if trial.arm == "one" else trial.batch_size / 4)


@pytest.mark.parametrize(
    ("changes", "outcome", "scaling", "why_not"),
    [
        (TIMED, lambda _: None, "undetermined", []),
        (TIMED, lambda trial: timed(trial) if trial.seed < 2 else None, "undetermined", []),
        (TIMED, timed, "better", []),
        (TIMED, unbounded, "undetermined", []),
        ({**TIMED, "targets": {}}, timed, None, ["no-target"]),
        (SINGLE, timed, None, ["one-optimizer"]),
    ],
    ids=["fresh", "partial", "finished", "unbounded", "no target", "one optimizer"],
)
def test_verdict(printed, tmp_path, changes, outcome, scaling, why_not):
    directory = synthetic.write_study(tmp_path / "synthetic", synthetic.make_spec(**changes), outcome)
    content = printed("verdict", directory.uri)
    assert {each["question"]: each["answer"] for each in content["answers"]}.get("scaling") == scaling
    assert [each["code"] for each in content["why_not"]] == why_not


def test_verdict_has_the_numbers_of_its_study(printed, tmp_path):
    directory = synthetic.write_study(tmp_path / "synthetic", synthetic.make_spec(**TIMED), timed)
    (scaling, _) = printed("verdict", directory.uri)["answers"]
    assert scaling["effect"]["value"] == pytest.approx(256 / 32, rel=0.15)
    low, high = scaling["effect"]["interval"]
    assert low < 256 / 32 < high
    assert scaling["effect"]["level"] == 1 - 2 * scaling["error_rate"] == 0.975
    assert (scaling["effect"]["n"], scaling["margin"], scaling["settle"]) == (7, pytest.approx(1.25), [])
    assert scaling["p"] < 0.05 < scaling["p_equivalence"]


def test_run(printed, finished):
    file, directory = finished
    first = printed("run", file, "--storage", Path(directory.path).parent)
    assert (first["planned"], first["statuses"]) == (4, {"completed": 2, "diverged": 2})
    assert (first["causes"], first["interrupted"], first["determinism"]) == ({}, False, None)
    (compared,) = printed("verify", directory.uri)
    del compared["schema_version"]
    for record, shown in ((compared, compared), (compared | {"more": 1}, compared), ({**compared, "at": "x"}, None)):
        record_determinism(directory, read_manifest(directory), record)
        assert printed("run", file, "--storage", Path(directory.path).parent)["determinism"] == shown


def test_stopped_run(printed, study_file, half_done, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("sensitivity.execution.study_run.StudyRun.train", stopped)
    content = printed("run", study_file, "--storage", half_done.parent, code=130)
    assert content["statuses"] == {"pending": 2, "completed": 1, "diverged": 1}
    assert content["interrupted"] is True


def test_run_with_only_failed_runs(printed, study_file, tmp_path):
    storage = tmp_path / "studies"
    spec = prepare(str(study_file)).spec
    synthetic.write_study(storage / spec.name, spec, lambda trial: synthetic.run(trial, [], Status.FAILED))
    content = printed("run", study_file, "--storage", storage, code=2)
    assert content["statuses"] == {"failed": 4}
    assert list(content["causes"].values()) == [4]


def test_verify(printed, finished):
    _, directory = finished
    (same,) = printed("verify", directory.uri)
    assert (same["runs"], same["steps"], same["largest"], same["faults"], same["unlike"]) == (4, 2, 0.0, [], "")
    for part in Path(directory.path).glob("curves/*.parquet"):
        table = pq.read_table(part)
        at = table.column_names.index("test_loss")
        pq.write_table(table.set_column(at, table.schema.field("test_loss"), table["train_loss"]), part)
    (other,) = printed("verify", directory.uri, code=2)
    assert len(other["faults"]) == 4


@pytest.fixture
def jobs(monkeypatch):
    """A cluster with a pending job, a finished one, and a record of what is submitted to it."""
    from sensitivity.execution import jobs as execution

    waits = execution.Job(
        id="small-1", status="PENDING", message="", study="small", storage="/shared", spec_hash="a",
        started_at=None, ended_at=None,
    )  # fmt: skip
    ended = replace(waits, id="small-0", status="FAILED", message="out of memory", started_at=1.5, ended_at=2.5)

    class Cluster:
        def __init__(self, address):
            self._jobs = (ended, waits) if address == "http://busy" else ()

        def jobs(self):
            return self._jobs

        def job(self, id_):
            return next(job for job in self._jobs if job.id == id_)

        def submit(self, shipment, *, storage, workers, command):
            assert command in (["run"], ["settle", "--runs", "100"])
            return replace(waits, study=shipment.spec.name, storage=storage)

    monkeypatch.setattr("sensitivity.cli.jobs._cluster", lambda address: contextlib.nullcontext(Cluster(address)))


@pytest.mark.usefixtures("jobs")
def test_status_and_submit(printed, study_file):
    assert printed("status", "--address", "http://idle") == []
    listed = printed("status", "--address", "http://busy")
    assert [(job["id"], job["started_at"]) for job in listed] == [("small-0", 1.5), ("small-1", None)]
    assert printed("status", "small-0", "--address", "http://busy") == listed[0]
    sent = printed("submit", study_file, "--storage", "/shared", "--installed")
    assert (sent["study"], sent["storage"], sent["files"]) == ("small", "/shared", 1)
    assert sent["bytes"] == study_file.stat().st_size
    assert printed("submit", study_file, "--storage", "/shared", "--installed", "--settle", "--runs", "100") == sent


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "{bad}"],
        ["run", "{bad}"],
        ["submit", "{bad}", "--storage", "/shared"],
        ["verdict", "{none}"],
        ["verify", "{none}"],
        ["list", "~no-such-user/x"],
    ],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.usefixtures("jobs")
def test_mistakes_print_no_json(command, tmp_path, arguments):
    (tmp_path / "bad.toml").write_text("seeds = 0")
    answer = command(*(each.format(bad=tmp_path / "bad.toml", none=tmp_path / "none") for each in arguments), "--json")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")


def test_undocumented_keys_are_invalid(printed, half_done):
    (row,) = printed("list", half_done.parent)
    with pytest.raises(ValidationError, match="is not valid under any"):
        validate("list", [row | {"more": 1}])
    verdict = printed("verdict", half_done)
    with pytest.raises(ValidationError, match="Additional properties are not allowed"):
        validate("verdict", verdict | {"more": 1})
