"""Studies through Ray Tune: results equal those trained in this process, and nothing is done twice or lost."""

import contextlib
import errno
import functools
import gc
import json
import pickle
import random
import threading
from collections import Counter
from types import SimpleNamespace

import pandas as pd
import pytest

from sensitivity.execution import study_run
from sensitivity.execution.launch import launch
from sensitivity.execution.pack_scheduler import PackScheduler
from sensitivity.execution.prepare import prepare
from sensitivity.execution.progress import Progress, Share, part_of
from sensitivity.execution.settler import Budget
from sensitivity.execution.settling import settle_study
from sensitivity.execution.study_run import Machines
from sensitivity.execution.verification import sample
from sensitivity.store.directory import place
from sensitivity.store.ledger import read_ledger, settling_place
from sensitivity.store.lock import WriterLock
from sensitivity.store.manifest import read_manifest, write_manifest
from sensitivity.store.merging import merge_parts
from sensitivity.store.reader import read_runs, read_study
from sensitivity.study.errors import StorageError, UserError
from sensitivity.study.results import PackResult, RunResult, Status
from sensitivity.study.trials import Pack, Trial, group
from sensitivity.training.loop import train_pack

METRICS = ["train_loss", "train_accuracy", "test_loss", "test_accuracy"]


@contextlib.contextmanager
def silent(progress):
    yield lambda: None


def run(path, root, show=silent, workers=1):
    """Run a study; each worker is a process that imports PyTorch, so tests take one where two prove no more."""
    plan = prepare(str(path))
    directory = place(str(root)).child(plan.spec.name)
    return launch(plan, directory, Machines(workers=workers), show=show), read_study(directory)


