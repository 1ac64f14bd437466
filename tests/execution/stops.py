"""A script that stops the command at each of its phases; it forks a process for each, so that imports are paid once.

A phase begins with the call of a function: there the process says so, and waits for the signal. What became of each is
printed as JSON.
"""

import contextlib
import fcntl
import importlib
import importlib.abc
import json
import os
import pty
import shutil
import signal
import sys
import tempfile
import termios
import time
from pathlib import Path

import ray._private.node
import ray.tune  # noqa: F401

import sensitivity.cli.running
import sensitivity.execution.preflight
import sensitivity.execution.runner
import sensitivity.execution.session
from sensitivity.cli.main import main
from sensitivity.execution import interruption

HANGS_S = 300.0
IMPORTED = "sensitivity.cli.running"
PHASES = {
    "import": None,
    "check": ("sensitivity.cli.running", "prepare"),
    "data": ("sensitivity.execution.prepare", "load_problem"),
    "lock": ("sensitivity.execution.study_run", "finished_trials"),
    "plan": ("sensitivity.execution.study_run", "write_plan"),
    "ray": ("ray._private.node", "Node.start_ray_processes"),
    "join": ("sensitivity.execution.session", "_fitting_packs"),
    "measure": ("sensitivity.execution.study_run", "pack_sizes"),
    "train": ("sensitivity.execution.runner", "run_packs"),
    "write": ("sensitivity.execution.runner", "append"),
    "end": ("sensitivity.execution.study_run", "read_statuses"),
}


def pausing(pause, real, *, calls):
    count = 0

    def call(*arguments, **options):
        nonlocal count
        count += 1
        if count == calls:
            pause()
        return real(*arguments, **options)

    return call


class PausingFinder(importlib.abc.MetaPathFinder):
    def __init__(self, pause):
        self._pause = pause

    def find_spec(self, name, path, target=None):
        if name == IMPORTED:
            self._pause()


def command(phase, study, address, storage, ready, terminal):
    """Be the command: it never returns."""
    os.setsid()
    # The caller of the tests may ignore them, as `nohup` and a shell's background do.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if phase == "terminal":
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    os.dup2(terminal, 1)
    os.dup2(terminal, 2)

    def pause():
        os.write(ready, b".")
        deadline = time.monotonic() + HANGS_S
        # The interpreter may drop what a handler raises, in a callback of Ray's say; the request stands all the same.
        while signal.getsignal(signal.SIGTERM) is not interruption._ignore and time.monotonic() < deadline:
            time.sleep(0.02)

    if phase == "import":
        del sys.modules[IMPORTED]
        sys.meta_path.insert(0, PausingFinder(pause))
    else:
        if phase == "end":
            sensitivity.execution.runner.run_packs = lambda *_, **__: None
        module, name = PHASES["train" if phase == "terminal" else phase]
        owner, *names = [importlib.import_module(module), *name.split(".")]
        for each in names[:-1]:
            owner = getattr(owner, each)
        real = getattr(owner, names[-1])
        setattr(owner, names[-1], pausing(pause, real, calls=2 if phase == "write" else 1))
    where = ["--workers", "1"] if phase == "ray" else ["--address", address]
    sys.argv = ["sensitivity", "run", study, "--storage", str(storage), *where]
    main()


def of_session(session):
    """Return the processes of a session that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(stat.parent.name)
    return found


def stop(phase, signals, study, address):
    """Run the command up to a phase, send it the signals, and return what became of it."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # no block: the forked process leaves this function too
    (folder / "tmp").mkdir()
    began = time.monotonic()
    storage, log = folder / "studies", folder / "log"
    was_ready, ready = os.pipe()
    # A pseudo-terminal that is closed hangs up the process it controls, and fails whatever is written to it.
    master, terminal = pty.openpty() if phase == "terminal" else (None, os.open(log, os.O_RDWR | os.O_CREAT))
    process = os.fork()
    if not process:
        os.environ["TMPDIR"], tempfile.tempdir = str(folder / "tmp"), None
        if master is not None:
            os.close(master)
        command(phase, study, address, storage, ready, terminal)
    os.close(ready)
    os.close(terminal)
    reached = os.read(was_ready, 1) == b"."
    os.close(was_ready)
    if master is not None:
        os.close(master)
    for number in signals:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
    _, status = os.waitpid(process, 0)
    deadline = time.monotonic() + HANGS_S
    while (left := of_session(process)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for each in left:
        os.kill(int(each), signal.SIGKILL)
    outcome = {
        "reached": reached,
        "seconds": round(time.monotonic() - began, 1),
        "code": os.waitstatus_to_exitcode(status),
        "said": log.read_text() if log.exists() else "",
        "processes": left,
        "folders": [each.name for each in (folder / "tmp").glob("*ensitivity*")],
        "lock": any(storage.rglob("writer.lock")),
        "parts": len(list(storage.glob("*/runs/*.parquet"))),
    }
    shutil.rmtree(folder)
    return outcome


if __name__ == "__main__":
    study, address, *phases = sys.argv[1:]
    outcomes = {}
    for k, phase in enumerate(phases):
        stops = [signal.SIGTERM, signal.SIGHUP, signal.SIGINT]
        wanted = [] if phase == "terminal" else [stops[k % 3], *([stops[(k + 1) % 3]] if k % 2 else [])]
        outcomes[phase] = stop(phase, wanted, study, address)
    sys.stdout.write(json.dumps(outcomes))
