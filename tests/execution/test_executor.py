"""One Ray for several runs, with stand-ins for Ray: when it is started, used again, started anew, and ended."""

import contextlib
import os
import sys
import threading
from types import SimpleNamespace

import pytest

from sensitivity.execution.executor import Executor
from sensitivity.study.execution import ExecutionSpec

ONE_THREAD = ExecutionSpec()


class StandIn:
    """What `session.session` does, without Ray: the outermost one starts it, those inside use it."""

    def __init__(self):
        self.running, self.started, self.ended, self.joined = False, 0, 0, []
        self.on_loss = None
        self.environment = None

    @contextlib.contextmanager
    def session(self, *, address, workers, execution, on_loss):
        if address is not None:
            assert not self.running
            self.joined.append(address)
            yield 1
            return
        if self.running:
            yield workers or 1
            return
        self.running, self.on_loss, self.started = True, on_loss, self.started + 1
        self.environment = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
        try:
            yield workers or 1
        finally:
            self.running, self.ended = False, self.ended + 1


@pytest.fixture
def ray(monkeypatch):
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "sensitivity.execution.session", SimpleNamespace(session=stand_in.session))
    tasks = SimpleNamespace(start_workers=lambda count, execution: None)
    monkeypatch.setitem(sys.modules, "sensitivity.execution.worker_tasks", tasks)
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    return stand_in


@pytest.fixture
def executor(ray):
    found = Executor()
    yield found
    found.close()


def use(executor, workers=1, address=None, on_loss=lambda cause: None, inside=lambda: None):
    with executor.session(address=address, workers=workers, execution=ONE_THREAD, on_loss=on_loss) as (_, scratch):
        assert scratch.is_dir()
        inside()
    assert not scratch.exists()


def test_ray_starts_once_and_ends_when_it_is_told(ray, executor):
    for _ in range(3):
        use(executor)
        assert ray.running
    assert ray.started == 1
    executor.close()
    assert (ray.running, ray.ended) == (False, 1)
    executor.close()
    use(executor)
    assert ray.started == 2


def test_it_starts_anew_for_more_cores_another_folder_and_another_environment(ray, executor, monkeypatch, tmp_path):
    use(executor, workers=2)
    use(executor, workers=1)
    assert ray.started == 1
    use(executor, workers=3)
    assert ray.started == ray.ended + 1 == 2
    monkeypatch.setenv("SENSITIVITY_DATA", str(tmp_path))
    use(executor, workers=3)
    assert ray.started == 3
    monkeypatch.chdir(tmp_path)
    use(executor, workers=3)
    use(executor, workers=3)
    assert ray.started == 4


def test_what_ray_reads_is_in_the_environment_for_ray_alone_and_stays_the_same(ray, executor):
    before, seen = dict(os.environ), []
    for _ in range(2):
        use(executor, inside=lambda: seen.append({name: os.environ[name] for name in ray.environment}))
        assert dict(os.environ) == before
        executor.close()
    assert ray.started == 2
    assert seen[0] == seen[1] == ray.environment
    assert ray.environment["RAY_AUTH_MODE"] == "token", "a second token would not be read by the same process"


def test_a_cluster_is_joined_for_one_run_without_the_ray_of_this_machine(ray, executor):
    use(executor)
    use(executor, address="10.0.0.1:6379")
    assert ray.joined == ["10.0.0.1:6379"]
    assert not ray.running


def test_a_loss_ends_the_run_and_the_next_one_starts_ray_anew(ray, executor):
    told = []
    use(executor, on_loss=told.append, inside=lambda: ray.on_loss("its raylet was killed"))
    assert told == ["its raylet was killed"]
    assert not ray.running
    use(executor)
    assert ray.started == 2


def test_a_loss_between_runs_ends_what_is_left_of_ray(ray, executor):
    use(executor)
    ray.on_loss("its raylet was killed")  # from the watching thread, which must not wait for itself
    for thread in threading.enumerate():
        if thread.name == "executor-close":
            thread.join()
    assert not ray.running