@pytest.fixture(scope="module")
def finished(kept_workers, tiny, tmp_path_factory):
    """The tiny study, run to its end."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.toml").write_text(tiny)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_run, "merge_parts", keep_ids_of_trials)
        outcome, study = run(folder / "tiny.toml", folder / "studies", workers=2)
    return folder, outcome, study


def keep_ids_of_trials(*_, **__):
    """Stand in for the merging of parts: note which trials there are in memory meanwhile."""
    gc.collect()
    ALIVE.update(each.id for each in gc.get_objects() if isinstance(each, Trial))


ALIVE = set()


def test_every_planned_run_has_its_result(finished):
    _, outcome, study = finished
    assert outcome.planned == len(study.runs) == 2 * 2 * (3 + 2)
    assert Counter(study.runs["status"]) == outcome.statuses == {"completed": 16, "diverged": 4}
    assert set(study.runs.loc[study.runs["param.lr"] == 1e6, "status"]) == {"diverged"}
    assert study.runs["trial_id"].is_unique
    assert not outcome.interrupted


def test_trials_leave_memory_before_results_are_merged(finished):
    assert ALIVE.isdisjoint(finished[2].runs["trial_id"])


def test_results_are_those_of_training_in_this_process(finished):
    folder, _, study = finished
    plan = prepare(str(folder / "tiny.toml"))
    for trial in plan.trials[::3]:
        (alone,) = train_pack(Pack((trial,)), plan.problem)
        (row,) = study.runs[study.runs["trial_id"] == trial.id].to_dict("records")
        assert row["status"] == alone.status.value
        curve = study.curves[study.curves["trial_id"] == trial.id]
        assert curve["step"].tolist() == [m.step for m in alone.measurements]
        if alone.status.value == "completed":
            for metric in METRICS:
                assert row[metric] == pytest.approx(getattr(alone.measurements[-1], metric), rel=2e-4)


def test_a_stop_while_parts_are_merged_ends_like_any_other(finished, monkeypatch):
    folder, before, _ = finished

    def stopped(directory, *, require):
        raise KeyboardInterrupt

    monkeypatch.setattr(study_run, "merge_parts", stopped)
    outcome, _ = run(folder / "tiny.toml", folder / "studies")
    assert outcome.interrupted
    assert outcome.statuses == before.statuses


def test_a_second_run_does_nothing_and_an_extension_only_what_is_new(finished, tmp_path, monkeypatch):
    folder, _, study = finished
    before = study.runs.set_index("trial_id").sort_index()
    monkeypatch.setattr(study_run, "merge_parts", functools.partial(merge_parts, fewest=2))
    outcome, again = run(folder / "tiny.toml", folder / "studies")
    assert len([*folder.glob("studies/tiny/runs/*")]) == 1, "its parts are merged at the end"
    pd.testing.assert_frame_equal(again.runs.set_index("trial_id").sort_index(), before)
    text = (folder / "tiny.toml").read_text().replace("seeds = 2", "seeds = 3")
    (tmp_path / "tiny.toml").write_text(text)
    seen = []

    @contextlib.contextmanager
    def watch(progress):
        yield lambda: seen.append((progress.done, progress.planned))

    outcome, extended = run(tmp_path / "tiny.toml", folder / "studies", watch)
    assert outcome.planned == 30
    assert seen[0] == (20, 30)
    assert seen[-1] == (30, 30)
    kept = extended.runs.set_index("trial_id").loc[before.index]
    pd.testing.assert_frame_equal(kept[before.columns], before)
    hashes = extended.runs["spec_hash"].unique()
    assert set(hashes) == set(json.loads((folder / "studies/tiny/study.json").read_text())["specs"])


def test_a_users_failing_model_fails_its_runs_alone(kept_workers, write_study, tmp_path):
    (tmp_path / "mine_that_fails.py").write_text(
        "import torch\n"
        "class Touchy(torch.nn.Module):\n"
        "    def __init__(self, outputs):\n"
        "        super().__init__(); self.layer = torch.nn.Linear(64, outputs)\n"
        "    def forward(self, x):\n"
        "        y = self.layer(x.flatten(1))\n"
        "        if self.training and y.detach().abs().max() > 1e3: raise ArithmeticError('too large for me')\n"
        "        return y\n"
        "def model(shape, outputs): return Touchy(outputs)\n"
    )
    path = write_study(
        ("[budget]", '[problem]\nmodel = "mine_that_fails:model"\n[budget]'),
        ("batch_sizes = [64, 256]", "batch_sizes = [64]"),
    )
    outcome, study = run(path, tmp_path / "studies")
    failed = study.runs[study.runs["status"] == "failed"]
    assert outcome.statuses == {"completed": 8, "failed": 2}
    assert set(failed["param.lr"]) == {1e6}
    assert set(failed["message"]) == {"ArithmeticError: too large for me"}
    assert failed["traceback"].str.contains("mine_that_fails.py").all()
    # It is the user's to mend: not tried again.
    assert run(path, tmp_path / "studies")[0].statuses == outcome.statuses


def test_a_worker_that_ran_out_of_memory_is_told_from_one_that_was_killed(running_ray):
    from sensitivity.execution.runner import cause_of_loss

    monitor = "Task was killed due to the node running low on memory.\nMemory: 9/10 GB\n"
    killed = (
        "The actor died unexpectedly before finishing this task.\n\tpid: 7\nThe actor is dead because its worker "
        "process has died. Worker exit detail: End of file. Some common causes include: (1) the process was killed by "
        "the OOM killer due to high memory usage, (2) ray stop --force was called\n"
    )
    assert cause_of_loss(monitor) == ("Memory: 9/10 GB", True)
    cause, out_of_memory = cause_of_loss(killed)
    assert cause.endswith("its worker process has died. Worker exit detail: End of file.")
    assert not out_of_memory
    assert cause_of_loss("") == ("unknown", False)


def test_a_full_temporary_folder_is_a_message_and_what_was_reported_stays(
    kept_workers, write_study, tmp_path, monkeypatch
):
    from sensitivity.execution import runner

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = write_study(("[budget]", "[execution]\npack_size = 2\n[budget]"))
    with monkeypatch.context() as patch:
        patch.setattr(runner.tune, "Tuner", full)
        with pytest.raises(UserError, match=r"Ray Tune's own files .*No space left(.|\n)*set TMPDIR"):
            run(path, tmp_path / "studies")
    assert not (tmp_path / "studies/tiny/writer.lock").exists()


@pytest.mark.parametrize("kind", ["AuthenticationError", "RaySystemError", "Exception"])
def test_a_ray_that_can_not_be_had_is_a_message(running_ray, monkeypatch, kind):
    import ray

    from sensitivity.execution import ray_processes, session

    calls = []

    def refuses(**options):
        calls.append(options["address"])
        raise getattr(ray.exceptions, kind, Exception)("no token\nwith a long explanation")

    monkeypatch.setattr(ray, "init", refuses)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(UserError, match=r"no Ray cluster answers at 'auto' \(.*no token\)"):
        session._join("auto")
    with pytest.raises(UserError, match=r"does not start here, tried 2 times \(.*no token\)") as caught:
        session._start(1, ray_processes.RayProcesses())
    assert "ray stop" not in str(caught.value), "which ends everybody's on a shared machine"
    assert calls == ["auto", "local", "local"]


@contextlib.contextmanager
def recording(path, root, size):
    """What receives results of the tiny study in packs of `size`, without Ray: its recorder and all it works on."""
    from sensitivity.execution import runner

    plan, directory = prepare(str(path)), place(str(root))
    manifest, packs = write_manifest(directory, plan.spec, plan.source), group(plan.trials, size)
    scheduler = PackScheduler(packs, workers=1)
    shares = {part_of(trial): Share(work=5.0) for trial in plan.trials}
    progress = Progress(planned=20, finished_before=0, shares=shares, weigh=lambda group: 1.0)
    with WriterLock(directory) as lock:
        to = runner.Destination(directory=directory, manifest=manifest, lock=lock)
        recorder = runner._Recorder(scheduler, to, progress, lambda: None)
        yield SimpleNamespace(recorder=recorder, scheduler=scheduler, progress=progress, packs=packs, at=directory)


def next_result(scheduler):
    """Tune's trial of the next pack, and what its worker reports."""
    from sensitivity.execution import runner

    pack = scheduler.take()
    runs = tuple(RunResult(trial=trial, status=Status.FAILED) for trial in pack.trials)
    result = PackResult(runs=runs, pack_id=pack.id, host="", device="", started_at=0.0, wall_seconds=0.0)
    return SimpleNamespace(config={"parcel": runner._PackConfig(pack)}, error_file=None), {"result": result}


