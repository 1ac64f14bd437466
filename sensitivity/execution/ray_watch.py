"""Detects the end of an essential process of Ray immediately, through its sockets (without importing Ray)."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

RAYLET_LOST = "Ray's daemon on this machine (its raylet) was killed or has crashed"
GCS_LOST = "Ray's control store (its gcs_server) was killed or has crashed"
_RETRY_S = 0.5


class RayWatch:
    """Connections to this machine's raylet and to the control store, which close when their process ends."""

    def __init__(self, addresses: Mapping[str, Any], on_loss: Callable[[str], None], *, patience_s: float) -> None:
        """Watch Ray at `addresses`; does nothing if this machine has no raylet (an address ``ray://``).

        Args:
            addresses: addresses returned by ``ray.init``.
            on_loss: called in another thread with a description of the lost process.
            patience_s: how long the control store may be unreachable.
        """
        self.lost = False
        self._raylet: str | None = addresses.get("raylet_socket_name")
        self._gcs: str | None = addresses.get("gcs_address")
        self._on_loss, self._patience_s = on_loss, patience_s
        self._left, self._leave = socket.socketpair()
        self._thread = threading.Thread(target=self._wait, name="ray-watch", daemon=True)

    def __enter__(self) -> RayWatch:
        if self._raylet is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave.close()
        if self._raylet is not None:
            self._thread.join()
        self._left.close()

    def _wait(self) -> None:
        what = self._first_end()
        if what:
            self.lost = True
            self._on_loss(what)

    def _first_end(self) -> str:
        """Return the name of the process that ended; empty if the block was left first."""
        with socket.socket(socket.AF_UNIX) as raylet:
            try:
                raylet.connect(str(self._raylet))
            except OSError:
                return RAYLET_LOST
            while True:
                with contextlib.ExitStack() as stack:
                    gcs = self._connection()
                    if gcs is not None:
                        stack.enter_context(gcs)
                    elif self._gcs is not None:
                        return "" if _ended(self._left, wait=False) else GCS_LOST
                    over = _ended(self._left, raylet, *([gcs] if gcs else []))
                if over is not gcs:
                    return RAYLET_LOST if over is raylet else ""
                # The control store closes idle connections; it has ended only if it accepts no new one.

    def _connection(self) -> socket.socket | None:
        """Connect to the control store; None if it is unreachable or the block was left."""
        if self._gcs is None:
            return None
        host, _, port = self._gcs.rpartition(":")
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return socket.create_connection((host.strip("[]"), int(port)), timeout=_RETRY_S)
            except OSError:
                if time.monotonic() >= deadline or _ended(self._left, wait=_RETRY_S) is not None:
                    return None


def _ended(*connections: socket.socket, wait: float | bool = True) -> socket.socket | None:
    """Return the first connection that closes within `wait` seconds, ignoring what they send; None if none does."""
    while True:
        ready, _, _ = select.select(connections, [], [], None if wait is True else float(wait))
        if not ready:
            return None
        for connection in ready:
            try:
                if not connection.recv(4096):
                    return connection
            except OSError:
                return connection
