"""What Optuna itself finds in an exported study."""

import math
import re
import warnings

import optuna
import pytest

from sensitivity.cli.exporting import export_study
from sensitivity.execution.optuna_export import export_optuna
from sensitivity.store.directory import place
from sensitivity.store.manifest import write_manifest
from sensitivity.store.reader import read_study
from sensitivity.store.writer import append, write_plan
from sensitivity.study.errors import UserError
from sensitivity.study.load import parse_study
from sensitivity.study.results import Measurement, PackResult, RunResult, Status
from sensitivity.study.trials import expand

SPEC = {
    "name": "t",
    "batch_sizes": [32, 64],
    "seeds": 2,
    "budget": {"steps": 20},
    "optimizers": {
        "sgd": {"kind": "sgd", "lr": {"log": [1e-2, 1.0], "points": 3}, "momentum": [0.0, 0.9]},
        "kfac": {"kind": "kfac", "lr": 0.1, "damping": {"log": [1e-3, 1.0], "points": 3}},
    },
}


def accuracy(trial):
    values = dict(trial.hyperparameters)
    return 0.9 - 0.1 * abs(math.log10(values["lr"]) + 1) - 0.05 * values["momentum"] + 0.01 * trial.seed


def run(trial, status=Status.COMPLETED):
    curve = tuple(
        Measurement(step=k * 10, epoch=0.0, lr=0.1, train_seconds=k, flops=1.0, train_loss=1.0, test_accuracy=value)
        for k, value in enumerate([0.1, 0.3, accuracy(trial)])
    )
    return RunResult(trial=trial, status=status, measurements=curve, steps=20, train_seconds=1.0, message="why")


@pytest.fixture
def exported(tmp_path):
    """A study in which lr = 1 diverges, one run failed and one was stopped, and batch size 64 with K-FAC is pending."""
    spec = parse_study(SPEC, source="test")
    directory = place(str(tmp_path / "study"))
    write_manifest(directory, spec, "")
    trials = expand(spec)
    write_plan(directory, trials)
    sgd = [trial for trial in trials if trial.arm == "sgd" and trial.batch_size == 32]
    states = {sgd[0].id: Status.FAILED, sgd[1].id: Status.STOPPED}
    runs = tuple(
        run(
            trial,
            Status.DIVERGED if dict(trial.hyperparameters)["lr"] == 1.0 else states.get(trial.id, Status.COMPLETED),
        )
        for trial in trials
        if trial.group != ("kfac", 64)
    )
    result = PackResult(runs=runs, pack_id="p", host="", device="", started_at=0.0, wall_seconds=0.0)
    append(directory, result, spec_hash="", code_version="")
    file = tmp_path / "optuna.db"
    names = export_optuna(directory, str(file))
    return directory, f"sqlite:///{file}", names, {trial.id: trial for trial in trials}


def test_every_run_is_there_with_its_configuration_and_worth(exported, optuna_storage):
    _, url, names, trials = exported
    assert names == ("t/sgd/32", "t/kfac/32", "t/sgd/64", "t/kfac/64")
    study = optuna.load_study(study_name="t/sgd/32", storage=optuna_storage(url))
    assert len(study.trials) == 3 * 2 * 2
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    worst = min(t.value for t in study.trials if t.value is not None)
    for each in study.trials:
        trial = trials[each.user_attrs["trial_id"]]
        assert tuple((name, each.params[name]) for name, _ in trial.hyperparameters) == trial.hyperparameters
        assert each.user_attrs["seed"] == trial.seed
        state = {"failed": "FAIL", "stopped": "PRUNED"}.get(each.user_attrs["status"], "COMPLETE")
        assert each.state.name == state
        if each.user_attrs["status"] == "diverged":
            assert each.value == worst
        elif state == "COMPLETE":
            assert each.value == pytest.approx(accuracy(trial))
            assert each.intermediate_values == {0: 0.1, 10: 0.3, 20: pytest.approx(accuracy(trial))}
    assert sum(t.user_attrs["status"] == "diverged" for t in study.trials) == 4
    assert sum(t.params["momentum"] == 0 for t in study.trials) == 6
    assert study.best_params["lr"] == pytest.approx(0.1)
    pending = optuna.load_study(study_name="t/kfac/64", storage=optuna_storage(url))
    assert not pending.trials
    assert pending.user_attrs["pending"] == 6


def test_optunas_own_functions_take_it(exported, optuna_storage):
    _, url, names, _ = exported
    study = optuna.load_study(study_name=names[0], storage=optuna_storage(url))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importance = optuna.importance.get_param_importances(study)
        figure = optuna.visualization.plot_slice(study, params=["lr", "momentum"])
        optuna.visualization.plot_intermediate_values(study)
    assert importance["lr"] > importance["momentum"]
    shown = {value for trace in figure.data for value in trace.x}
    assert {0.0, 0.9} <= {float(value) for value in shown}, "momentum = 0 is in the figure"


def test_a_storage_is_not_written_twice_and_a_wrong_one_is_named(exported, tmp_path):
    directory, url, _, _ = exported
    with pytest.raises(UserError, match=r"already contains an Optuna study 't/sgd/32'\n  Use another file"):
        export_optuna(directory, url)
    with pytest.raises(UserError, match=r"Optuna storage .*can't be opened"):
        export_optuna(directory, "nosuch://x")


def test_the_command_writes_a_file_by_default(exported, tmp_path, monkeypatch):
    directory, _, names, _ = exported
    monkeypatch.chdir(tmp_path)
    said = list(export_study(directory.uri, "optuna:"))
    assert re.fullmatch(r"storage: sqlite:///study\.db \(\d+ kB\)", said[-1])
    assert len(said) == len(names) + 1


def test_times_and_names_are_kept(exported, optuna_storage):
    directory, url, _, _ = exported
    runs = {row["trial_id"]: row for row in read_study(directory).runs.to_dict("records")}
    study = optuna.load_study(study_name="t/sgd/32", storage=optuna_storage(url))
    assert study.metric_names == ["test_accuracy"]
    assert [each.number for each in study.trials] == list(range(12))
    for each in study.trials:
        row = runs[each.user_attrs["trial_id"]]
        assert each.datetime_start.astimezone() == row["started_at"]
        assert each.duration == row["finished_at"] - row["started_at"]
    study.add_trial(optuna.create_trial(value=0.5))  # the storage goes on as any other
    assert len(study.trials) == 13
    assert study.trials[-1].number == 12
