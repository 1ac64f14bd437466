"""Worker processes across runs: the same ones train again, and never with what another study's code has left there."""

import contextlib
import itertools
import logging
import math
import os
import signal
from types import SimpleNamespace

import pytest
import ray

from sensitivity.execution.launch import launch
from sensitivity.execution.prepare import prepare
from sensitivity.execution.study_run import Machines
from sensitivity.store.directory import place
from sensitivity.store.reader import read_study
from sensitivity.study.execution import ExecutionSpec
from sensitivity.study.snapshot import Module, Snapshot

STUDY = """
name = "{name}"
batch_sizes = [256]
seeds = 2
[problem]
model = "{model}"
[budget]
steps = 4
[evaluation]
every_steps = 4
[execution]
pack_size = 1
[optimizers.sgd]
kind = "sgd"
lr = [0.01, 0.02]
"""
MODULE = """
import os
from pathlib import Path
from torch import nn

with Path(__file__).with_name("imported").open("a") as file:
    file.write(f"{{os.getpid()}} ")

def net(shape, outputs):
    made = nn.Linear(64, outputs)
    nn.init.zeros_(made.weight)
    nn.init.zeros_(made.bias)
    nn.init.constant_(made.bias[:1], {bias})
    return nn.Sequential(nn.Flatten(), made)
"""


@pytest.fixture
def train(kept_workers, tmp_path, monkeypatch):
    """Run a study of 4 packs; return the ids of the processes that trained them, and its runs."""
    from sensitivity.execution.runner import _Recorder

    pids, real = set(), _Recorder.on_trial_result

    def on_trial_result(self, *arguments, result, **options):
        if "result" in result:
            pids.add(result["pid"])
        real(self, *arguments, result=result, **options)

    monkeypatch.setattr(_Recorder, "on_trial_result", on_trial_result)

    def trained(name, model="perceptron"):
        pids.clear()
        path = tmp_path / f"{name}.toml"
        path.write_text(STUDY.format(name=name, model=model))
        plan, directory = prepare(str(path)), place(str(tmp_path / "studies" / name))
        outcome = launch(plan, directory, Machines(workers=1), show=lambda _: contextlib.nullcontext(lambda: None))
        assert outcome.statuses == {"completed": 4}
        return pids.copy(), read_study(directory).runs

    return trained


def test_workers_are_reused_until_the_users_code_changes(train, tmp_path):
    (first,), runs = train("first")
    assert first != os.getpid()
    (pid,), again = train("second")
    assert pid == first
    assert runs["test_loss"].equals(again["test_loss"]), "nothing of the first run is left"

    module = tmp_path / "pool_own.py"
    module.write_text(MODULE.format(bias=0.0))
    for name in ("third", "fourth"):
        (pid,), runs = train(name, "pool_own:net")
        assert pid == first
        assert runs["initial_train_loss"].tolist() == pytest.approx([math.log(10)] * 4)
    assert (tmp_path / "imported").read_text().split().count(str(first)) == 1, "and its problem was loaded once"

    module.write_text(MODULE.format(bias=20.0))
    (changed,), runs = train("fifth", "pool_own:net")
    assert changed != first, "what the code before has changed in its process can't matter"
    assert runs["initial_train_loss"].min() > 15.0, "nine of ten digits are not the one that the bias says"


def test_a_worker_that_dies_between_two_runs_is_replaced_without_a_word(train, caplog):
    (pid,), _ = train("before")
    os.kill(pid, signal.SIGKILL)
    with caplog.at_level(logging.WARNING):
        (other,), _ = train("after")
    assert other != pid
    assert not caplog.records


def snapshot(source=None):
    modules = () if source is None else (Module(name="m", path="/m.py", source=source, locations=None),)
    return Snapshot(roots=("/",), modules=modules)


@pytest.fixture
def pool(kept_workers, monkeypatch):
    """A pool of stand-ins with numbers, and the numbers of those that were killed."""
    from sensitivity.execution import worker_pool

    numbers, killed = itertools.count(), []
    pool = worker_pool.WorkerPool(ExecutionSpec())
    pool._new_actor = lambda: SimpleNamespace(number=next(numbers))
    monkeypatch.setattr(worker_pool.PooledWorker, "lives", lambda self: True)
    monkeypatch.setattr(worker_pool.PooledWorker, "kill", lambda self: killed.append(self.actor.number))
    return pool, killed


def test_which_workers_are_taken_started_and_ended(pool):
    pool, killed = pool
    clean, one, other = snapshot(), snapshot(b"1"), snapshot(b"2")
    pool.start(2, clean)
    worker = pool.take(clean)
    assert worker.actor.number == 0
    assert pool.has_room
    pool.discard(pool.take(clean))
    assert killed.pop() == 1
    second = pool.take(clean)
    assert not pool.has_room, "this Ray has two cores, and another run in this process may have taken them"
    pool.discard(second)
    assert killed.pop() == 2
    pool.give_back(worker)
    assert pool.take(one) is worker, "the last one used comes first, and the code of the package leaves no traces"
    pool.give_back(worker)
    pool.start(2, one)
    assert [pool.take(one).actor.number for _ in range(3)] == [0, 3, 4]
    pool.give_back(worker)
    assert pool.take(clean).actor.number == 5
    assert killed == [0]
    pool.start(1, other)
    assert pool.take(other).actor.number == 6
    pool.start(2, other)
    pool.end(idle_s=3600.0)
    assert killed == [0]
    pool.end()
    assert killed == [0, 7, 8]


def test_workers_end_with_the_run_where_ray_is_the_callers(train, monkeypatch):
    from sensitivity.execution import session, worker_pool

    train("kept")
    kept = worker_pool._pool
    assert kept is worker_pool.workers(ExecutionSpec())
    assert kept is not worker_pool.workers(ExecutionSpec(threads=2)), "which needs other shares of the machine"
    monkeypatch.setattr(session, "_own", False)
    train("let-go")
    assert worker_pool._pool is None
    free = ray.remote(num_cpus=2)(lambda: True)
    assert ray.get(free.remote(), timeout=60), "no worker holds a core any more"
