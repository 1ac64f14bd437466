"""Every tool that runs are sent to, by one suite: what its own library reads back are the study's numbers."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import sensitivity
from sensitivity.exporting.sending import Sender
from sensitivity.study.results import Status
from sensitivity.study.trackers import TRACKERS, parse_target

pytestmark = pytest.mark.filterwarnings("ignore")  # of the tools about their own libraries


@dataclass
class Found:
    """A run as a tool's own library reads it."""

    group: str
    config: dict
    succeeded: bool
    curve: dict
    """By name of the metric, and by step."""
    words: str = ""
    """Status and message."""
    times: tuple = ()
    files: dict = field(default_factory=dict)


class Mlflow:
    def __init__(self, folder, monkeypatch):
        pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
        monkeypatch.chdir(folder)  # its artifacts lie there
        self.uri = f"sqlite:///{folder}/mlflow.db"
        self.target = f"mlflow:{self.uri}"
        self.source = self.target

    def _all(self):
        from mlflow.tracking import MlflowClient

        client = MlflowClient(self.uri)
        return client, list(client.search_runs([client.get_experiment_by_name("sent").experiment_id]))

    def runs(self):
        client, runs = self._all()
        found = {}
        for run in runs:
            if (id_ := run.data.tags.get("sensitivity.trial_id")) is None:
                continue
            assert id_ not in found
            curves = {
                name: {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, name)}
                for name in run.data.metrics
                if not name.startswith("summary.")
            }
            found[id_] = Found(
                group=run.data.tags["sensitivity.group"],
                config=dict(run.data.params),
                succeeded={"FINISHED": True, "FAILED": False}[run.info.status],
                curve=curves,
                words=f"{run.data.tags['sensitivity.status']} {run.data.tags['sensitivity.message']}",
                times=(run.info.start_time / 1000, run.info.end_time / 1000),
            )
        return found

    def artefacts(self):
        client, runs = self._all()
        (run,) = (run for run in runs if "sensitivity.version" in run.data.tags)
        local = client.download_artifacts(run.info.run_id, "")
        return local, run.data.metrics

    def break_off(self, monkeypatch):
        from mlflow.tracking import MlflowClient

        monkeypatch.setattr(MlflowClient, "set_terminated", _boom)


class Tensorboard:
    def __init__(self, folder, monkeypatch):
        pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
        self.folder = folder / "logs"
        self.target = f"tensorboard:{self.folder}"
        self.source = f"tensorboard:{self.folder}/sent"

    def runs(self):
        from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

        found = {}
        for file in sorted((self.folder / "sent").glob("*/seed-*/*")):
            events = EventAccumulator(str(file), size_guidance={SCALARS: 0}).Reload()
            data = {
                tag.rpartition("/")[2]: HParamsPluginData.FromString(metadata.plugin_data.content)
                for tag, metadata in events.summary_metadata.items()
                if tag.startswith("_hparams_")
            }
            values = data["session_start_info"].session_start_info.hparams
            config = {name: getattr(value, value.WhichOneof("kind")) for name, value in values.items()}
            texts = [
                event.tensor_proto.string_val[0].decode()
                for tag in events.Tags()["tensors"]
                if tag.endswith("/text_summary")
                for event in events.Tensors(tag)
            ]
            found[file.name.rpartition(".")[2]] = Found(
                group=file.parents[1].name,
                config=config,
                succeeded={1: True, 2: False}[data["session_end_info"].session_end_info.status],
                curve={tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]},
                words=" ".join([config["status"], *texts]),
            )
        return found

    def artefacts(self):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        folder = self.folder / "sent" / "verdict"
        (file,) = folder.glob("events*")
        (text,) = EventAccumulator(str(file)).Reload().Tensors("verdict/text_summary")
        words = text.tensor_proto.string_val[0].decode().splitlines()[0].removeprefix("Runs: ").split(", ")
        return folder, {f"runs.{name}": int(number) for number, name in (word.split() for word in words)}

    def break_off(self, monkeypatch):
        from sensitivity.exporting.destinations import tensorboard_events

        monkeypatch.setattr(tensorboard_events, "_write", _boom)


