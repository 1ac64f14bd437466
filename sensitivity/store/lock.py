"""One writer a study directory: a lock file that names its holder and is kept fresh by a heartbeat."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType

from sensitivity.store.directory import Place
from sensitivity.study.errors import StorageError

LOCK = "writer.lock"
HEARTBEAT_S = 5.0
STALE_S = 60.0


class WriterLock:
    """Held for as long as a study is written; a context manager.

    A lock is stale when its holder is a dead process of this machine, or has not renewed it for `STALE_S`
    seconds; a stale lock is taken over.
    """

    def __init__(self, directory: Place) -> None:
        self._directory = directory
        self._content = {"host": socket.gethostname(), "pid": os.getpid(), "token": uuid.uuid4().hex}
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="writer-lock", daemon=True)

    def __enter__(self) -> WriterLock:
        holder = self._holder()
        if holder is not None and self._alive(holder):
            raise StorageError(
                f"{self._directory.uri}: being written by process {holder['pid']} on {holder['host']}\n"
                "  Wait for it, or stop it (Ctrl-C there), then run again"
            )
        if holder is not None:
            self._directory.delete(LOCK)
        self._take()
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._heart.join()
        self._directory.delete(LOCK)

    def _take(self) -> None:
        if self._directory.is_local:  # atomic: of two that try at once, one fails
            path = Path(self._directory.path) / LOCK
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as stream:
                    stream.write(self._fresh())
            except FileExistsError:
                raise StorageError(f"{self._directory.uri}: another writer was quicker; wait for it") from None
            except OSError as error:
                raise StorageError(
                    f"{self._directory.uri}: can't be written ({error.strerror})\n"
                    "  Give a place that you may write to, with space left: --storage URI"
                ) from None
            return
        self._directory.write(LOCK, self._fresh())
        holder = self._holder()  # an object store keeps the last of two that wrote
        if holder is None or holder["token"] != self._content["token"]:
            raise StorageError(f"{self._directory.uri}: another writer was quicker; wait for it")

    def _fresh(self) -> bytes:
        return json.dumps({**self._content, "renewed_at": time.time()}).encode()

    def _holder(self) -> dict[str, str | int | float] | None:
        if not self._directory.exists(LOCK):
            return None
        try:
            content = json.loads(self._directory.read(LOCK))
        except json.JSONDecodeError:
            return None
        return content if isinstance(content, dict) and "pid" in content else None

    @staticmethod
    def _alive(holder: dict[str, str | int | float]) -> bool:
        if holder["host"] == socket.gethostname():
            try:
                os.kill(int(holder["pid"]), 0)
            except ProcessLookupError:
                return False
            except PermissionError:
                pass
        return time.time() - float(holder["renewed_at"]) < STALE_S

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                self._directory.write(LOCK, self._fresh())
            except StorageError:
                continue  # the writer itself will meet the fault, and say so
