"""Runs that other tools have written themselves, imported and compared number by number."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from types import SimpleNamespace

import numpy as np
import optuna
import pytest

import sensitivity
from sensitivity.importing import sources
from sensitivity.study.errors import UserError

LRS, SEEDS, STEPS = (0.1, 0.3), (0, 1), (0, 10, 20)
CONSTANTS = {"optimizer": "sgd", "batch_size": 32}
ACCURACY = {"test_accuracy": {"column": "val_accuracy", "unit": "fraction"}}


def accuracy(lr, seed, step):
    return lr * (step + seed) / 100


def configurations():
    return [{"lr": lr, "seed": seed, **CONSTANTS} for lr in LRS for seed in SEEDS]


def check(study, *, statuses=("completed",) * 4):
    """The curves are those that were written, and every run has its setting."""
    runs = study.runs.sort_values(["param.lr", "seed"])
    assert tuple(runs["status"]) == statuses
    assert list(zip(runs["param.lr"], runs["seed"], strict=True)) == [(lr, seed) for lr in LRS for seed in SEEDS]
    for row, status in zip(runs.itertuples(), statuses, strict=True):
        own = study.curves[study.curves["trial_id"] == row.trial_id]
        steps = STEPS if status == "completed" else STEPS[:2]
        assert tuple(own["step"]) == steps
        lr = runs.loc[row.Index, "param.lr"]
        assert np.allclose(own["test_accuracy"], [accuracy(lr, row.seed, step) for step in steps], rtol=1e-6, atol=0)


def test_an_optuna_storage(tmp_path, optuna_storage):
    url = f"sqlite:///{tmp_path}/runs.db"
    study = optuna.create_study(storage=optuna_storage(url), study_name="s", direction="maximize")
    for lr in LRS:
        for seed in SEEDS:
            trial = study.ask()
            trial.suggest_float("lr", lr, lr)
            trial.set_user_attr("seed", seed)
            failed = (lr, seed) == (0.3, 1)
            for step in STEPS[: 2 if failed else 3]:
                trial.report(accuracy(lr, seed, step), step)
            if failed:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, accuracy(lr, seed, STEPS[-1]))
    with pytest.raises(UserError) as asked:
        sensitivity.import_runs(tmp_path / "runs.db", "mine", storage=tmp_path)
    for words in (
        "does 'reported' (the step of trial.report) count optimizer steps",
        "which column is the metric (",
        "which optimizer was used",
    ):
        assert words in str(asked.value)
    mapping = {
        "rows": "evaluations",
        "columns": {
            "run": "run", "seed": "seed", "step": "reported", "status": "status", "started_at": "started_at",
            "finished_at": "finished_at",
        },
        "hyperparameters": {"lr": "config.lr"},
        "metrics": {"test_accuracy": {"column": "value", "unit": "fraction"}},
        "statuses": {"COMPLETE": "completed", "FAIL": "failed"},
        "constants": CONSTANTS,
    }  # fmt: skip
    found = sensitivity.import_runs(f"optuna:{url}", "mine", mapping=mapping, storage=tmp_path)
    check(found, statuses=("completed",) * 3 + ("failed",))
    took = (found.runs["finished_at"] - found.runs["started_at"]).sort_values()
    assert list(took) == sorted(trial.duration for trial in study.trials)
    assert "The objective of the Optuna study 's' is maximized." in found.spec.observed.cautions


def test_an_export_to_optuna_comes_back(tmp_path):
    """What `export` writes for Optuna is read again: the same runs, statuses and curves."""
    from sensitivity.execution.optuna_export import export_optuna
    from sensitivity.store.directory import place

    table = "run,optimizer,lr,batch_size,seed,step,test_accuracy\n" + "".join(
        f"{lr}-{seed},sgd,{lr},32,{seed},{step},{accuracy(lr, seed, step)}\n"
        for lr in LRS
        for seed in SEEDS
        for step in STEPS
    )
    (tmp_path / "runs.csv").write_text(table)
    sensitivity.import_runs(tmp_path / "runs.csv", "first", storage=tmp_path)
    export_optuna(place(str(tmp_path / "first")), str(tmp_path / "optuna.db"))
    mapping = {
        "rows": "evaluations",
        "columns": {
            "run": "run", "optimizer": "optimizer", "batch_size": "batch_size", "seed": "seed", "step": "reported",
            "status": "status",
        },
        "hyperparameters": {"lr": "config.lr"},
        "metrics": {"test_accuracy": {"column": "test_accuracy", "unit": "fraction"}},
    }  # fmt: skip
    check(sensitivity.import_runs(tmp_path / "optuna.db", "again", mapping=mapping, storage=tmp_path))


def test_a_ray_tune_folder(tmp_path):
    """Written by Tune's own loggers, without a cluster."""
    from ray.tune.experiment import Trial
    from ray.tune.logger import JsonLoggerCallback

    logger = JsonLoggerCallback()
    for place, configuration in enumerate(configurations()):
        trial = Trial("train", config=configuration, trial_id=f"t_{place}", stub=True)
        folder = tmp_path / "experiment"
        (folder / trial.trial_id).mkdir(parents=True)
        trial.storage = SimpleNamespace(
            experiment_driver_staging_path=str(folder), trial_driver_staging_path=str(folder / trial.trial_id)
        )
        logger.log_trial_start(trial)
        for iteration, step in enumerate(STEPS, start=1):
            logger.log_trial_result(
                iteration,
                trial,
                {
                    "val_accuracy": accuracy(configuration["lr"], configuration["seed"], step),
                    "global_step": step,
                    "training_iteration": iteration,
                    "time_total_s": float(iteration),
                    "timestamp": 1_700_000_000 + step,
                    "trial_id": trial.trial_id,
                    "done": step == STEPS[-1],
                    "config": configuration,
                    "hostname": "here",
                },
            )
        logger.log_trial_end(trial, failed=False)
    study = sensitivity.import_runs(tmp_path / "experiment", "mine", storage=tmp_path)
    check(study)
    assert set(study.runs["train_seconds"]) == {3.0}


