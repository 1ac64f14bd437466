"""Study files from a form: the same study, with mistakes at their fields; and the command that repeats a run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from pyarrow import fs

from dashboards import jobs
from dashboards.address import Address
from dashboards.catalog import Catalog
from dashboards.pages.start import size, start_page
from dashboards.pages.studies import _card, _version
from dashboards.progress import pace
from dashboards.reproduce import reproduction
from dashboards.site import Site
from dashboards.study_form import form_of, set_value, shown_text, value_at, value_of, with_form
from sensitivity.store.directory import Place, place
from sensitivity.store.lock import LOCK, WriterLock, live_holder
from sensitivity.study.errors import UserError
from sensitivity.study.load import parse_study, shipped
from sensitivity.study.toml_text import toml_text
from sensitivity.study.trials import expand


@pytest.mark.parametrize("path", shipped().values(), ids=lambda path: path.stem)
def test_rewritten_study_file_is_equivalent(path):
    raw = tomllib.loads(path.read_text())
    assert tomllib.loads(toml_text(raw)) == raw


def test_odd_text_survives_toml():
    raw = {"name": 'a"b\\c\n\x7f\u2028é', "t": {"k y": [True, 1.5e-7, {"x": None, "y": "z"}]}}
    assert tomllib.loads(toml_text(raw)) == {"name": raw["name"], "t": {"k y": [True, 1.5e-7, {"y": "z"}]}}


@pytest.mark.parametrize("path", shipped().values(), ids=lambda path: path.stem)
def test_untouched_form_changes_nothing(path):
    raw = tomllib.loads(path.read_text())
    for optimizer in raw["optimizers"]:
        for field in ("lr", "momentum", "design"):
            where = ("optimizers", optimizer, field)
            value = value_at(raw, where)
            assert value_of(shown_text(value)) == value
            set_value(raw, where, value_of(shown_text(value)))
    assert raw == tomllib.loads(path.read_text())


def test_optimizer_fields_are_its_declared_numbers():
    arms = {"k": {"kind": "kfac"}, "a": {"kind": "lion"}, "mine": {"kind": "m:Mine", "depth": [1, 2]}, "x": {}}
    labels = [field.label for field in form_of({"optimizers": arms}, ())[0]]
    assert {"k: damping", "k: inverse interval", "k: kl clip", "a: beta2", "mine: depth", "x: lr"} <= set(labels)
    assert not {"a: damping", "a: momentum", "x: damping"} & set(labels)


def test_declared_numbers_of_study_tables_have_fields():
    arms = {
        "a": {"kind": "sgd", "schedule": {"warmup_epochs": [0, 1]}, "problem": {"model_arguments": {"width": [8, 9]}}}
    }
    raw = {"optimizers": arms, "problem": {"model_arguments": {"dropout": [0.0, 0.5]}}}
    fields = {field.label: field.value for field in form_of(raw, ())[0]}
    assert (fields["Model dropout"], fields["a: model width"], fields["a: warm-up epochs"]) == (
        "[0.0, 0.5]", "[8, 9]", "[0, 1]",
    )  # fmt: skip
    assert {"Warm-up epochs", "Label smoothing", "EMA decay"} <= set(fields)
    assert "a: label smoothing" not in fields, "an optimizer has its own fields only if it declares them"


def test_mistakes_are_shown_at_their_fields():
    text = textwrap.dedent("""
        name = "../x"
        batch_sizes = [32, 32]
        seeds = 1
        colour = "red"
        [budget]
        epochs = 1
        [optimizers.sgd]
        kind = "sgd"
        lr = -1.0
    """)
    raw, spec, mistakes = jobs.read_text(text)
    assert spec is None
    fields, left = form_of(raw, mistakes)
    wrong = {field.label: field.error for field in fields if field.error}
    assert set(wrong) == {"Name of the study", "Batch sizes", "sgd: lr"}
    assert "lr must be > 0" in wrong["sgd: lr"]
    assert len(left) == 1
    assert "colour: unknown field" in left[0]


def test_missing_module_is_reported_without_imports(tmp_path):
    def absent(dataset):
        raw = {
            "name": "s", "batch_sizes": [8], "seeds": 1, "budget": {"steps": 1}, "problem": {"dataset": dataset},
            "optimizers": {"sgd": {"kind": "sgd", "lr": 0.1}},
        }  # fmt: skip
        return jobs.absent_modules(place(str(tmp_path)), parse_study(raw, source="s"))

    assert absent("digits") == ()
    assert "problem.dataset: there is no module 'mine'" in absent("mine:data")[0]
    (tmp_path / "mine.py").write_text("raise SystemExit")
    assert absent("mine:data") == ()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("32, 64", [32, 64]),
        ("[32]", [32]),
        ("0.9", 0.9),
        ("sobol", "sobol"),
        ("digits, small", "digits, small"),
        (" ", None),
    ],
)
def test_field_values_are_parsed(text, value):
    assert value_of(text) == value


def test_study_file_of_a_bucket_is_in_a_private_folder(make):
    bucket = Place(fs.SubTreeFileSystem("/", fs.LocalFileSystem()), "bucket/studies", "s3://bucket/studies")
    kept = jobs.store_study_file(bucket, "name = 'x'", make.make_spec(name="x"))
    try:
        assert kept.read_text() == "name = 'x'"
        assert kept.parent.stat().st_mode & 0o777 == 0o700
        assert kept.parent != Path(tempfile.gettempdir())
    finally:
        shutil.rmtree(kept.parent)


def test_invalid_toml_is_one_mistake():
    assert jobs.read_text("a = [")[2][0].startswith("not valid TOML")


def test_sources_are_shipped_files_and_files_in_the_root(tmp_path):
    (tmp_path / "mine.toml").write_text("")
    (tmp_path / ".started-x.toml").write_text("")
    found = jobs.sources(place(str(tmp_path)))
    assert found["mine.toml"].path == tmp_path / "mine.toml"
    assert "shipped: quickstart" in found
    assert not [name for name in found if "started" in name]


def test_reproduction_command_makes_the_same_trial(studies):
    loaded = Catalog(place(str(studies))).load("half")
    for _, row in loaded.runs.iloc[[0, 20, 80]].iterrows():
        command = reproduction(loaded, {**row, "spec_hash": loaded.manifest.spec_hash})
        text = command.split("<<'END'\n")[1].split("\nEND\n")[0]
        (trial,) = expand(parse_study(tomllib.loads(text), source="test"))
        assert trial.id == row["trial_id"]
        assert command.endswith(f"sensitivity run run-{trial.id}.toml --storage reproduced")


def test_reproduction_command_of_a_timed_search_has_no_time_limit(studies):
    loaded = Catalog(place(str(studies))).load("half")
    row = {**loaded.runs.iloc[0], "spec_hash": loaded.manifest.spec_hash}
    kept = loaded.manifest.specs[loaded.manifest.spec_hash]["spec"]["optimizers"][row["optimizer"]]
    kept |= {"design": "tpe", "samples": None, "device_hours": 0.5}
    assert row["trial_id"] in reproduction(loaded, row)
    assert "device_hours" not in reproduction(loaded, row)


TIMED = {"design": "tpe", "device_hours": 1}


@pytest.mark.parametrize(
    ("arms", "told"),
    [
        ({"a": {"lr": [0.1, 0.2, 0.3]}}, "12 runs"),
        ({"a": {"lr": {"log": [0.1, 1]}, **TIMED}}, "as many of a as its device-hours allow"),
        (
            {"a": {"lr": [0.1]}, "b": {"lr": {"log": [0.1, 1]}, **TIMED}},
            "4 runs and as many of b as its device-hours allow",
        ),
    ],
)
def test_size_of_a_study_in_words(arms, told):
    optimizers = {name: {"kind": "sgd", **arm} for name, arm in arms.items()}
    raw = {"name": "x", "batch_sizes": [8, 16], "seeds": 2, "budget": {"steps": 1}, "optimizers": optimizers}
    if any("device_hours" in arm for arm in arms.values()):
        raw["search"] = {"objective": "train_loss"}
    assert size(parse_study(raw, source="test")) == told


def test_run_of_another_study_has_no_command(studies):
    loaded = Catalog(place(str(studies))).load("half")
    row = {**loaded.runs.iloc[0], "trial_id": "0" * 16}
    assert reproduction(loaded, row) is None


def test_pace_uses_the_last_minutes():
    now = datetime(2026, 1, 1, tzinfo=UTC)
    long_ago = [(now - timedelta(hours=2), now - timedelta(hours=1))] * 50
    lately = [(now - timedelta(seconds=100), now - timedelta(seconds=5))] * 20
    times = pd.DataFrame(long_ago + lately, columns=["started_at", "finished_at"])
    found = pace(times, 10, now)
    assert found.rate == pytest.approx(0.2)
    assert found.seconds_left == pytest.approx(50)
    assert pace(times.iloc[:50], 10, now).seconds_left is None


def test_only_sensitivity_processes_are_stopped(tmp_path):
    """A lock that names this process, which is not a `sensitivity` command, leaves it alone."""
    directory = place(str(tmp_path))
    with pytest.raises(UserError, match="nothing runs"):
        jobs.stop(directory)
    with WriterLock(directory):
        if "sensitivity" in " ".join(sys.argv):
            pytest.skip("this process looks like the command")
        with pytest.raises(UserError, match="left alone"):
            jobs.stop(directory)


def test_stop_signals_the_process_in_the_lock(tmp_path):
    """A process with the command line of `sensitivity run` that holds the lock gets the signal."""
    script = tmp_path / "sensitivity"
    script.write_text(
        "import time\nfrom sensitivity.store.directory import place\nfrom sensitivity.store.lock import WriterLock\n"
        f"with WriterLock(place({str(tmp_path / 'study')!r})):\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, str(script), "run"])
    try:
        directory = place(str(tmp_path / "study"))
        while live_holder(directory) is None:
            assert process.poll() is None
        jobs.stop(directory)
        assert process.wait(timeout=10) == -signal.SIGTERM
    finally:
        process.kill()
        process.wait()


def test_study_run_in_another_container_is_not_signalled(make, tmp_path, monkeypatch):
    """Its host has the same name, and its process number may or may not exist here: only the heartbeat counts."""
    make.write_study(tmp_path / "half", make.make_spec(name="half"), lambda trial: None)
    directory = place(str(tmp_path / "half"))
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    signalled = []
    monkeypatch.setattr(os, "kill", lambda pid, number: signalled.append(pid))
    site = Site(catalog=Catalog(place(str(tmp_path))), prefix="/", may_run=True)
    with WriterLock(directory):
        content = json.loads(directory.read(LOCK))
        for pid in (process.pid, os.getpid()):
            there = {**content, "pid": pid, "machine": "another container of this machine"}
            directory.write(LOCK, json.dumps(there).encode())
            holder = f"process {pid} on {content['host']}"
            assert f"running: {holder}" in str(_card(site, "half", datetime.now(UTC)))
            with pytest.raises(UserError, match="running already"):
                site.started.start(site.catalog.root, tmp_path / "half.toml", site.catalog.load("half").spec)
            with pytest.raises(UserError, match=f"another machine or container runs it: stop {holder} there"):
                jobs.stop(directory)
    assert signalled == []


@pytest.mark.parametrize("begun", [False, True])
def test_a_command_that_fails_is_reported_where_its_study_is(make, tmp_path, begun):
    spec = make.make_spec(name="half")
    if begun:
        make.write_study(tmp_path / "half", spec, lambda trial: None)
    site = Site(catalog=Catalog(place(str(tmp_path))), prefix="/", may_run=True)
    before = _version(site)
    assert site.started.failure("half") == ""
    site.started.start(site.catalog.root, tmp_path / "gone.toml", spec)
    site.started._running["half"][0].wait()
    said = f"The last command for half ended with exit code 2: error: no study file '{tmp_path}/gone.toml'"
    assert site.started.failure("half").startswith(said)
    assert _version(site) != before
    assert not begun or said in str(_card(site, "half", datetime.now(UTC)))
    (tmp_path / "gone.log").unlink()
    assert site.started.failure("half").endswith("no output")


def _targets_of(problem, **targets):
    raw = {"problem": problem, "targets": targets}
    return {field.label: field.id["path"] for field in form_of(raw, ())[0] if field.label.startswith("Targets of")}


def test_target_fields_are_the_measured_metrics():
    assert list(_targets_of({})) == ["Targets of test accuracy", "Targets of training loss", "Targets of test loss"]
    text = _targets_of({"dataset": "text", "model": "transformer", "metrics": {"perplexity": True}})
    assert text["Targets of test perplexity"] == '["targets", "test_perplexity"]'
    table = {"dataset": "table:a.csv", "loss": "squared_error", "validation_fraction": 0.2, "metrics": {"r2": True}}
    assert list(_targets_of(table, test_r2=[0.5])) == [
        "Targets of validation R²", "Targets of training loss", "Targets of validation loss", "Targets of test R²",
    ]  # fmt: skip
    own = {"metrics": {"cost": {"function": "mine:cost", "direction": "min", "label": "mean cost"}}}
    assert "Targets of test mean cost" in _targets_of(own)
    assert "Targets of test accuracy" in _targets_of({"loss": 3}), "even while the problem has a mistake"


@pytest.mark.parametrize(
    ("problem", "metric", "level"),
    [
        ({"dataset": "text", "model": "transformer", "metrics": {"perplexity": True}}, "test_perplexity", "9.5, 8"),
        ({"dataset": "diabetes", "loss": "squared_error", "metrics": {"r2": True}}, "test_r2", "[0.4]"),
        ({"metrics": {"cost": {"function": "mine:cost", "direction": "min"}}}, "test_cost", "[0.25]"),
    ],
)
def test_study_with_other_metrics_can_be_started(problem, metric, level):
    raw = {
        "name": "s", "batch_sizes": [8], "seeds": 1, "budget": {"steps": 1}, "problem": problem,
        "optimizers": {"sgd": {"kind": "sgd", "lr": 0.1}},
    }  # fmt: skip
    filled = with_form(raw, {json.dumps(["targets", metric]): level})
    _, spec, mistakes = jobs.read_text(toml_text(filled))
    assert mistakes == ()
    assert {name: list(levels) for name, levels in spec.targets.items()} == {metric: value_of(level)}


def test_missing_user_metrics_and_losses_are_reported(tmp_path):
    raw = {
        "name": "s", "batch_sizes": [8], "seeds": 1, "budget": {"steps": 1},
        "problem": {"loss": "mine:loss", "metrics": {"cost": "mine:cost"}},
        "optimizers": {"sgd": {"kind": "sgd", "lr": 0.1}},
    }  # fmt: skip
    absent = jobs.absent_modules(place(str(tmp_path)), parse_study(raw, source="s"))
    assert [text.partition(":")[0] for text in absent] == ["problem.metrics.cost", "problem.loss"]


def test_link_to_the_form_describes_the_changes(make, tmp_path):
    make.write_study(tmp_path / "half", make.make_spec(name="half"), lambda trial: None)
    content = start_page(Site(catalog=Catalog(place(str(tmp_path))), prefix="/", may_run=True)).content
    unknown = str(content(Address(page="start", others=("nope",), edits=((("seeds",), "2"),))))
    assert "There is no study 'nope' here." in unknown
    assert "value='shipped: quickstart'" in unknown
    copied = str(content(Address(page="start", others=("half",), edits=((("seeds",), "2"),))))
    assert "The file of half with seeds = 2." in copied
    assert "adds to that study" not in copied
    same = ((("name",), '"half"'), (("seeds",), "2"))
    assert "adds to that study" in str(content(Address(page="start", others=("half",), edits=same)))
