"""Runs recorded by many processes at once, some of them killed: nothing is lost, and nothing is there twice."""

import contextlib
import math
import multiprocessing
import os
import signal
import time

import pytest

import sensitivity
from sensitivity.study.errors import UserError

PROCESSES, KILLED, EVALUATIONS = 20, 5, 6
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["sensitivity.face.recording", "pyarrow.parquet", "pytest"])


def train(directory, seed, environment, counts):
    """Record a run; one that is to be killed goes on until it is. `counts` has how many evaluations were kept."""
    os.environ.update(environment)
    with sensitivity.record(directory, optimizer="adamw", lr=1e-3, batch_size=32, seed=seed) as run:
        step = 0
        while step < EVALUATIONS or seed < KILLED:
            run.log(step=step, train_loss=1 / (1 + step) if seed != KILLED else math.nan)
            step += 1
            counts[seed] = step
            if step >= EVALUATIONS:
                time.sleep(0.005)  # the log of one that waits for its end stays short


@pytest.fixture(params=["folder", "bucket"])
def where(request, tmp_path, monkeypatch):
    """A study directory, and the environment that reaches it."""
    if request.param == "folder":
        yield str(tmp_path / "mine"), {}
        return
    import boto3
    from moto.server import ThreadedMotoServer

    environment = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1").create_bucket(Bucket="bucket")
        yield f"s3://bucket/mine?region=us-east-1&scheme=http&endpoint_override={host}:{port}", environment
    finally:
        server.stop()


def test_processes_record_at_once_and_some_are_killed(where):
    directory, environment = where
    counts = CONTEXT.Array("i", PROCESSES)
    workers = [CONTEXT.Process(target=train, args=(directory, seed, environment, counts)) for seed in range(PROCESSES)]
    for worker in workers:
        worker.start()
    for seed, worker in enumerate(workers):
        if seed < KILLED:
            while counts[seed] < EVALUATIONS and worker.is_alive():
                worker.join(0.01)
            os.kill(worker.pid, signal.SIGKILL)
        worker.join()
    kept = list(counts)
    assert [worker.exitcode for worker in workers] == [-signal.SIGKILL] * KILLED + [0] * (PROCESSES - KILLED)

    study = sensitivity.open(directory)
    status = study.runs.set_index("seed")["status"]
    assert sorted(status.index) == list(range(PROCESSES))
    assert set(status[:KILLED]) == {"interrupted"} or set(status.loc[range(KILLED)]) == {"interrupted"}
    assert status[KILLED] == "diverged"
    assert set(status.loc[range(KILLED + 1, PROCESSES)]) == {"completed"}
    seeds = study.runs.set_index("trial_id")["seed"]
    steps = study.curves.groupby(study.curves["trial_id"].map(seeds))["step"].agg(list)
    for seed in range(PROCESSES):
        # What `log` has returned for is there; the one that a kill came into may be.
        assert steps[seed] == list(range(len(steps[seed])))
        assert len(steps[seed]) - kept[seed] in ((0, 1) if seed < KILLED else (0,))
    assert study.spec.seeds == tuple(range(PROCESSES))

    # The next process that has the turn of a killed one replaces it.
    with sensitivity.record(directory, optimizer="adamw", lr=1e-3, batch_size=32, seed=0) as run:
        run.log(step=0, train_loss=1.0)
    again = sensitivity.open(directory)
    assert len(again.runs) == PROCESSES
    assert again.runs.set_index("seed")["status"][0] == "completed"
    assert len(again.curves[again.curves["trial_id"] == run.id]) == 1


def recorded(directory, **changes):
    values = {"optimizer": "adamw", "lr": 0.1, "batch_size": 32, "seed": 0, **changes}
    return sensitivity.record(directory, **values)


def test_how_a_run_ends(tmp_path):
    directory = tmp_path / "mine"
    for seed, error in ((1, ValueError("boom")), (2, KeyboardInterrupt())):
        with contextlib.suppress(type(error)), recorded(directory, seed=seed) as run:
            run.log(step=0, train_loss=1.0)
            raise error
    with recorded(directory, seed=3):
        pass
    with recorded(directory, seed=4) as run:
        run.log(step=0, train_loss=2.0, epoch=0.0, flops=0.0)
        run.log(step=8, train_loss=1.0, epoch=0.5, flops=1e9, train_seconds=3.0)
        run.finish("stopped", "hopeless")
        with pytest.raises(UserError, match="has ended"):
            run.log(step=9, train_loss=1.0)
    study = sensitivity.open(directory)
    runs = study.runs.set_index("seed")
    assert dict(runs["status"]) == {1: "failed", 2: "interrupted", 3: "failed", 4: "stopped"}
    assert runs["message"][1] == "ValueError: boom"
    assert "raise error" in runs["traceback"][1]
    assert list(runs.loc[4, ["steps", "epochs", "flops", "train_seconds", "train_loss"]]) == [8, 0.5, 1e9, 3.0, 1.0]
    assert study.spec.measured() == ("train_loss",)


