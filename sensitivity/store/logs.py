"""Logs in ``recorded/``: runs of a user's own loop, as JSON lines, until each run has its parts.

The first line of a log identifies the run, and each further line is an evaluation. On a file system a line is appended,
and persists once `write` returns, whatever happens to the process afterwards. Object stores cannot append: a log is a
sequence of objects there, and the last one is rewritten with each line until it has ``_LINES``.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from sensitivity.store.directory import Place, patiently
from sensitivity.store.last_values import last_values
from sensitivity.store.schema import PARAM_PREFIX, TRIAL_COLUMNS, curves_schema, further_metrics, runs_schema
from sensitivity.study.errors import StorageError
from sensitivity.study.results import Status

RECORDED = "recorded"
_SUFFIX = ".jsonl"
_LINES = 100
_FILE = re.compile(rf"([0-9a-z-]+)\.(\d+){re.escape(_SUFFIX)}")
_UNFINISHED = "it has not ended: it is being recorded, or its process was killed"


class Log:
    """The log of one run, written by one process."""

    def __init__(self, directory: Place, run: str) -> None:
        self._place = directory.child(RECORDED)
        self._run = run
        self._chunk = 0
        self._lines: list[bytes] = []
        self._file: int | None = None
        if directory.is_local:
            path = Path(self._place.path)
            try:
                path.mkdir(parents=True, exist_ok=True)
                self._file = os.open(path / self._name(), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            except OSError as error:
                raise _unwritable(self._place, error) from None

    def write(self, content: Mapping[str, Any]) -> None:
        """Append a line; it is in the file once this returns.

        Raises:
            StorageError: the place can't be written.
        """
        line = json.dumps(content).encode() + b"\n"
        if self._file is not None:
            try:
                os.write(self._file, line)  # one call, so that a killed process leaves complete lines
            except OSError as error:
                raise _unwritable(self._place, error) from None
            return
        if len(self._lines) == _LINES:
            self._chunk, self._lines = self._chunk + 1, []
        self._lines.append(line)
        patiently(lambda: self._place.write(self._name(), b"".join(self._lines)))

    def delete(self) -> None:
        """Delete the log, once the run has its parts."""
        self.close()
        with contextlib.suppress(StorageError):  # a remaining log has no effect: the run's parts take precedence
            for chunk in range(self._chunk + 1):
                self._place.delete(self._name(chunk))

    def close(self) -> None:
        """Close the log."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _name(self, chunk: int | None = None) -> str:
        return f"{self._run}.{self._chunk if chunk is None else chunk:05d}{_SUFFIX}"


def _unwritable(place: Place, error: OSError) -> StorageError:
    return StorageError(f"{place.uri}: can't be written ({error.strerror})\n  Use a place with write permission")


def log_parts(directory: Place) -> tuple[str, ...]:
    """Return the names of all logs, which include their length, so that a log that has grown has a new name.

    Raises:
        StorageError: the place can't be read.
    """
    sizes: dict[str, int] = {}
    for name, size in directory.child(RECORDED).sizes(_SUFFIX).items():
        if (found := _FILE.fullmatch(name)) is not None:
            sizes[found[1]] = sizes.get(found[1], 0) + size
    return tuple(f"{run}{_SUFFIX}@{size}" for run, size in sorted(sizes.items()))


def is_log(part: str) -> bool:
    """Whether a part's name is that of a log."""
    return "@" in part


def read_log(directory: Place, part: str) -> tuple[pa.Table, pa.Table]:
    """Return the row of a run that is being recorded, and its evaluations; both empty if its log no longer exists.

    Raises:
        StorageError: the place can't be read.
    """
    place, run = directory.child(RECORDED), part.partition(_SUFFIX)[0]
    lines: list[dict[str, Any]] = []
    for name in place.files(_SUFFIX):
        if name.startswith(f"{run}."):
            try:
                data = place.read(name)
            except StorageError:
                if place.exists(name):
                    raise
                continue
            lines += _parsed(data)
    if not lines or "trial_id" not in lines[0]:
        return runs_schema([]).empty_table(), curves_schema().empty_table()
    return run_table(lines[0], lines[1:], status=Status.INTERRUPTED, message=_UNFINISHED), curve_table(
        str(lines[0]["trial_id"]), lines[1:]
    )


def read_lines(directory: Place, run: str, most: int) -> str:
    """Return the last lines of the log of a run that is being recorded; empty if there is none.

    Raises:
        StorageError: the place can't be read.
    """
    place = directory.child(RECORDED)
    text = ""
    for name in place.files(_SUFFIX):
        if (found := _FILE.fullmatch(name)) is not None and found[1].partition("-")[0] == run:
            with contextlib.suppress(StorageError):  # the run has just ended
                text += place.read(name).decode(errors="replace")
    return "\n".join(text.splitlines()[-most:])


def _parsed(data: bytes) -> list[dict[str, Any]]:
    found = []
    for line in data.splitlines():
        with contextlib.suppress(ValueError):  # a line truncated when the machine went down
            found.append(json.loads(line))
    return [each for each in found if isinstance(each, dict)]


def run_table(
    header: Mapping[str, Any],
    evaluations: list[dict[str, Any]],
    *,
    status: Status,
    message: str = "",
    traceback: str = "",
) -> pa.Table:
    """Return the row of a recorded run from `header`, the first line of its log."""
    params = {PARAM_PREFIX + name: value for name, value in header["hyperparameters"].items()}
    last = evaluations[-1] if evaluations else {}
    row: dict[str, Any] = {
        **{name: header[name] for name in TRIAL_COLUMNS},
        **params,
        "status": status.value,
        "message": message,
        "traceback": traceback,
        "steps": int(last.get("step", 0)),
        "pack_id": header["trial_id"],
        "pack_size": 1,
        "host": header.get("host"),
        "started_at": datetime.fromtimestamp(header["started_at"], tz=UTC),
        "finished_at": datetime.now(tz=UTC),
        "spec_hash": header.get("spec_hash"),
        "epochs": last.get("epoch", math.nan),
        "train_seconds": last.get("train_seconds", math.nan),
        "flops": last.get("flops", math.nan),
    }
    row |= last_values(evaluations)
    first = evaluations[0] if evaluations else {}
    row["initial_train_loss"] = first.get("train_loss", math.nan) if first.get("step") == 0 else math.nan
    schema = runs_schema([name.removeprefix(PARAM_PREFIX) for name in params], further_metrics(row))
    return _of_rows([row], schema)


def curve_table(trial_id: str, evaluations: list[dict[str, Any]]) -> pa.Table:
    """Return the evaluations of a recorded run; the last of several values at one step is used."""
    by_step: dict[int, dict[str, Any]] = {}
    for each in evaluations:
        step = int(each["step"])
        by_step[step] = {**by_step.get(step, {}), **each, "trial_id": trial_id, "step": step}
    further = dict.fromkeys(name for each in evaluations for name in further_metrics(each))
    return _of_rows([by_step[step] for step in sorted(by_step)], curves_schema(tuple(further)))


def _of_rows(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return a table of rows; missing numbers are NaN."""
    lacking = {field.name: math.nan for field in schema if pa.types.is_floating(field.type)}
    return pa.Table.from_pylist([{**lacking, **row} for row in rows], schema=schema)