def test_a_worker_that_dies_once_its_results_are_there_is_not_missed(kept_workers, write_study, tmp_path):
    with recording(write_study(), tmp_path / "study", 5) as on:
        recorder, scheduler, progress, packs = on.recorder, on.scheduler, on.progress, on.packs
        trial, told = next_result(scheduler)
        recorder.on_trial_result(0, [], trial, told)
        recorder.on_trial_error(0, [], trial)
        recorder.close()
    assert told == {"result": packs[0].id}, "Tune keeps this to the end: no curves"
    assert pickle.loads(pickle.dumps(trial.config)) == {"parcel": packs[0].id}, "and this in its snapshots: no trials"
    assert recorder.fault is None
    assert progress.done == len(packs[0].trials)
    assert progress.fraction == progress.done / 20
    assert [scheduler.take() for _ in packs] == [*packs[1:], None], "it is not trained again"


def test_what_was_reported_is_written_whatever_ends_the_command(write_study, tmp_path, monkeypatch):
    from sensitivity.execution import runner

    closing, real = threading.Event(), runner.append

    def append(*arguments, **options):
        assert closing.wait(30)
        real(*arguments, **options)

    monkeypatch.setattr(runner, "append", append)
    with recording(write_study(), tmp_path / "study", 1) as on:
        recorder, progress = on.recorder, on.progress
        for _ in range(12):
            trial, told = next_result(on.scheduler)
            recorder.on_trial_result(0, [], trial, told)
        recorder.on_trial_result(0, [], trial, {"changed": "the code of the model has changed"})
        assert progress.done == 0
        closing.set()
        recorder.close()
    assert progress.done == len(on.at.child("runs").files(".parquet")) == 12
    assert "has changed" in str(recorder.fault)


HOURS = """
name = "hours"
batch_sizes = [16]
seeds = 2
[problem]
dataset = "noisy_quadratic"
model = "quadratic"
loss = "quadratic"
[budget]
steps = 5
[search]
objective = "test_loss"
round = 3
confirm = 1
[optimizers.kfac]
kind = "newton"
design = "tpe"
device_hours = {hours}
lr = {{ log = [1e-3, 1.0] }}
damping = {{ log = [1e-2, 1.0] }}
"""