class Wandb:
    """In offline mode: its files are what `wandb sync` sends."""

    def __init__(self, folder, monkeypatch):
        pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
        for name, value in (("MODE", "offline"), ("SILENT", "true"), ("DIR", folder), ("DATA_DIR", folder / "data")):
            monkeypatch.setenv(f"WANDB_{name}", str(value))
        self.folder = folder / "wandb"
        self.target, self.source = "wandb:project", str(self.folder)

    def _all(self):
        """The records of each file in W&B's own protocol; its frames are ours to read, as W&B's reader isn't Python."""
        import wandb
        from wandb.proto.wandb_internal_pb2 import Record

        from sensitivity.importing.sources.wandb_runs import records_of

        wandb.teardown()  # its own process writes files to their ends
        for file in sorted(self.folder.glob("offline-run-*/*.wandb")):
            yield file, [Record.FromString(data) for data in records_of(file)]

    def runs(self):
        found = {}
        for _, records in self._all():
            (run,) = (record.run for record in records if record.WhichOneof("record_type") == "run")
            config = {item.key: json.loads(item.value_json) for item in run.config.update}
            if (id_ := config.get("trial_id")) is None:
                continue
            assert id_ not in found
            curve, summary, code = {}, {}, None
            for record in records:
                kind = record.WhichOneof("record_type")
                if kind == "history":
                    for name, value in _items(record.history.item):
                        curve.setdefault(name, {})[record.history.step.num] = value
                elif kind == "summary":
                    summary |= dict(_items(record.summary.update))
                elif kind == "exit":
                    code = record.exit.exit_code
            found[id_] = Found(
                group=run.run_group,
                config=config,
                succeeded={0: True, 1: False}[code],
                curve={name: values for name, values in curve.items() if not name.startswith("_")},
                words=f"{config['status']} {summary['message']}",
            )
            assert config["status"] in run.tags
        return found

    def artefacts(self):
        for _, records in self._all():
            artifacts = [r.artifact for r in records if r.WhichOneof("record_type") == "artifact"]
            if artifacts:
                (artifact,) = (each for each in artifacts if each.type == "verdict")
                folder = self.folder.parent / "found"
                for entry in artifact.manifest.contents:
                    (folder / entry.path).parent.mkdir(parents=True, exist_ok=True)
                    (folder / entry.path).write_bytes(open(entry.local_path, "rb").read())  # noqa: SIM115, PTH123
                summary = {}
                for record in records:
                    summary |= dict(_items(record.summary.update))
                return folder, summary
        raise AssertionError("no artifact")

    def break_off(self, monkeypatch):
        from sensitivity.exporting.destinations.wandb_runs import WandbTracker

        send = WandbTracker.send

        def cut_off(tracker, run):
            send(tracker, run)
            tracker.close()  # it is written by then
            (file,) = self.folder.glob("offline-run-*/*.wandb")
            file.write_bytes(file.read_bytes()[:-20])  # as a kill leaves it
            _boom()

        monkeypatch.setattr(WandbTracker, "send", cut_off)


def _items(items):
    return [(item.key or ".".join(item.nested_key), json.loads(item.value_json)) for item in items]


def _boom(*_, **__):
    raise OSError("broken off")


TOOLS = {"mlflow": Mlflow, "tensorboard": Tensorboard, "wandb": Wandb}


def test_every_tool_is_in_the_suite():
    assert set(TOOLS) == {kind.name for kind in TRACKERS}


@pytest.fixture(params=TOOLS)
def tool(request, tmp_path, monkeypatch):
    return TOOLS[request.param](tmp_path, monkeypatch)


@pytest.fixture
def sender(tool, study):
    return Sender(study.directory, parse_target(tool.target))


def expected(run):
    """The curve of a run by metric and step: what was measured, and the loss at which it diverged."""
    curve = {}
    for place, each in enumerate(run.measurements, start=1):
        for name, value in each.row().items():
            last = run.status is Status.DIVERGED and place == len(run.measurements) and name == "train_loss"
            if name != "step" and (last or not math.isnan(value)):
                curve.setdefault(name, {})[each.step] = value
    return curve


