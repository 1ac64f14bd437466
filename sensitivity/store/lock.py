"""One writer per study directory: a lock file that names its holder and is refreshed by a heartbeat."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import filelock

from sensitivity.store.directory import Place, first_line
from sensitivity.store.manifest import MANIFEST
from sensitivity.study.errors import StorageError

logger = logging.getLogger(__name__)

LOCK = "writer.lock"
HEARTBEAT_S = 5.0
STALE_S = 60.0
SETTLE_S = 1.0
"""Without a guard, longer than another writer takes from its look at the lock to its own write."""
JOB_VARIABLE = "SENSITIVITY_JOB"
"""Names the cluster's job that this process is, if it is one."""
_GUARD = f".{LOCK}.guard"
_GUARD_S = 30.0
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system without file locks answers, such as Lustre or NFS that is mounted without them."""
_LOOK_AGAIN_S = 0.5
_LEFT_BEHIND = re.compile(r"\.([0-9a-f]{32}\.tmp|writer\.lock\.[0-9a-f]{32}|preflight-.*)")
"""Files that are there for a moment: on their way to their names, to ask for the time, to be seen by nodes."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The holder that a lock file names."""

    token: str
    host: str
    pid: int
    renewed_at: float
    machine: str = ""
    began: str = ""
    job: str = ""
    """The cluster's job that it is; empty on one machine."""

    @property
    def lives_here(self) -> bool | None:
        """Whether the holder is a running process of this machine; None if it is from another machine."""
        if not self.machine or self.machine != _machine() or self.pid <= 0:
            return None
        return bool(self.began) and _began(self.pid) == self.began

    def __str__(self) -> str:
        process = f"process {self.pid or '?'} on {self.host or '?'}"
        return f"job {self.job} ({process})" if self.job else process


def live_holder(directory: Place) -> Holder | None:
    """Return the current writer of `directory`; None if there is none or its lock is stale (see `WriterLock`).

    Nothing is written, so the lock's age is told by this machine's clock, not by the storage's.

    Raises:
        StorageError: the place can't be reached.
    """
    holder = _read(directory)
    if holder is None or holder.lives_here is False:
        return None
    age = time.time() - (directory.modified_at(LOCK) or holder.renewed_at)
    return holder if age < STALE_S else None


