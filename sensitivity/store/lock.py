"""One writer a study directory: a lock file that names its holder and is kept fresh by a heartbeat."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from sensitivity.store.directory import Place
from sensitivity.study.errors import StorageError

LOCK = "writer.lock"
HEARTBEAT_S = 5.0
STALE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class _Holder:
    token: str
    host: str
    pid: int
    renewed_at: float

    @property
    def alive(self) -> bool:
        if self.host == socket.gethostname() and self.pid > 0:
            try:
                os.kill(self.pid, 0)
            except (ProcessLookupError, OverflowError):
                return False
            except PermissionError:
                pass
        return time.time() - self.renewed_at < STALE_S


class WriterLock:
    """Held for as long as a study is written; a context manager.

    A lock is stale when its holder is a dead process of this machine, or has not renewed it for `STALE_S`
    seconds; a stale lock is taken over. A lock file that can't be understood is judged by its age alone.
    """

    def __init__(self, directory: Place) -> None:
        self._directory = directory
        self._token = uuid.uuid4().hex
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="writer-lock", daemon=True)

    def __enter__(self) -> WriterLock:
        holder = self._holder()
        if holder is not None and holder.alive:
            raise StorageError(
                f"{self._directory.uri}: being written by process {holder.pid or '?'} on {holder.host or '?'}\n"
                "  Wait for it, or stop it (Ctrl-C there), then run again. A lock left by a crash there is void "
                f"after {STALE_S:.0f} s"
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
        if self._is_mine():
            self._directory.delete(LOCK)

    def _take(self) -> None:
        if self._directory.is_local:  # atomic: of two that try at once, one fails
            folder = Path(self._directory.path)
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise self._unwritable(error) from None
            try:
                with (folder / LOCK).open("xb") as stream:
                    stream.write(self._fresh())
            except FileExistsError:
                raise self._outrun() from None
            except OSError as error:
                raise self._unwritable(error) from None
        else:
            self._directory.write(LOCK, self._fresh())
        if not self._is_mine():  # an object store keeps the last of two that wrote
            raise self._outrun()

    def _outrun(self) -> StorageError:
        return StorageError(f"{self._directory.uri}: another writer was quicker; wait for it")

    def _unwritable(self, error: OSError) -> StorageError:
        return StorageError(
            f"{self._directory.uri}: can't be written ({error.strerror})\n"
            "  Give a place that you may write to, with space left: --storage URI"
        )

    def _fresh(self) -> bytes:
        holder = _Holder(token=self._token, host=socket.gethostname(), pid=os.getpid(), renewed_at=time.time())
        return json.dumps(asdict(holder)).encode()

    def _is_mine(self) -> bool:
        holder = self._holder()
        return holder is not None and holder.token == self._token

    def _holder(self) -> _Holder | None:
        if not self._directory.exists(LOCK):
            return None
        try:
            content = json.loads(self._directory.read(LOCK))
            return _Holder(
                token=str(content["token"]),
                host=str(content["host"]),
                pid=int(content["pid"]),
                renewed_at=float(content["renewed_at"]),
            )
        except StorageError:
            if self._directory.exists(LOCK):
                raise
            return None  # released a moment ago
        except (ValueError, KeyError, TypeError):
            return _Holder(token="", host="", pid=0, renewed_at=self._directory.modified_at(LOCK))

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                if self._is_mine():
                    self._directory.write(LOCK, self._fresh())
            except StorageError:
                continue  # the writer itself will meet the fault, and say so
