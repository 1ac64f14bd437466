"""Standard error of a lost worker, read from Ray's log files (without importing Ray)."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

_PID = re.compile(r"\bpid[:=] ?(\d+)")
_NAME = re.compile(r"worker-[0-9a-f]+-[0-9a-f]+-(\d+)\.err")
_RAY_PREFIXES = (":job_id:", ":actor_name:", ":task_name:")
_CRASH = re.compile(
    r"^(Traceback \(most recent call last\)|Fatal Python error|\*\*\* SIG|terminate called|.*Segmentation fault"
    r"|.*Check failed: )",
    re.MULTILINE,
)
_MAX_BYTES = 65_536
_MAX_LINES = 12


def read_stderr(logs: Path, error: str, *, since: float) -> str:
    """Return the end of the standard error of a lost worker on this machine; empty if unknown.

    Args:
        logs: folder of Ray's logs.
        error: Ray's message about the loss. If it names no process, the ended worker that wrote last is used.
        since: start time of the command; workers that ended earlier belong to other commands.
    """
    pid = int(found[1]) if (found := _PID.search(error)) else None
    written: list[tuple[float, str]] = []
    with contextlib.suppress(OSError):
        for file in logs.glob("worker-*.err"):
            name = _NAME.fullmatch(file.name)
            if name is None or (pid or int(name[1])) != int(name[1]) or (pid is None and _is_running(int(name[1]))):
                continue
            with contextlib.suppress(OSError):
                when = file.stat().st_mtime
                if when >= since and (text := _tail(file)):
                    written.append((when, text))
    return max(written)[1] if written else ""


def crash_line(words: str) -> str:
    """Return the line of a worker's last output with the reason of a crash; empty if there is none."""
    start = _CRASH.search(words)
    if start is None:
        return ""
    lines = [line for line in words[start.start() :].splitlines() if line.strip()]
    # An exception is at the end of its traceback; a signal is named before the stack.
    return lines[-1].strip() if start[1].startswith("Traceback") else lines[0].strip()


def quoted(words: str) -> str:
    """Return a worker's last output as quoted lines of a message."""
    lines = "".join(f"    {line}\n" for line in words.splitlines()[-_MAX_LINES:])
    return f"  Its standard error ended with\n{lines}" if lines else ""


def _tail(file: Path) -> str:
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - _MAX_BYTES))
        text = stream.read().decode(errors="replace")
    return "\n".join(line for line in text.splitlines() if not line.startswith(_RAY_PREFIXES)).strip("\n")


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
