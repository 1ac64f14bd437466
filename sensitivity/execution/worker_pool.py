"""Worker processes that are reused for several packs and runs as long as Ray runs.

A new worker takes seconds to start, because it imports PyTorch and loads the problem. A worker is not reused for a run
with other code of the user, because that code may have changed global state (such as a default of PyTorch).

Tune obtains workers through its interface for resources: a trial acquires a worker, which is an actor that already has
its resources, instead of resources on which an actor is then started.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.air.execution import PlacementGroupResourceManager, ResourceManager, ResourceRequest
from ray.air.execution.resources import AcquiredResources
from ray.tune.execution import tune_controller

from sensitivity.execution.resources import packs_on, request
from sensitivity.execution.session import at_end, is_own
from sensitivity.execution.worker_process import Job, PackWorker
from sensitivity.study.execution import ExecutionSpec
from sensitivity.study.snapshot import Snapshot

_ANSWER_S = 5.0
"""How long an idle worker may take to respond."""
_IDLE_S = 10.0
"""How long a worker may wait for the next pack while it occupies resources of a cluster."""
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")
"""Environment variables that are passed to workers for checkpoints, as Tune does for its own actors."""


@dataclass(eq=False)
class PooledWorker:
    """A worker process, which may still be starting."""

    actor: Any
    """Handle of an actor of `PackWorker`."""
    code: Snapshot | None = None
    """User code that the worker has imported."""
    used: bool = False
    idle_since: float = field(default_factory=time.monotonic)

    def lives(self) -> bool:
        """Whether the worker responds."""
        answer = self.actor.__ray_ready__.remote()
        try:
            ray.get(answer, timeout=_ANSWER_S)
        except ray.exceptions.RayError:  # includes timeouts
            return False
        return True

    def kill(self) -> None:
        """Kill the worker."""
        ray.kill(self.actor)


class WorkerPool:
    """Idle workers for one kind of resource request; starts new ones as needed."""

    def __init__(self, execution: ExecutionSpec) -> None:
        self.fits = _resource_request(execution)
        """Resource request of its workers."""
        cpus, gpus, resources, labels = self.fits
        given = {name: os.environ[name] for name in _CREDENTIALS if name in os.environ}
        options: dict[str, Any] = {"runtime_env": {"env_vars": given}} if given else {}
        self._new_actor: Callable[[], Any] = (
            ray.remote(PackWorker)
            .options(num_cpus=cpus, num_gpus=gpus, resources=resources, label_selector=labels, **options)
            .remote
        )
        self._idle: list[PooledWorker] = []
        self._taken = 0
        nodes = ray.nodes() if is_own() else []  # type: ignore[no-untyped-call]
        self._most = sum(packs_on(node, execution) for node in nodes) if is_own() else math.inf

    @property
    def has_room(self) -> bool:
        """Whether another worker can be taken; on a cluster it may have to wait for free resources."""
        return self._taken < self._most

    def start(self, count: int, code: Snapshot) -> None:
        """Ensure that `count` workers with this user code are idle or starting."""
        self._end_others(code)
        self._idle += [PooledWorker(self._new_actor()) for _ in range(count - len(self._idle))]

    def take(self, code: Snapshot) -> PooledWorker:
        """Return an idle worker, preferably the last one used, which may have loaded the problem; or start one."""
        self._end_others(code)
        while self._idle:
            worker = self._idle.pop(0)
            if not worker.used or worker.lives():  # a worker that fails to start is detected by its user
                break
            worker.kill()
        else:
            worker = PooledWorker(self._new_actor())
        worker.used, worker.code = True, _user_code(code) or worker.code
        self._taken += 1
        return worker

    def give_back(self, worker: PooledWorker) -> None:
        """Return a worker to the pool; it may have been lost."""
        worker.idle_since = time.monotonic()
        self._idle.insert(0, worker)
        self._taken -= 1

    def discard(self, worker: PooledWorker) -> None:
        """Kill a worker that is in use."""
        worker.kill()
        self._taken -= 1

    def rest(self) -> None:
        """Let idle workers release unused memory."""
        for worker in self._idle:
            if worker.used:
                worker.actor.rest.remote()

    def end(self, *, idle_s: float = 0.0) -> None:
        """Kill the workers that have been idle for at least this time."""
        now = time.monotonic()
        self._end([worker for worker in self._idle if now - worker.idle_since >= idle_s])

    def _end_others(self, code: Snapshot) -> None:
        """Kill the workers that have imported different user code."""
        self._end([worker for worker in self._idle if worker.code not in (None, _user_code(code))])

    def _end(self, workers: list[PooledWorker]) -> None:
        for worker in workers:
            worker.kill()
            self._idle.remove(worker)


_pool: WorkerPool | None = None
"""Pool of the Ray session of this process."""


def workers(execution: ExecutionSpec) -> WorkerPool:
    """Return the pool for the resource request of `execution`, replacing a pool for another request."""
    global _pool
    if _pool is None or _pool.fits != _resource_request(execution):
        if _pool is None:
            at_end(_end_workers)
        else:
            _pool.end()
        _pool = WorkerPool(execution)
    return _pool


def _end_workers() -> None:
    global _pool
    if _pool is not None:
        _pool.end()
        _pool = None


class RunWorkers(ResourceManager):
    """Assigns the packs of one run to the workers of a pool, a limited number at a time."""

    def __init__(self, pool: WorkerPool, job: Job, *, limit: int) -> None:
        super().__init__()
        self._pool, self._code, self._job, self._limit = pool, job.origin.snapshot, ray.put(job), limit
        self._busy: list[PooledWorker] = []

    def on_step_end(self) -> None:
        """Kill idle workers on a cluster, where others may need or pay for their resources."""
        if not is_own():
            self._pool.end(idle_s=_IDLE_S)

    @contextlib.contextmanager
    def used_by_tune(self) -> Iterator[None]:
        """Let Tune use pooled workers inside the block; those still training at its end are killed."""
        # `Tuner` does not expose the corresponding argument of its controller.
        controller: Any = tune_controller
        controller.PlacementGroupResourceManager = _resource_manager
        token = _current_run.set(self)
        try:
            yield
        finally:
            _current_run.reset(token)
            for worker in self._busy:
                self._pool.discard(worker)
            self._pool.rest()

    def request_resources(self, resource_request: ResourceRequest) -> None:
        """Do nothing: `acquire_resources` takes a worker on demand."""

    def cancel_resource_request(self, resource_request: ResourceRequest) -> None:
        """Do nothing: requests are not queued."""

    def has_resources_ready(self, resource_request: ResourceRequest) -> bool:
        """Whether another pack can start."""
        return len(self._busy) < self._limit and self._pool.has_room

    def acquire_resources(self, resource_request: ResourceRequest) -> AcquiredWorker:
        """Acquire a worker from the pool."""
        worker = self._pool.take(self._code)
        self._busy.append(worker)
        return AcquiredWorker(resource_request=resource_request, worker=worker, job=self._job)

    def free_resources(self, acquired_resource: AcquiredResources) -> None:
        """Return a worker, which may have been lost."""
        assert isinstance(acquired_resource, AcquiredWorker)
        self._busy.remove(acquired_resource.worker)
        self._pool.give_back(acquired_resource.worker)

    def clear(self) -> None:
        """Do nothing: the caller handles workers that are still in use."""


@dataclass
class AcquiredWorker(AcquiredResources):
    """A pooled worker, which replaces the actor class that Tune would start."""

    worker: PooledWorker
    job: ray.ObjectRef[Job]

    def annotate_remote_entities(self, entities: list[Any]) -> list[Any]:
        """Return the replacement for `entities`, one actor class."""
        return [self]

    def remote(self, config: dict[str, Any], storage: Any) -> Any:
        """Start the pack in a trial's configuration, and return the worker's handle."""
        self.worker.actor.begin.remote(config["parcel"].pack, self.job)
        return self.worker.actor


_current_run: ContextVar[RunWorkers | None] = ContextVar("_current_run", default=None)


def _resource_manager() -> ResourceManager:
    return _current_run.get() or PlacementGroupResourceManager()


def _resource_request(execution: ExecutionSpec) -> tuple[float, float, dict[str, float], dict[str, str]]:
    """Return the resource request of a pack: cores, accelerators, custom resources, node labels."""
    asked = request(execution)
    return asked.pop("CPU"), asked.pop("GPU", 0), asked, dict(execution.labels)


def _user_code(code: Snapshot) -> Snapshot | None:
    """Return a snapshot if it contains user code."""
    return code if code.modules or code.installed else None