def test_search_by_hours_ends_with_them_and_continues_with_more(kept_workers, tmp_path):
    path, progresses = tmp_path / "hours.toml", []

    def show(progress):
        progresses.append(progress)
        return silent(progress)

    path.write_text(HOURS.format(hours=1e-9))
    outcome, study = run(path, tmp_path / "studies", show)
    assert outcome.statuses == {"completed": 2 * 3 + 1}, "one round, and the winner's confirmation"
    runs = study.runs[~study.runs["confirmation"]]
    taken = (runs["train_seconds"] + runs["eval_seconds"]).sum()
    assert progresses[0].planned is None
    assert progresses[0].device_time == pytest.approx((3.6e-6, 3.6e-6))
    assert progresses[0].fraction == 1.0

    assert run(path, tmp_path / "studies", show)[0] == outcome
    assert len(progresses) == 1, "nothing was left to run"

    path.write_text(HOURS.format(hours=taken / 3600 + 1e-9))
    outcome, study = run(path, tmp_path / "studies", show)
    assert (~study.runs["confirmation"]).sum() == 2 * (2 * 3), "what the first round took counts"
    assert progresses[1].finished_before == 7
    assert progresses[1].device_time[0] == pytest.approx(taken, abs=1e-5)


def test_a_changed_problem_is_another_study(write_study, tmp_path):
    module = tmp_path / "mine_that_changes.py"
    module.write_text(
        "from torch import nn\n"
        "def model(shape, outputs):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))\n"
    )
    path = write_study(
        ("[budget]", '[problem]\nmodel = "mine_that_changes:model"\n[budget]'),
        ("[64, 256]", "[64]"),
        ("seeds = 2", "seeds = 1"),
    )
    plan = prepare(str(path))
    write_manifest(place(str(tmp_path / "studies/tiny")), plan.spec, plan.source, plan.origin)
    module.write_text(module.read_text() + "# changed\n")
    with pytest.raises(StorageError, match="different study"):
        run(path, tmp_path / "studies")


def test_broken_place_stops_the_run_and_keeps_results(kept_workers, write_study, tmp_path, monkeypatch):
    from sensitivity.execution import runner  # here: it imports Ray, whose environment the fixture prepares

    calls = []
    real = runner.append

    def fails_second(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise StorageError("the disk is full")
        real(*arguments, **options)

    monkeypatch.setattr(runner, "append", fails_second)
    path = write_study(("[budget]", "[execution]\npack_size = 2\n[budget]"))
    with pytest.raises(StorageError, match="disk is full"):
        run(path, tmp_path / "studies")
    assert len(calls) < 10
    monkeypatch.undo()
    study = read_study(place(str(tmp_path / "studies" / "tiny")))
    assert 0 < (study.runs["status"] != "pending").sum() < 20
    outcome, study = run(path, tmp_path / "studies")
    assert outcome.statuses == {"completed": 16, "diverged": 4}
    assert study.runs["trial_id"].is_unique


SETTLING = """
name = "alike"
batch_sizes = [64, 256]
seeds = 1
[budget]
steps = 6
[evaluation]
every_steps = 3
[targets]
test_accuracy = [0.3]
[optimizers.one]
kind = "sgd"
lr = { log = [0.01, 1.0], points = 4 }
[optimizers.other]
kind = "sgd"
lr = { log = [0.01, 1.0], points = 4 }
"""


def test_a_study_settles_through_ray(running_ray, tmp_path):
    path = tmp_path / "alike.toml"
    path.write_text(SETTLING)
    plan = prepare(str(path))
    directory = place(str(tmp_path)).child(plan.spec.name)
    stopped = settle_study(plan, directory, Machines(workers=2), budget=Budget(runs=100), show=silent)
    assert read_ledger(directory) == stopped.ledger
    runs = read_runs(settling_place(directory)).runs
    assert len(runs) == stopped.ledger.cost.runs > 0
    assert set(runs["status"]) <= {"completed", "diverged"}
    assert stopped.outcome.determinism["faults"] == []
    folder = settling_place(directory)
    trained = sample(folder, read_manifest(folder), len(runs), random.Random(0))
    assert sum(len(each.pack.trials) for each in trained) == len(runs)  # `verify` can train each of them again
