"""One writer a study directory: a lock file that names its holder and is kept fresh by a heartbeat."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import filelock

from sensitivity.store.directory import Place
from sensitivity.store.manifest import MANIFEST
from sensitivity.study.errors import StorageError

LOCK = "writer.lock"
HEARTBEAT_S = 5.0
STALE_S = 60.0
SETTLE_S = 1.0
"""On an object store, longer than another writer takes from its look at the lock to its own write."""
JOB_VARIABLE = "SENSITIVITY_JOB"
"""Names the cluster's job that this process is, if it is one."""
_GUARD = f".{LOCK}.guard"
_GUARD_S = 30.0


@dataclass(frozen=True, kw_only=True)
class _Holder:
    token: str
    host: str
    pid: int
    renewed_at: float
    job: str = ""

    @property
    def died_here(self) -> bool:
        """Whether it was a process of this machine that is no more."""
        if self.host != socket.gethostname() or self.pid <= 0:
            return False
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:
            pass
        return False


class WriterLock:
    """Held for as long as a study is written; a context manager.

    A lock is stale when its holder is a dead process of this machine, or has not renewed it for `STALE_S` seconds by
    the storage's own clock; a stale lock is taken over. On a file system whoever looks at the lock and changes it
    holds a guard meanwhile, so that of any number that find it stale one takes it over. Object stores have no
    such guard: there the last of those who write it has it, and the others see so when they read it again. Whoever
    was suspended and has lost its lock finds out before it writes anything: see `require`.
    """

    def __init__(self, directory: Place) -> None:
        self._directory = directory
        self._token = uuid.uuid4().hex
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="writer-lock", daemon=True)

    def __enter__(self) -> WriterLock:
        with self._guarded():
            holder = self._holder()
            if holder is not None and not holder.died_here and self._age(holder) < STALE_S:
                raise StorageError(
                    f"{self._directory.uri}: being written by {_who(holder)}\n"
                    "  Wait for it, or stop it (Ctrl-C there), then run again. A lock left by a crash there is void "
                    f"after {STALE_S:.0f} s"
                )
            self._directory.write(LOCK, self._fresh())
        if not self._directory.is_local:
            time.sleep(SETTLE_S)
            if not self._is_mine():
                raise StorageError(f"{self._directory.uri}: another writer was quicker; wait for it")
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._heart.join()
        with contextlib.suppress(StorageError), self._guarded():  # a place out of reach: the lock will be stale there
            if self._is_mine():
                self._directory.delete(LOCK)

    def require(self) -> None:
        """Make sure, before something is written, that the lock is still held.

        Raises:
            StorageError: it is not, or (passing) the place is out of reach.
        """
        holder = self._holder()
        if holder is not None and holder.token == self._token:
            return
        if holder is None and not self._directory.exists(MANIFEST):
            raise StorageError(f"{self._directory.uri}: the study is gone from here (no {MANIFEST})", passing=True)
        now = "nobody" if holder is None else _who(holder)
        raise StorageError(
            f"{self._directory.uri}: this writer's lock was lost, as after a suspension; it is held by {now}\n"
            "  What was reported is kept. Run again when nobody writes"
        )

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Be the only one of a file system to look at the lock and change it."""
        if not self._directory.is_local:
            yield
            return
        folder = Path(self._directory.path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            guard = filelock.FileLock(folder / _GUARD, timeout=_GUARD_S)
            guard.acquire()
        except filelock.Timeout:
            raise StorageError(f"{self._directory.uri}: another writer is starting; wait for it") from None
        except OSError as error:
            raise StorageError(
                f"{self._directory.uri}: can't be written ({error.strerror})\n"
                "  Give a place that you may write to, with space left: --storage URI"
            ) from None
        try:
            yield
        finally:
            guard.release()

    def _age(self, holder: _Holder) -> float:
        """Return the seconds since a lock was renewed, by the clock that stamps the storage's files."""
        probe = f".{LOCK}.{self._token}"
        self._directory.write(probe, b"")
        try:
            now, then = self._directory.modified_at(probe), self._directory.modified_at(LOCK)
        finally:
            self._directory.delete(probe)
        return now - then if now and then else time.time() - holder.renewed_at

    def _fresh(self) -> bytes:
        holder = _Holder(
            token=self._token,
            host=socket.gethostname(),
            pid=os.getpid(),
            renewed_at=time.time(),
            job=os.environ.get(JOB_VARIABLE, ""),
        )
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
                job=str(content.get("job", "")),
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
                if self._is_mine():  # without the guard, which would bring a folder back that is gone
                    with self._guarded():
                        if self._is_mine():
                            self._directory.write(LOCK, self._fresh())
            except StorageError:
                continue  # the writer itself will meet the fault, and say so


def _who(holder: _Holder) -> str:
    process = f"process {holder.pid or '?'} on {holder.host or '?'}"
    return f"job {holder.job} ({process})" if holder.job else process
