"""Which processes there are below one of ours: a driver's Ray, or the workers of a node."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path


def _parents() -> dict[int, int]:
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # gone meanwhile
            # The name in parentheses may hold anything, so count from behind it.
            found[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    return found


def _title(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def below(pid: int) -> Iterator[tuple[int, str]]:
    """Yield the id and command line of every process that `pid` has started, and those have."""
    parents = _parents()
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    for child in sorted(found - {pid}):
        yield child, _title(child)


def training_workers(pid: int) -> list[int]:
    """Return the workers below a node's or a driver's process that run packs."""
    return [child for child, title in below(pid) if title.startswith("ray::PackWorker")]


def kill(pid: int) -> None:
    """Kill a process as a crash would, without a chance to tidy up."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
