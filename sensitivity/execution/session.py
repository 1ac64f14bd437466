"""Ray, started quietly in this process or joined by address."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from types import TracebackType

import ray

from sensitivity.execution.resources import packs_at_once
from sensitivity.store.directory import first_line
from sensitivity.study.errors import UserError
from sensitivity.study.execution import ExecutionSpec

_OBJECT_STORE_BYTES = 100 * 2**20
_CONNECT_S = 5.0


@contextlib.contextmanager
def session(
    *, address: str | None, workers: int | None, execution: ExecutionSpec, on_loss: Callable[[str], None]
) -> Iterator[int]:
    """Have Ray for a while; yield how many packs may run at once.

    Without an address Ray starts in this process, on `workers` x `threads` cores, and is shut down at the end; a Ray
    that the caller has started already is used, and left running.

    Args:
        address: of a running cluster.
        workers: packs at a time.
        execution: what a pack takes.
        on_loss: called in another thread, with what was lost, when Ray's daemon on this machine (its raylet) is no
            more. Whoever goes on working with Ray then is ended by it within seconds, without a chance to say why.

    Raises:
        UserError: nothing answers at `address`, or the cluster is too small.
    """
    if ray.is_initialized():
        yield _fitting_packs(workers, execution)
        return
    # Ray prints the log of what dies to the standard output, where `--json` has its answer; no setting stops that.
    ray._private.worker.print_to_stdstream = lambda data, ignore_prefix: None
    watch = _Watch(_begin(address, cores=(workers or 1) * execution.threads), on_loss)
    try:
        with watch:
            yield _fitting_packs(workers, execution)
    finally:
        ray.shutdown()


class _Watch:
    """A connection to the raylet on this machine: it ends when that does, however it ends."""

    def __init__(self, raylet: str | None, on_loss: Callable[[str], None]) -> None:
        """Watch the raylet of a socket; None where this machine needs none (an address ``ray://``)."""
        self._left = False
        self._raylet, self._on_loss = raylet, on_loss
        self._connection = socket.socket(socket.AF_UNIX)
        self._thread = threading.Thread(target=self._wait, name="raylet-watch", daemon=True)

    def __enter__(self) -> _Watch:
        if self._raylet is not None:
            self._connection.connect(self._raylet)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left = True
        with contextlib.suppress(OSError):  # not connected any more
            self._connection.shutdown(socket.SHUT_RDWR)
        if self._raylet is not None:
            self._thread.join()
        self._connection.close()

    def _wait(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.recv(1)  # it never says anything
        if not self._left:
            self._on_loss("Ray's daemon on this machine (its raylet) was killed or has crashed")


def _begin(address: str | None, *, cores: int) -> str | None:
    """Start Ray or join it; return the path of the socket of this machine's raylet, if it has one."""
    try:
        if address is not None and ":" in address:
            # Ray itself would try again for minutes.
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
        if address is None:
            context = ray.init(
                address="local",  # or a cluster that runs on this machine would be joined
                num_cpus=cores,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        else:
            context = ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        cause = first_line(error)
        if address is None:
            raise UserError(f"Ray does not start here ({cause})\n  `ray stop --force` ends old ones") from None
        raise UserError(
            f"no Ray cluster answers at {address!r} ({cause})\n"
            "  Start one with `ray start --head`, check the address, or leave --address out to use this machine"
        ) from None
    socket_name: str | None = getattr(context, "address_info", {}).get("raylet_socket_name")
    return socket_name


def _fitting_packs(workers: int | None, execution: ExecutionSpec) -> int:
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return packs_at_once(nodes, execution, workers=workers)
