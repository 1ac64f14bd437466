"""Runs sent while a study runs: what arrives, and that no failure of a tool costs more than a warning."""

import logging
import os
import re
import signal
import threading
import time

import pytest

from sensitivity.cli.exporting import export_study
from sensitivity.exporting import follower, live
from sensitivity.exporting.follower import Signals, follow
from sensitivity.exporting.live import LiveExport, sending, targets_of
from sensitivity.store.manifest import spec_hash
from sensitivity.study import trackers
from sensitivity.study.errors import StudyFileError, UserError
from sensitivity.study.load import parse_study
from sensitivity.study.trackers import parse_target
from sensitivity.study.trials import expand


def sent_to(folder):
    """Ids of the trials whose event files are below a folder."""
    return [file.name.rpartition(".")[2] for file in folder.glob("sent/*/seed-*/events.out.tfevents.*")]


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_runs_arrive_as_they_end_and_the_verdict_at_the_end(study, tmp_path):
    """In the process that `run` starts; it lives through a command that is stopped, and one that is killed."""
    lines, target = [], parse_target(f"tensorboard:{tmp_path}/logs")
    with LiveExport(study.directory, [target], lines.append) as first:
        until(lambda: len(sent_to(tmp_path / "logs")) == 5)
        process = first._process
    assert process.poll() is not None  # a command that is stopped ends it
    assert not (tmp_path / "logs/sent/verdict").exists()
    study.add()
    with sending(study.directory, [target], lines.append) as second:
        until(lambda: len(sent_to(tmp_path / "logs")) == 10)
        study.add()
        second.end()
    assert sorted(sent_to(tmp_path / "logs")) == sorted(study.final)
    assert (tmp_path / "logs/sent/verdict/report.html").exists()
    assert lines[-1] == f"tensorboard:{tmp_path}/logs: 10 runs sent. tensorboard --logdir {tmp_path}/logs/sent"


def test_killed_process_is_a_warning_with_the_command_to_resume(study, tmp_path, caplog):
    target = parse_target(f"tensorboard:{tmp_path}/logs")
    with caplog.at_level(logging.WARNING), sending(study.directory, [target], lambda _: None) as sent:
        os.kill(sent._process.pid, signal.SIGKILL)
        sent.end()
    (record,) = caplog.records
    assert "The study continues, and every result is kept" in record.message
    assert f"sensitivity export {study.directory.uri} tensorboard:{tmp_path}/logs" in record.message


def test_a_tool_that_fails_is_one_warning_and_gets_the_rest_once_it_answers(study, tmp_path, monkeypatch):
    """A file stands where the folder should; other targets are not held up."""
    monkeypatch.setattr(follower, "_MAX_LOAD", 0)
    monkeypatch.setattr(follower, "_POLL_S", 0.05)
    monkeypatch.setattr(follower.Sender, "send_study", lambda _: None)  # its files take seconds
    (tmp_path / "blocked").write_text("")
    events, signals = [], Signals()
    targets = [parse_target(f"tensorboard:{tmp_path}/{name}") for name in ("blocked", "open")]
    thread = threading.Thread(target=follow, args=(study.directory, targets, signals, events.append))
    thread.start()
    until(lambda: len(sent_to(tmp_path / "open")) == 5)
    study.add()
    until(lambda: len(sent_to(tmp_path / "open")) == 10)
    (tmp_path / "blocked").unlink()

    def stream():
        yield "end\n"
        thread.join()

    signals.listen(stream())
    (warning,) = (event["text"] for event in events if event["event"] == "warning")
    assert re.match(r"tensorboard:.*blocked: runs can't be sent \(.*\). The study continues", warning)
    assert "Check that the folder can be written" in warning
    assert sorted(sent_to(tmp_path / "blocked")) == sorted(study.final)


def test_a_missing_package_is_one_warning_that_says_what_to_install(study, monkeypatch, caplog):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(live.subprocess, "Popen", None)  # nothing is started
    with caplog.at_level(logging.WARNING), sending(study.directory, [parse_target("mlflow")], print) as sent:
        sent.end()
    (record,) = caplog.records
    assert "pip install 'sensitivity[mlflow]', then send them: sensitivity export" in record.message


def test_where_runs_are_sent_is_no_part_of_what_they_are(study):
    content = study.spec.model_dump(mode="json")
    assert "log" not in content
    logged = parse_study({**content, "log": {"to": ["tensorboard", "mlflow:http://127.0.0.1:5000"]}}, source="test")
    assert logged.model_dump(mode="json")["log"] == {"to": ["tensorboard", "mlflow:http://127.0.0.1:5000"]}
    assert spec_hash(logged) == spec_hash(study.spec)
    assert logged.identity() == study.spec.identity()
    assert [trial.id for trial in expand(logged)] == [trial.id for trial in study.trials]
    assert [target.text for target in targets_of(logged, None)] == ["tensorboard", "mlflow:http://127.0.0.1:5000"]
    assert [target.text for target in targets_of(logged, ["wandb"])] == ["wandb"]
    assert targets_of(study.spec, None) == targets_of(logged, []) == ()


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("mlfow", "log.to: 'mlfow': unknown experiment tracker (did you mean 'mlflow'?)"),
        ("mlflow:http://me:secret@host", "contains credentials, which would be stored and shown"),
    ],
)
def test_mistakes_in_the_study_file_are_told(study, to, words):
    with pytest.raises(StudyFileError) as told:
        parse_study({**study.spec.model_dump(mode="json"), "log": {"to": [to]}}, source="test")
    assert words in str(told.value)
    assert "secret" not in str(told.value)


def test_a_name_that_no_tool_has_stops_the_command_before_anything_runs(study):
    with pytest.raises(UserError, match="unknown experiment tracker"):
        targets_of(study.spec, ["tensorbord"])
    with pytest.raises(UserError, match="contains credentials") as told:
        targets_of(study.spec, ["mlflow:http://me:secret@host"])
    assert "secret" not in str(told.value)
    with pytest.raises(UserError, match="did you mean 'tensorboard'"):
        list(export_study(study.directory.uri, "tensorbord:events"))
