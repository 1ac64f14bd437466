"""Starts Ray without output in this process, or joins a cluster by address."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.job_config import JobConfig

from sensitivity.execution.prepare import available_workers
from sensitivity.execution.ray_processes import RayProcesses, keep_quiet
from sensitivity.execution.ray_watch import RayWatch
from sensitivity.execution.resources import local_cores, packs_at_once
from sensitivity.store.directory import first_line
from sensitivity.study.errors import UserError
from sensitivity.study.execution import ExecutionSpec
from sensitivity.study.redaction import redacted_address

logger = logging.getLogger(__name__)

_OBJECT_STORE_BYTES = 100 * 2**20
_CONNECT_S = 5.0
_STARTS = 2
"""Number of attempts to start a local Ray: on a busy machine, its daemons may fail to connect at first."""
_RESTART_S = 40.0
"""How long a cluster's control store may be unreachable; after 60 s, Ray ends every process that uses it."""


_at_end = contextlib.ExitStack()
_own = False


def is_own() -> bool:
    """Whether this process started Ray, so that nobody else waits for its resources."""
    return _own


def at_end(action: Callable[[], None]) -> None:
    """Register a function that is called at the end of the session that started Ray, or otherwise of this session."""
    _at_end.callback(action)


@contextlib.contextmanager
def session(
    *, address: str | None, workers: int | None, execution: ExecutionSpec, on_loss: Callable[[str], None]
) -> Iterator[int]:
    """Provide Ray inside the block; yield the number of packs that may run at once.

    Without an address, Ray is started in this process, on `workers` x `threads` cores, and shut down at the end. If the
    caller has already started Ray, that session is used and left running.

    Args:
        address: address of a running cluster.
        workers: number of packs at a time.
        execution: resources of a pack.
        on_loss: called in another thread, with a description, when Ray's daemon on this machine (its raylet) or the
            control store (its gcs_server) has ended. Ray then ends every process that still uses it, within seconds or
            a minute and without a message.

    Raises:
        UserError: nothing answers at `address`, Ray does not start here, or there are too few cores.
    """
    global _own
    if ray.is_initialized():
        try:
            yield _fitting_packs(workers, execution)
        finally:
            if not _own:
                _at_end.close()
        return
    cores = None if address is not None else local_cores(workers or 1, execution, available=available_workers(1))
    keep_quiet()
    processes, watch = RayProcesses(), None
    try:
        context = _join(str(address)) if cores is None else _start(cores, processes)
        watch = RayWatch(
            getattr(context, "address_info", {}), on_loss, patience_s=0.0 if address is None else _RESTART_S
        )
        _own = address is None
        with watch:
            yield _fitting_packs(workers, execution)
    finally:
        _own = False
        _at_end.close()
        # If a process of Ray was lost, its own shutdown would wait for it.
        if cores is None or watch is None or not watch.lost:
            ray.shutdown()
        processes.kill()
        ray.shutdown()


def _start(cores: int, processes: RayProcesses) -> Any:
    """Start Ray on this machine, with `_STARTS` attempts."""
    for start in range(1, _STARTS + 1):
        try:
            with processes.starting():
                return ray.init(
                    address="local",  # otherwise Ray would join a cluster that runs on this machine
                    num_cpus=cores,
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    job_config=_OwnPath(),
                )
        except Exception as error:  # Ray raises plain exceptions too
            ray.shutdown()
            left, cause = processes.kill(), first_line(error)
            if start < _STARTS:
                logger.warning("Ray did not start (%s); starting it again", cause)
                continue
            kill = f"  Some of its processes did not end: kill -9 {' '.join(map(str, left))}\n" if left else ""
            raise UserError(
                f"Ray does not start here, tried {_STARTS} times ({cause})\n{kill}"
                "  A busy machine may be the reason: run again when it has less to do, or with fewer --workers"
            ) from None
    raise AssertionError


def _join(address: str) -> Any:
    """Connect to a running cluster."""
    try:
        if ":" in address:
            # Ray itself would retry for minutes.
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
        # A ray:// server creates the job itself, and its workers have no folder of this machine on their path.
        job: dict[str, Any] = {} if address.startswith("ray://") else {"job_config": _OwnPath()}
        return ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **job)
    except Exception as error:  # Ray raises plain exceptions too
        shown = redacted_address(address)
        cause = first_line(error).replace(address, shown).replace(address.rpartition(":")[0], shown.rpartition(":")[0])
        raise UserError(
            f"no Ray cluster answers at {shown!r} ({cause})\n"
            "  Start one with `ray start --head`, check the address, or omit --address to use this machine"
        ) from None


class _OwnPath(JobConfig):
    """Ray job settings whose workers import installed packages only.

    By default, Ray puts this process's current folder first on the path of its workers, where a file ``pandas.py``
    would shadow the package.
    """

    def _serialize(self) -> Any:
        self._py_driver_sys_path.clear()
        return super()._serialize()


def _fitting_packs(workers: int | None, execution: ExecutionSpec) -> int:
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return packs_at_once(nodes, execution, workers=workers)