def check(tool, study):
    found = tool.runs()
    assert found.keys() == study.final.keys()  # each once, and none without a result
    for id_, run in study.final.items():
        there, trial = found[id_], run.trial
        curve = {name: values for name, values in there.curve.items() if name != "step"}
        assert curve.keys() == expected(run).keys()
        for name, values in expected(run).items():
            assert curve[name].keys() == values.keys()
            for step, value in values.items():
                assert same(curve[name][step], value), (name, step)
        wanted = {"optimizer": trial.arm, "batch_size": trial.batch_size, "seed": trial.seed, "study": "sent"}
        wanted |= dict(trial.hyperparameters)
        assert {name: _plain(there.config[name]) for name in wanted} == {n: _plain(v) for n, v in wanted.items()}
        assert there.succeeded == (run.status in (Status.COMPLETED, Status.STOPPED))
        assert there.words.strip() == f"{run.status.value} {run.message}".strip()
        if there.times:
            assert there.times[0] == 1.75e9
    groups = {run.group for run in found.values()}
    cells = {run.trial.cell_id for run in study.final.values()}
    assert len(groups) == len(cells)


def same(there, value):
    if isinstance(there, str):  # W&B's JSON
        there = float(there)
    if math.isinf(value):
        return there > 1e308  # the largest number, in MLflow's databases
    return np.isclose(there, value, rtol=1e-6, atol=0, equal_nan=True)  # TensorBoard keeps 32 bits


def _plain(value):
    try:
        return float(value)
    except ValueError:
        return value


def test_runs_are_there_once_with_their_numbers_and_later_ones_are_added(tool, study, sender):
    sender.send_runs()
    check(tool, study)
    assert sender.sent == len(study.final) == 5
    sender.send_runs()
    study.add()
    again = Sender(study.directory, parse_target(tool.target))  # as of a command that resumes
    again.send_runs()
    check(tool, study)
    assert (sender.sent, again.sent, again.there) == (5, 5, 10)
    again.close()


def test_a_run_that_was_left_half_way_is_there_once_in_the_end(tool, study, sender, monkeypatch):
    with monkeypatch.context() as broken:
        tool.break_off(broken)
        with pytest.raises(OSError, match="broken off"):
            sender.send_runs()
    assert sender.sent == 0
    again = Sender(study.directory, parse_target(tool.target))
    again.send_runs()
    check(tool, study)
    again.close()


def test_the_verdict_goes_with_the_report_and_the_figures_and_is_replaced(tool, study, sender):
    sender.send_runs()
    sender.send_study()
    sender.send_study()  # nothing new
    study.add()
    sender.send_runs()
    sender.send_study()
    sender.close()
    folder, counts = tool.artefacts()
    folder = Path(folder)
    assert (folder / "verdict.txt").read_text().strip() == sensitivity.open(study.directory.uri).verdict().text.strip()
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    figures = [json.loads(file.read_text()) for file in (folder / "figures").iterdir()]
    assert figures
    assert all({"data", "layout"} <= figure.keys() for figure in figures)
    left = len(study.trials) - len(study.results)
    statuses = {"completed": 4, "diverged": 2, "stopped": 2, "failed": 2, "interrupted": 2, "pending": left}
    assert {name: counts[f"runs.{name}"] for name in statuses} == statuses


def test_what_was_sent_comes_back_by_import(tool, study, sender, tmp_path):
    sender.send_runs()
    sender.send_study()  # no run of the study
    sender.close()
    back = sensitivity.import_runs(tool.source, "back", storage=tmp_path)
    own = sensitivity.open(study.directory.uri)
    keys = ["optimizer", "batch_size", "seed", "param.lr"]
    both = own.runs[own.runs["trial_id"].isin(study.final.keys())].merge(back.runs, on=keys, suffixes=("", "_back"))
    assert len(both) == len(study.final)
    assert list(both["status"]) == list(both["status_back"])
    curves = own.curves.merge(both[["trial_id", "trial_id_back"]], on="trial_id")
    curves = curves.merge(
        back.curves.rename(columns={"trial_id": "trial_id_back"}), on=["trial_id_back", "step"], suffixes=("", "_back")
    )
    assert len(curves) == len(own.curves[own.curves["trial_id"].isin(study.final.keys())])
    for name in ("test_accuracy", "test_loss", "epoch", "flops", "train_seconds"):
        finite = np.isfinite(curves[name])
        assert np.allclose(curves[name][finite], curves[f"{name}_back"][finite], rtol=1e-6, atol=0)