def test_tensorboard_event_files(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    from torch.utils.tensorboard import SummaryWriter

    for configuration in configurations():
        folder = str(tmp_path / "logs" / f"{configuration['lr']}-{configuration['seed']}")
        with SummaryWriter(folder) as writer:
            writer.add_hparams(configuration, {}, run_name=".")
            for step in STEPS:
                writer.add_scalar("val/accuracy", accuracy(configuration["lr"], configuration["seed"], step), step)
    check(sensitivity.import_runs(tmp_path / "logs", "mine", storage=tmp_path))


@pytest.mark.filterwarnings("ignore")  # of its own about its own libraries
def test_an_mlflow_store(tmp_path):
    tracking = pytest.importorskip("mlflow.tracking", reason="the extra `mlflow` is not installed")
    url = f"sqlite:///{tmp_path}/mlflow.db"
    client = tracking.MlflowClient(url)
    experiment = client.create_experiment("e")
    for configuration in configurations():
        run = client.create_run(experiment)
        for name, value in configuration.items():
            client.log_param(run.info.run_id, name, value)
        for step in STEPS:
            value = accuracy(configuration["lr"], configuration["seed"], step)
            client.log_metric(run.info.run_id, "val_accuracy", value, step=step)
        client.set_terminated(run.info.run_id)
    check(sensitivity.import_runs(f"mlflow:{url}", "mine", storage=tmp_path))


@pytest.mark.filterwarnings("ignore")
def test_wandb_runs_of_the_offline_mode(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    configuration = configurations()[1]  # one: a start of W&B takes seconds
    with wandb.init(mode="offline", dir=tmp_path, project="p", config=configuration) as run:
        for step in STEPS:
            value = accuracy(configuration["lr"], configuration["seed"], step)
            run.log({"val_accuracy": value, "global_step": step})
    wandb.teardown()  # its own process writes files to their ends
    study = sensitivity.import_runs(tmp_path / "wandb", "mine", storage=tmp_path)
    (row,) = study.runs.to_dict("records")
    assert (row["status"], row["optimizer"], row["param.lr"], row["seed"]) == ("completed", "sgd", 0.1, 1)
    assert tuple(study.curves["step"]) == STEPS
    assert list(study.curves["test_accuracy"]) == [accuracy(0.1, 1, step) for step in STEPS]


@pytest.mark.filterwarnings("ignore")
def test_a_wandb_project_as_its_public_api_returns_it(tmp_path, monkeypatch):
    """A fake: objects in the place of the API's own, as its server isn't here, with the fields that it documents."""
    wandb = pytest.importorskip("wandb", reason="the extra `wandb` is not installed")

    def run(place, configuration):
        history = [
            {
                "_step": at,
                "_runtime": 1.5 * at,
                "_timestamp": 1.75e9 + at,
                "global_step": step,
                "val_accuracy": accuracy(configuration["lr"], configuration["seed"], step),
            }
            for at, step in enumerate(STEPS[: 2 if place == 3 else 3])
        ]
        return SimpleNamespace(
            id=f"r{place}",
            state="crashed" if place == 3 else "finished",
            created_at="2025-06-15T15:06:40Z",
            config={**configuration, "_wandb": {}},
            scan_history=lambda: iter(history),
        )

    projects = {"me/mine": [run(place, each) for place, each in enumerate(configurations())]}
    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(runs=projects.get))
    study = sensitivity.import_runs("wandb:me/mine", "mine", storage=tmp_path)
    check(study, statuses=("completed",) * 3 + ("failed",))
    assert sorted(study.runs["train_seconds"]) == [1.5, 3.0, 3.0, 3.0]

    def gone(_):
        raise ValueError("Could not find project")

    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(runs=gone))
    with pytest.raises(UserError, match=r"W&B returns no project of this name \(Could not find project\)"):
        sensitivity.import_runs("wandb:me/other", "other", storage=tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_an_mlflow_server(tmp_path):
    """Over http: sent by this package, imported again, and the server's numbers are those of the first import."""
    pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    from sensitivity.exporting.sending import Sender
    from sensitivity.store.directory import place
    from sensitivity.study.trackers import parse_target

    table = "run,optimizer,lr,batch_size,seed,step,test_accuracy\n" + "".join(
        f"{lr}-{seed},sgd,{lr},32,{seed},{step},{accuracy(lr, seed, step)}\n"
        for lr in LRS
        for seed in SEEDS
        for step in STEPS
    )
    (tmp_path / "runs.csv").write_text(table)
    sensitivity.import_runs(tmp_path / "runs.csv", "first", storage=tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination",
        str(tmp_path / "a"),
    ]
    server = subprocess.Popen(
        command, cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=1).close()
                break
            except OSError:
                if server.poll() is not None:
                    pytest.skip("this MLflow has no server")
                assert time.monotonic() < end
                time.sleep(0.2)
        sender = Sender(place(str(tmp_path / "first")), parse_target(f"mlflow:{url}"))
        sender.send_runs()
        sender.send_study()
        check(sensitivity.import_runs(f"mlflow:{url}", "again", storage=tmp_path))
        assert list((tmp_path / "a").rglob("report.html"))
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def test_a_package_that_is_missing_is_named_with_its_install_line(tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("No module named 'tensorboard'", name="tensorboard.backend")

    monkeypatch.setattr(sources.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"isn't installed\n  Install it: pip install 'sensitivity\[tensorboard\]'"):
        sources.find_source(f"tensorboard:{tmp_path}")


def test_what_is_no_source_is_told_with_those_that_are(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    for path, why in ((tmp_path, "no table of runs found there"), (tmp_path / "absent", "there is no such file")):
        with pytest.raises(UserError, match=f"{why}.*\n  Use a file that ends in .csv, .*wandb:ADDRESS"):
            sources.find_source(str(path))
    (tmp_path / "bad.jsonl").write_text(json.dumps([1]) + "\n")
    with pytest.raises(UserError, match="line 1 is not an object"):
        sources.find_source(str(tmp_path / "bad.jsonl"))
