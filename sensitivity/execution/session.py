"""Ray, started quietly in this process or joined by address."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator

import ray

from sensitivity.execution.resources import packs_at_once
from sensitivity.store.directory import first_line
from sensitivity.study.errors import UserError
from sensitivity.study.spec import ExecutionSpec

_OBJECT_STORE_BYTES = 100 * 2**20
_CONNECT_S = 5.0


@contextlib.contextmanager
def session(*, address: str | None, workers: int | None, execution: ExecutionSpec) -> Iterator[int]:
    """Have Ray for a while; yield how many packs may run at once.

    Without an address Ray starts in this process, on `workers` x `threads` cores, and is shut down at the end; a Ray
    that the caller has started already is used, and left running.

    Raises:
        UserError: nothing answers at `address`, or the cluster is too small.
    """
    if ray.is_initialized():
        yield _fitting_packs(workers, execution)
        return
    _begin(address, cores=(workers or 1) * execution.threads)
    try:
        yield _fitting_packs(workers, execution)
    finally:
        ray.shutdown()


def _begin(address: str | None, *, cores: int) -> None:
    try:
        if address is not None and ":" in address:
            # Ray itself would try again for minutes.
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
        if address is None:
            ray.init(
                address="local",  # or a cluster that runs on this machine would be joined
                num_cpus=cores,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        cause = first_line(error)
        if address is None:
            raise UserError(f"Ray does not start here ({cause})\n  `ray stop --force` ends old ones") from None
        raise UserError(
            f"no Ray cluster answers at {address!r} ({cause})\n"
            "  Start one with `ray start --head`, check the address, or leave --address out to use this machine"
        ) from None


def _fitting_packs(workers: int | None, execution: ExecutionSpec) -> int:
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return packs_at_once(nodes, execution, workers=workers)
