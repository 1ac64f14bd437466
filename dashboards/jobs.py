"""Runs the ``sensitivity`` command to plan, price, start, submit and stop studies.

The dashboard never imports the code that runs studies; it calls the command as a user would, with arguments and never
through a shell. A study file from the browser is stored next to the studies, under a name that no study file or study
has.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensitivity.store.directory import Place
from sensitivity.store.ledger import settling_place
from sensitivity.store.lock import Holder, live_holder
from sensitivity.study.errors import StudyFileError, UserError
from sensitivity.study.load import parse_study, parse_toml, shipped
from sensitivity.study.spec import StudySpec
from sensitivity.study.user_functions import IMPORT_PATH
from sensitivity.study.whole_files import output_faults, write_whole

_COMMAND = (sys.executable, "-P", "-m", "sensitivity.cli.main")
"""Runs without the current folder on the path, where a file may have the name of a package."""
_PLAN_S = 300.0
_TAIL = 4_000
_MAX_LOG_BYTES = 100_000


@dataclass(frozen=True, kw_only=True)
class Source:
    """A study file to start from."""

    name: str
    path: Path
    shipped: bool


def sources(root: Place) -> dict[str, Source]:
    """Return the shipped study files and, if the root is a local folder, those in it, by display name."""
    found = {f"shipped: {name}": Source(name=name, path=path, shipped=True) for name, path in shipped().items()}
    if root.is_local:
        folder = Path(root.path)
        own = sorted(path for path in folder.glob("*.toml") if not path.name.startswith(".") and path.is_file())
        found |= {path.name: Source(name=path.stem, path=path, shipped=False) for path in own}
    return found


def read_text(text: str) -> tuple[dict[str, Any], StudySpec | None, tuple[str, ...]]:
    """Return the content of a study file, the study, and its mistakes; the study is None if there are any."""
    raw: dict[str, Any] = {}
    try:
        raw = parse_toml(text, source="study")
        return raw, parse_study(raw, source="study"), ()
    except StudyFileError as error:
        return raw, None, error.mistakes


def absent_modules(root: Place, spec: StudySpec) -> tuple[str, ...]:
    """Return a sentence on each module that a study names and that is neither next to the studies nor installed.

    None of the user's code is imported: a module that exists may still raise when a plan imports it.
    """
    folder = Path(root.path) if root.is_local else Path()
    own = {} if spec.problem is None else spec.problem.named_code()
    named = {f"problem.{field}": path for field, path in own.items()}
    named |= {f"optimizers.{name}.kind": arm.kind for name, arm in spec.optimizers.items()}
    absent = []
    for field, value in named.items():
        if not IMPORT_PATH.fullmatch(value):
            continue
        top = value.partition(":")[0].partition(".")[0]
        exists = (folder / f"{top}.py").is_file() or (folder / top).is_dir()
        if not exists and importlib.util.find_spec(top) is None:
            absent.append(f"{field}: there is no module {top!r} next to the studies or installed (got {value!r})")
    return tuple(absent)


def store_study_file(root: Place, text: str, spec: StudySpec) -> Path:
    """Write a study file where modules next to the studies are found, and return its path.

    Raises:
        UserError: it can't be written.
    """
    return _write(root, f".started-{spec.name}-{_digest(text)}.toml", text)


@contextlib.contextmanager
def temporary_study_file(root: Place, text: str, spec: StudySpec) -> Iterator[Path]:
    """Write a temporary study file next to the studies. It isn't hidden, because a cluster's upload skips hidden files.

    Raises:
        UserError: it can't be written.
    """
    path = _write(root, f"{spec.name}~{_digest(text)}.toml", text)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _write(root: Place, name: str, text: str) -> Path:
    with output_faults(Path(root.path if root.is_local else tempfile.gettempdir()) / name):
        # A bucket has no local folder. Only this user may write where a study file's modules are imported from.
        folder = Path(root.path) if root.is_local else Path(tempfile.mkdtemp(prefix="sensitivity-"))
        return write_whole(folder / name, text.encode()).path


def plan(root: Place, file: Path) -> dict[str, Any]:
    """Return the output of ``sensitivity plan --json`` for a study file.

    Raises:
        UserError: the command failed, with its message, or took too long.
    """
    content: dict[str, Any] = json.loads(run_command(["plan", str(file), "--storage", root.uri, "--json"], _PLAN_S))
    return content


def run_command(arguments: Sequence[str], patience: float, *, env: Mapping[str, str] | None = None) -> str:
    """Return the output of the ``sensitivity`` command, run for at most `patience` seconds with `env` in addition.

    Raises:
        UserError: the command failed, with its message, or took too long.
    """
    try:
        done = subprocess.run(
            [*_COMMAND, *arguments],
            capture_output=True, timeout=patience, check=False, stdin=subprocess.DEVNULL,
            encoding="utf-8", errors="replace", env={**os.environ, "PYTHONIOENCODING": "utf-8", **(env or {})},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        message = f"`sensitivity {arguments[0]}` took more than {patience:.0f} s; try it in a terminal"
        raise UserError(message) from None
    if done.returncode:
        message = done.stderr.strip()[-_TAIL:].removeprefix("error: ")
        raise UserError(message or f"`sensitivity {arguments[0]}` ended without a message")
    return done.stdout


class Started:
    """Commands that this dashboard has started; they survive its end."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}

    def start(self, root: Place, file: Path, spec: StudySpec, *, command: str = "run") -> None:
        """Start ``sensitivity run``, or another command that writes results, on a study file.

        Raises:
            UserError: the study is running already, or its directory can't be reached.
        """
        before = self._running.get(spec.name)
        if (before is not None and before[0].poll() is None) or writer_of(root.child(spec.name)) is not None:
            raise UserError(f"{spec.name} is running already")
        log = file.with_suffix(".log")
        with output_faults(log):
            stream = log.open("wb")
        with stream:
            process = subprocess.Popen(
                [*_COMMAND, command, str(file), "--storage", root.uri],
                stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        # Waiting reaps the process when it ends; otherwise it would stay a zombie until a page asks for its state.
        threading.Thread(target=process.wait, name=f"waits for {spec.name}", daemon=True).start()
        self._running[spec.name] = (process, log)

    def outputs(self) -> list[tuple[str, str, str]]:
        """Return the study, the state and the end of the output of each command."""
        return [(name, _state(process), _end_of(log)) for name, (process, log) in self._running.items()]

    def failed(self) -> list[str]:
        """Return the studies whose last command has failed."""
        return [name for name, (process, _) in self._running.items() if process.poll()]

    def failure(self, name: str) -> str:
        """Return a sentence with the end of the output of a study's last command if it has failed, otherwise ""."""
        if name not in self.failed():
            return ""
        process, log = self._running[name]
        text = _end_of(log)
        said = text[max(text.rfind("error: "), 0) :].strip() or "no output"
        return f"The last command for {name} {_state(process)}: {said}"


def _state(process: subprocess.Popen[bytes]) -> str:
    code = process.poll()
    return "running" if code is None else "done" if code == 0 else f"ended with exit code {code}"


def _end_of(log: Path) -> str:
    """Return the end of a command's output; empty if it can't be read."""
    text = b""
    with contextlib.suppress(OSError), log.open("rb") as stream:
        stream.seek(max(log.stat().st_size - _MAX_LOG_BYTES, 0))
        text = stream.read()
    return text.decode(errors="replace")[-_TAIL:]


def writer_of(directory: Place) -> Holder | None:
    """Return the process that currently writes a study's results, or those of its settlement, or None."""
    return live_holder(directory) or live_holder(settling_place(directory))


def stop(directory: Place) -> None:
    """Ask the process that writes a study to stop; it keeps every result.

    Raises:
        UserError: no process writes it, or one that isn't a ``sensitivity`` command of this user on this machine.
    """
    holder = writer_of(directory)
    if holder is None:
        raise UserError("nothing runs this study now")
    if holder.job:
        raise UserError(f"a cluster's job runs it: `sensitivity stop {holder.job}`, with --address if need be")
    if not holder.is_running_here:
        raise UserError(f"another machine or container runs it: stop {holder} there")
    if not _is_sensitivity_process(holder.pid):
        raise UserError(f"process {holder.pid} is not a `sensitivity` command of this user; it is left alone")
    os.kill(holder.pid, signal.SIGTERM)


def _is_sensitivity_process(pid: int) -> bool:
    """Whether a process is a ``sensitivity`` command of this user."""
    try:
        asked = subprocess.run(
            ["ps", "-ww", "-o", "uid=", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False
        )  # fmt: skip
    except FileNotFoundError:
        raise UserError(f"there is no `ps` here to identify process {pid}; stop it with `kill {pid}`") from None
    uid, _, arguments = asked.stdout.strip().partition(" ")
    words = arguments.split()
    command = any(Path(word).name == "sensitivity" or word.startswith("sensitivity.cli") for word in words)
    return uid == str(os.getuid()) and command and not {"run", "settle"}.isdisjoint(words)