@pytest.mark.parametrize(
    ("changes", "values", "words"),
    [
        ({"lr": 0.0}, {}, "lr: must be > 0"),
        ({"lr": "big"}, {}, "lr: must be a finite number"),
        ({"batch_size": 0}, {}, "batch_sizes"),
        ({"seed": -1}, {}, "seeds"),
        ({"optimizer": "a b"}, {}, "an optimizer's name is letters"),
        ({"targets": {"test_acc": [0.9]}}, {}, "test_acc"),
        ({}, {"loss": 1.0}, "unknown 'loss'"),
        ({}, {"test_accuracy": 93.0}, "a fraction from 0 to 1"),
        ({}, {}, "no metric: log at least one of"),
        ({}, {"train_loss": 1.0, "step": -1}, "step: must be the number of steps"),
    ],
)
def test_mistakes_are_told_before_anything_is_kept(tmp_path, changes, values, words):
    with pytest.raises(UserError, match=words):
        recorded(tmp_path / "mine", **changes).log(**{"step": 0, **values})
    assert not list(tmp_path.rglob("*.parquet"))


def test_targets_are_those_of_the_first_run(tmp_path):
    with recorded(tmp_path / "mine", targets={"train_loss": [0.5]}) as run:
        run.log(step=1, train_loss=0.1)
    with pytest.raises(UserError, match="its targets are"):
        recorded(tmp_path / "mine", targets={"train_loss": [0.4]})
    assert sensitivity.open(tmp_path / "mine").spec.targets == {"train_loss": (0.5,)}


def test_runs_are_not_recorded_into_a_study_of_another_kind(tmp_path):
    (tmp_path / "mine").mkdir()
    csv = tmp_path / "mine.csv"
    csv.write_text("optimizer,lr,batch_size,seed,step,train_loss\nsgd,0.1,32,0,1,2.0\n")
    sensitivity.import_runs(csv, "mine", storage=tmp_path)
    with pytest.raises(UserError, match="contains a study that was not recorded"):
        recorded(tmp_path / "mine")


STUDY = """
name = "planned"
batch_sizes = [32, 64]
seeds = 3
observed = { metrics = ["test_accuracy"] }
[optimizers.sgd]
kind = "sgd"
lr = [0.1, 0.3]
[optimizers.mine]
kind = "observed"
design = "random"
samples = 2
sharpness = { log = [0.01, 1.0] }
[targets]
test_accuracy = [0.5]
"""


def test_planned_trials_are_handed_out_once(tmp_path):
    path = tmp_path / "planned.toml"
    path.write_text(STUDY)
    parts = [list(sensitivity.trials(path, storage=tmp_path, part=(k, 2))) for k in range(2)]
    assert sorted(map(len, parts)) == [12, 12]
    assert len({trial.id for part in parts for trial in part}) == 24
    for trial in parts[0]:
        with trial.record() as run:
            for step in range(4):
                run.log(step=step, test_accuracy=step / 4)
    study = sensitivity.open(tmp_path / "planned")
    assert dict(study.runs["status"].value_counts()) == {"completed": 12, "pending": 12}
    left = [trial.id for trial in sensitivity.trials(path, storage=tmp_path)]
    assert sorted(left) == sorted(trial.id for trial in parts[1])
    for trial in sensitivity.trials(path, storage=tmp_path):
        with trial.record() as run:
            run.log(step=1, test_accuracy=0.1)
    study = sensitivity.open(tmp_path / "planned")
    assert set(study.runs["status"]) == {"completed"}
    assert {claim.role for claim in study.results.claims} == {"confirmatory"}
    assert study.results.draws[1].refused is None  # its box was declared, and its seeds drew from it


def test_only_studies_trained_elsewhere_hand_out_trials(tmp_path):
    (tmp_path / "planned.toml").write_text(STUDY)
    for asked in ("required_problem", "required_budget"):
        with pytest.raises(UserError, match="its runs are trained elsewhere"):
            getattr(sensitivity.Study.read(tmp_path / "planned.toml"), asked)
    with pytest.raises(UserError, match=r"`run` trains it\n  For your own training loop, remove \[problem\]"):
        sensitivity.trials("quickstart", storage=tmp_path)
    with pytest.raises(UserError, match=r"remove budget"):
        sensitivity.Study(
            name="both",
            batch_sizes=[32],
            seeds=1,
            observed={},
            budget={"steps": 1},
            optimizers={"sgd": {"kind": "sgd", "lr": 0.1}},
        )
    with pytest.raises(UserError, match=r"have a table \[observed\]"):
        sensitivity.Study(
            name="neither",
            batch_sizes=[32],
            seeds=1,
            budget={"steps": 1},
            optimizers={"sgd": {"kind": "observed", "design": "observed", "lr": 0.1}},
        )


def test_a_log_that_was_cut_off_is_read_to_its_last_whole_line(tmp_path):
    run = recorded(tmp_path / "mine")
    for step in range(3):
        run.log(step=step, train_loss=1.0, test_accuracy=0.5)
    (log,) = (tmp_path / "mine" / "recorded").iterdir()
    log.write_bytes(log.read_bytes()[:-20])
    study = sensitivity.open(tmp_path / "mine")
    assert list(study.curves["step"]) == [0, 1]
    assert list(study.runs["status"]) == ["interrupted"]
    assert study.results.metric.name == "test_accuracy"
