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
"""Without a guard: longer than another writer needs between reading the lock and writing it."""
JOB_VARIABLE = "SENSITIVITY_JOB"
"""Environment variable with the id of the cluster job that this process is, if it is one."""
_GUARD = f".{LOCK}.guard"
_GUARD_S = 30.0
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Error numbers of a file system without file locks, such as Lustre or NFS that is mounted without them."""
_POLL_INTERVAL_S = 0.5
_TEMPORARY = re.compile(r"\.([0-9a-f]{32}\.tmp|writer\.lock\.[0-9a-f]{32}|preflight-.*)")
"""Temporary files: before they are renamed, to read the storage's clock, and to check that nodes share the place."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The writer that a lock file names."""

    token: str
    host: str
    pid: int
    renewed_at: float
    machine: str = ""
    began: str = ""
    job: str = ""
    """Id of its cluster job; empty on a single machine."""

    @property
    def is_running_here(self) -> bool | None:
        """Whether the holder is a running process of this machine; None if it is on another machine."""
        if not self.machine or self.machine != _machine() or self.pid <= 0:
            return None
        return bool(self.began) and _began(self.pid) == self.began

    def __str__(self) -> str:
        process = f"process {self.pid or '?'} on {self.host or '?'}"
        return f"job {self.job} ({process})" if self.job else process


def live_holder(directory: Place) -> Holder | None:
    """Return the current writer of `directory`; None if there is none or its lock is stale (see `WriterLock`).

    It writes nothing, so the age of the lock is measured by this machine's clock, not by the storage's.

    Raises:
        StorageError: the place can't be reached.
    """
    holder = _read(directory)
    if holder is None or holder.is_running_here is False:
        return None
    age = time.time() - (directory.modified_at(LOCK) or holder.renewed_at)
    return holder if age < STALE_S else None


class WriterLock:
    """The lock of a study directory, held while it is written; a context manager.

    A lock is stale if its holder is a dead process of this machine, or has not renewed it for `STALE_S` seconds by
    the storage's own clock; a stale lock is taken over. A holder on another machine is known to be alive by its
    heartbeat: a writer that finds such a lock waits for a renewal, and fails once there is one. On a file system, a
    guard file gives a writer exclusive access while it reads and changes the lock, so only one of several writers
    takes over a stale lock. Object stores and file systems without file locks have no such guard: the last writer
    of the lock holds it, and the others find this out when they read it again. A writer that lost its lock during a
    suspension fails before it writes anything; see `require`.
    """

    def __init__(self, directory: Place) -> None:
        self._directory = directory
        self._token = uuid.uuid4().hex
        self._has_guard = directory.is_local
        self._stop = threading.Event()
        self._heartbeat = threading.Thread(target=self._renew_periodically, name="writer-lock", daemon=True)

    def __enter__(self) -> WriterLock:
        self._directory.require_folder_objects(f".{LOCK}.{self._token}")
        self._acquire()
        if not self._has_guard:
            time.sleep(SETTLE_S)
            if not self._is_mine():
                raise StorageError(
                    f"{self._directory.uri}: another writer took the lock first\n  Wait for it, then run again"
                )
        self._heartbeat.start()
        return self

    def _acquire(self) -> None:
        """Acquire the lock if it is free or its holder is dead.

        Raises:
            StorageError: its holder is alive, or the place can't be written.
        """
        first: Holder | None = None
        began = age = 0.0
        while True:
            with self._guarded():
                holder = _read(self._directory)
                if first is None and holder is not None and holder.is_running_here is not False:
                    first, began, age = holder, time.monotonic(), self._age(holder)
                    holder = _read(self._directory)  # read again: on an object store, measuring the age takes a while
                    if holder == first and not holder.is_running_here and age < STALE_S:
                        logger.warning(
                            "%s: was being written by %s %.0f s ago; waiting up to %.0f s for a sign that it still is",
                            *(self._directory.uri, holder, max(age, 0.0), STALE_S - age),
                        )
                stale = holder == first and age + time.monotonic() - began >= STALE_S
                if holder is None or holder.is_running_here is False or stale:
                    self._directory.write(LOCK, self._content())
                    return
            if holder.is_running_here or holder != first:
                raise StorageError(
                    f"{self._directory.uri}: being written by {holder}\n"
                    "  Wait for it, or stop it (Ctrl-C there), then run again. The lock of a crashed process expires "
                    f"after {STALE_S:.0f} s"
                )
            time.sleep(_POLL_INTERVAL_S)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._heartbeat.join()
        with contextlib.suppress(StorageError), self._guarded():  # in an unreachable place, the lock becomes stale
            if self._is_mine():
                self._directory.delete(LOCK)

    def require(self) -> None:
        """Raise unless the lock is still held; called before each write.

        Raises:
            StorageError: it is not held, or the place is unreachable (`passing` is then True).
        """
        holder = _read(self._directory)
        if holder is not None and holder.token == self._token:
            return
        if holder is None and not self._directory.exists(MANIFEST):
            raise StorageError(f"{self._directory.uri}: the study is no longer here (no {MANIFEST})", passing=True)
        now = "nobody" if holder is None else holder
        raise StorageError(
            f"{self._directory.uri}: this writer's lock was lost, for instance in a suspension; it is held by {now}\n"
            "  Reported results are kept. Run again when no other command writes"
        )

    def sweep(self) -> None:
        """Delete partly written files of killed commands and workers; while the lock is held, no others exist.

        Raises:
            StorageError: the place can't be read or written.
        """
        with self._guarded():
            # Object stores have no partly written files, and listing thousands of parts there is slow.
            below = self._directory.folders() if self._directory.is_local else ()
            for folder in (self._directory, *below):
                for name in folder.hidden(_TEMPORARY):
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
            raise StorageError(
                f"{self._directory.uri}: another writer is starting\n  Wait for it, then run again"
            ) from None
        except (OSError, NotImplementedError) as error:
            if isinstance(error, NotImplementedError) or error.errno in _WITHOUT_LOCKS:
                self._has_guard = False
                logger.debug("%s: no file locks on this file system; the lock is kept as on an object store", folder)
                yield
                return
            raise StorageError(
                f"{self._directory.uri}: can't be written ({first_line(error)})\n"
                "  Use a place with free space and write permission: --storage URI"
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

    def _content(self) -> bytes:
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

    def _renew_periodically(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                if self._is_mine():  # first without the guard, which would recreate a deleted folder
                    with self._guarded():
                        if self._is_mine():
                            self._directory.write(LOCK, self._content())
            except StorageError:
                continue  # the next write raises the same error


def _read(directory: Place) -> Holder | None:
    try:
        data = directory.read(LOCK)
    except StorageError:
        if not directory.exists(LOCK):
            return None
        data = directory.read(LOCK)  # it has just appeared, or was being renewed: not every disk replaces atomically
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
        # Fields after the process name, which may contain anything: the state, and 19 fields later the start in ticks.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