class WriterLock:
    """The lock of a study directory, held while it is written; a context manager.

    A lock is stale when its holder is a dead process of this machine, or has not renewed it for `STALE_S` seconds by
    the storage's own clock; a stale lock is taken over. The heartbeat shows whether a holder elsewhere is alive: a
    writer that finds the lock waits for a beat, and is refused once there is one. On a file system a writer holds a
    guard while it looks at the lock and changes it, so that of several that find it stale one takes it over. Object
    stores and file systems without file locks have no such guard: there the last one to write the lock holds it, and
    the others see so when they read it again. A writer that was suspended and has lost its lock finds out before it
    writes anything: see `require`.
    """

    def __init__(self, directory: Place) -> None:
        self._directory = directory
        self._token = uuid.uuid4().hex
        self._has_guard = directory.is_local
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="writer-lock", daemon=True)

    def __enter__(self) -> WriterLock:
        self._directory.require_folder_objects(f".{LOCK}.{self._token}")
        self._take()
        if not self._has_guard:
            time.sleep(SETTLE_S)
            if not self._is_mine():
                raise StorageError(f"{self._directory.uri}: another writer was quicker; wait for it")
        self._heart.start()
        return self

    def _take(self) -> None:
        """Take the lock if nobody holds it or its holder is dead.

        Raises:
            StorageError: its holder is alive, or the place can't be written.
        """
        first: Holder | None = None
        began = age = 0.0
        while True:
            with self._guarded():
                holder = _read(self._directory)
                if first is None and holder is not None and holder.lives_here is not False:
                    first, began, age = holder, time.monotonic(), self._age(holder)
                    holder = _read(self._directory)  # as it is now: on an object store that has taken a while
                    if holder == first and not holder.lives_here and age < STALE_S:
                        logger.warning(
                            "%s: was being written by %s %.0f s ago; waiting up to %.0f s to see whether it still is",
                            *(self._directory.uri, holder, max(age, 0.0), STALE_S - age),
                        )
                stale = holder == first and age + time.monotonic() - began >= STALE_S
                if holder is None or holder.lives_here is False or stale:
                    self._directory.write(LOCK, self._fresh())
                    return
            if holder.lives_here or holder != first:
                raise StorageError(
                    f"{self._directory.uri}: being written by {holder}\n"
                    "  Wait for it, or stop it (Ctrl-C there), then run again. A lock left by a crash there is void "
                    f"after {STALE_S:.0f} s"
                )
            time.sleep(_LOOK_AGAIN_S)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._heart.join()
        with contextlib.suppress(StorageError), self._guarded():  # a place out of reach: the lock will be stale there
            if self._is_mine():
                self._directory.delete(LOCK)

    def require(self) -> None:
        """Raise unless the lock is still held; called before each write.

        Raises:
            StorageError: it is not, or (passing) the place is out of reach.
        """
        holder = _read(self._directory)
        if holder is not None and holder.token == self._token:
            return
        if holder is None and not self._directory.exists(MANIFEST):
            raise StorageError(f"{self._directory.uri}: the study is gone from here (no {MANIFEST})", passing=True)
        now = "nobody" if holder is None else holder
        raise StorageError(
            f"{self._directory.uri}: this writer's lock was lost, as after a suspension; it is held by {now}\n"
            "  What was reported is kept. Run again when nobody writes"
        )

    def sweep(self) -> None:
        """Remove half-written files of killed commands and workers; while the lock is held, no others exist.

        Raises:
            StorageError: the place can't be read or written.
        """
        with self._guarded():
            # Object stores have no half-written files, and listing thousands of parts there takes a while.
            below = self._directory.folders() if self._directory.is_local else ()
            for folder in (self._directory, *below):
                for name in folder.hidden(_LEFT_BEHIND):
                    folder.delete(name)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Hold exclusive access, across the file system, to the lock file while it is read and changed."""
        if not self._has_guard:
            yield
            return
        folder = Path(self._directory.path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            guard = filelock.FileLock(folder / _GUARD, timeout=_GUARD_S)
            guard.acquire()
        except filelock.Timeout:
            raise StorageError(f"{self._directory.uri}: another writer is starting; wait for it") from None
        except (OSError, NotImplementedError) as error:
            if isinstance(error, NotImplementedError) or error.errno in _WITHOUT_LOCKS:
                self._has_guard = False
                logger.info(
                    "%s: this file system has no file locks; writers are told apart as on an object store", folder
                )
                yield
                return
            raise StorageError(
                f"{self._directory.uri}: can't be written ({first_line(error)})\n"
                "  Give a place that you may write to, with space left: --storage URI"
            ) from None
        try:
            yield
        finally:
            guard.release()

    def _age(self, holder: Holder) -> float:
        """Return the seconds since a lock was renewed, by the storage's own clock."""
        probe = f".{LOCK}.{self._token}"
        self._directory.write(probe, b"")
        try:
            now, then = self._directory.modified_at(probe), self._directory.modified_at(LOCK)
        finally:
            self._directory.delete(probe)
        return now - then if now and then else time.time() - holder.renewed_at

    def _fresh(self) -> bytes:
        holder = Holder(
            token=self._token,
            host=socket.gethostname(),
            pid=os.getpid(),
            renewed_at=time.time(),
            machine=_machine(),
            began=_began(os.getpid()),
            job=os.environ.get(JOB_VARIABLE, ""),
        )
        return json.dumps(asdict(holder)).encode()

    def _is_mine(self) -> bool:
        holder = _read(self._directory)
        return holder is not None and holder.token == self._token

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                if self._is_mine():  # without the guard, which would bring a folder back that is gone
                    with self._guarded():
                        if self._is_mine():
                            self._directory.write(LOCK, self._fresh())
            except StorageError:
                continue  # the writer itself will meet the fault, and say so


def _read(directory: Place) -> Holder | None:
    try:
        data = directory.read(LOCK)
    except StorageError:
        if not directory.exists(LOCK):
            return None
        data = directory.read(LOCK)  # it has come since, or was being renewed: not every disk replaces without a gap
    try:
        content = json.loads(data)
        return Holder(
            token=str(content["token"]),
            host=str(content["host"]),
            pid=int(content["pid"]),
            renewed_at=float(content["renewed_at"]),
            machine=str(content.get("machine", "")),
            began=str(content.get("began", "")),
            job=str(content.get("job", "")),
        )
    except (ValueError, KeyError, TypeError, OverflowError):
        return Holder(token="", host="", pid=0, renewed_at=directory.modified_at(LOCK))


@functools.cache
def _machine() -> str:
    """Return an identifier of the process namespace: it differs between machines and between containers on one."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _began(pid: int) -> str:
    """Return an identifier of a process that survives reuse of its number; empty if the process has ended."""
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return ""
        except PermissionError:
            pass
        return "some time"
    try:
        # Counted from behind the name, which may hold anything: the state, and 19 fields on the start, in ticks.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
