"""Worker processes, kept from pack to pack and from run to run for as long as Ray runs.

A new one takes seconds: it imports PyTorch and loads the problem. It has to be new where an earlier run trained other
code of the user's, as what that code has changed in its process (a default of PyTorch, say) would reach into this run.

Tune takes workers from here through its interface for resources: what a trial acquires is not a share of a machine on
which its actor is then started, but a worker, which is an actor that has its share already.
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
"""How long a worker that waits for work may take to say that it lives."""
_IDLE_S = 10.0
"""How long a worker may wait for the next pack where it holds a share of a cluster."""
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")
"""Environment variables that workers elsewhere get from here, as Tune's own actors do: for checkpoints."""


@dataclass(eq=False)
class PooledWorker:
    """A worker process, which may still be starting."""

    actor: Any
    """Handle of an actor of `PackWorker`."""
    code: Snapshot | None = None
    """The user's own code that it has imported."""
    used: bool = False
    idle_since: float = field(default_factory=time.monotonic)

    def lives(self) -> bool:
        """Whether the worker responds."""
        answer = self.actor.__ray_ready__.remote()
        try:
            ray.get(answer, timeout=_ANSWER_S)
        except ray.exceptions.RayError:  # a timeout is one, too
            return False
        return True

    def kill(self) -> None:
        """Kill the worker."""
        ray.kill(self.actor)


class WorkerPool:
    """Idle workers for one kind of resource request; starts new ones as needed."""

    def __init__(self, execution: ExecutionSpec) -> None:
        self.fits = _share(execution)
        """What its workers take."""
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
        """Take an idle worker, preferably the last one used, which may have the problem loaded."""
        self._end_others(code)
        while self._idle:
            worker = self._idle.pop(0)
            if not worker.used or worker.lives():  # one that does not even start is found out by who takes it
                break
            worker.kill()
        else:
            worker = PooledWorker(self._new_actor())
        worker.used, worker.code = True, _own(code) or worker.code
        self._taken += 1
        return worker

    def give_back(self, worker: PooledWorker) -> None:
        """Return a worker to the pool, even if it was lost."""
        worker.idle_since = time.monotonic()
        self._idle.insert(0, worker)
        self._taken -= 1

    def discard(self, worker: PooledWorker) -> None:
        """Kill a worker that was taken."""
        worker.kill()
        self._taken -= 1

    def rest(self) -> None:
        """Let idle workers release unused memory."""
        for worker in self._idle:
            if worker.used:
                worker.actor.rest.remote()

    def end(self, *, idle_s: float = 0.0) -> None:
        """End the workers that have been idle for at least this long."""
        now = time.monotonic()
        self._end([worker for worker in self._idle if now - worker.idle_since >= idle_s])

    def _end_others(self, code: Snapshot) -> None:
        """End the workers that have imported different user code."""
        self._end([worker for worker in self._idle if worker.code not in (None, _own(code))])

    def _end(self, workers: list[PooledWorker]) -> None:
        for worker in workers:
            worker.kill()
            self._idle.remove(worker)


_pool: WorkerPool | None = None
"""Of this process's Ray."""


def workers(execution: ExecutionSpec) -> WorkerPool:
    """Return the pool for the resource request of `execution`, replacing a pool for another request."""
    global _pool
    if _pool is None or _pool.fits != _share(execution):
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
        """On a cluster, end idle workers, whose resources others may need or pay for."""
        if not is_own():
            self._pool.end(idle_s=_IDLE_S)

    @contextlib.contextmanager
    def given_to_tune(self) -> Iterator[None]:
        """Let Tune use pooled workers inside the block; those still training at its end are killed."""
        # The argument of its controller for this is out of reach of `Tuner`.
        controller: Any = tune_controller
        controller.PlacementGroupResourceManager = _resource_manager
        token = _of_run.set(self)
        try:
            yield
        finally:
            _of_run.reset(token)
            for worker in self._busy:
                self._pool.discard(worker)
            self._pool.rest()

    def request_resources(self, resource_request: ResourceRequest) -> None:
        """Do nothing: `acquire_resources` takes a worker on demand."""

    def cancel_resource_request(self, resource_request: ResourceRequest) -> None:
        """Do nothing, for the same reason."""

    def has_resources_ready(self, resource_request: ResourceRequest) -> bool:
        """Whether another pack can start."""
        return len(self._busy) < self._limit and self._pool.has_room

    def acquire_resources(self, resource_request: ResourceRequest) -> AcquiredWorker:
        """Take a worker."""
        worker = self._pool.take(self._code)
        self._busy.append(worker)
        return AcquiredWorker(resource_request=resource_request, worker=worker, job=self._job)

    def free_resources(self, acquired_resource: AcquiredResources) -> None:
        """Return a worker, which may have been lost."""
        assert isinstance(acquired_resource, AcquiredWorker)
        self._busy.remove(acquired_resource.worker)
        self._pool.give_back(acquired_resource.worker)

    def clear(self) -> None:
        """Do nothing: workers still in use belong to the caller."""


@dataclass
class AcquiredWorker(AcquiredResources):
    """A pooled worker in the place of an actor class that Tune would start."""

    worker: PooledWorker
    job: ray.ObjectRef[Job]

    def annotate_remote_entities(self, entities: list[Any]) -> list[Any]:
        """Return the replacement for `entities`, one actor class."""
        return [self]

    def remote(self, config: dict[str, Any], storage: Any) -> Any:
        """Start the pack in a trial's configuration, and return the worker's handle."""
        self.worker.actor.begin.remote(config["parcel"].pack, self.job)
        return self.worker.actor


_of_run: ContextVar[RunWorkers | None] = ContextVar("_of_run", default=None)


def _resource_manager() -> ResourceManager:
    return _of_run.get() or PlacementGroupResourceManager()


def _share(execution: ExecutionSpec) -> tuple[float, float, dict[str, float], dict[str, str]]:
    """Return a pack's resource request to Ray: cores, accelerators, custom resources, node labels."""
    asked = request(execution)
    return asked.pop("CPU"), asked.pop("GPU", 0), asked, dict(execution.labels)


def _own(code: Snapshot) -> Snapshot | None:
    """Return a snapshot if it contains user code."""
    return code if code.modules or code.installed else None
