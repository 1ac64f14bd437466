"""W&B runs: those of a project on the server, or the ``run-ID.wandb`` files of runs on this machine.

Such a file, written with ``WANDB_MODE=offline`` or during a sync, is a log of protobuf records in LevelDB's format: a
header of 7 bytes, then blocks of 32 KiB with fragments, each with a checksum, a length and a type.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import wandb
from wandb.proto.wandb_internal_pb2 import Record

from sensitivity.importing.sources.rows import REPORTED, LoggedRun, source_of
from sensitivity.importing.tables import Source
from sensitivity.store.directory import first_line
from sensitivity.study.errors import UserError
from sensitivity.study.paths import path_faults

_MAGIC, _HEADER, _BLOCK, _FRAGMENT = b":W&B", 7, 32 * 1024, struct.Struct("<IHB")
_PROJECT = re.compile(r"[\w.-]+/[\w.-]+")
_REPORTED = "the step of wandb.log"
TRIAL_ID, _STATUS = "trial_id", "status"
"""Fields in the configuration of runs that this package has sent."""
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def read(address: str) -> Source:
    """Read all runs below a folder, the run of one file, or those of a project on the server, ``ENTITY/PROJECT``.

    Raises:
        UserError: there are none, the server returns an error, or a file is not one of W&B.
    """
    root = Path(address).expanduser()
    if not root.exists() and _PROJECT.fullmatch(address):
        return source_of(_of_project(address), f"W&B project {address}", reported=_REPORTED)
    files = [root] if root.is_file() else sorted(root.glob("**/run-*.wandb"))
    with path_faults(root, "Use a folder of W&B runs, such as wandb/"):
        found = [read_file(file) for file in files]
    runs = [replace(run, settings=_without_id(run.settings)) for run in found if not is_verdict(run.settings)]
    return source_of(runs, root.name, reported=_REPORTED)


def _of_project(address: str) -> list[LoggedRun]:
    try:
        return [_of_server(run) for run in wandb.Api().runs(address) if not is_verdict(run.config)]
    except (wandb.Error, ValueError, OSError) as error:
        raise UserError(
            f"{address}: no such file or folder, and W&B returns no project of this name ({first_line(error)})\n"
            "  Use an existing folder, or check the name, the network and `wandb login`"
        ) from None


def _of_server(run: Any) -> LoggedRun:
    """Return a run of W&B's public API, with every row of its history."""
    settings = {name: value for name, value in run.config.items() if not name.startswith("_")}
    evaluations = []
    last = None
    for row in run.scan_history():
        last = row.get("_timestamp", last)
        logged = {name: value for name, value in row.items() if not name.startswith("_") and value is not None}
        evaluations.append({"train_seconds": row.get("_runtime"), **logged, REPORTED: row.get("_step")})
    ended = run.state in ("finished", "failed")
    status = settings.pop(_STATUS, run.state) if ended and TRIAL_ID in settings else run.state
    facts = {"status": status, "started_at": run.created_at, "finished_at": _moment(last)}
    return LoggedRun(run=run.id, settings=_without_id(settings), facts=facts, evaluations=evaluations)


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC).isoformat()


def read_file(file: Path) -> LoggedRun:
    """Return the run of one file, up to the point where the file is truncated.

    Raises:
        UserError: the file is not one of W&B.
    """
    settings: dict[str, Any] = {}
    facts: dict[str, Any] = {"status": "running"}
    evaluations = []
    for data in records_of(file):
        record = Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            settings |= _items(record.run.config.update)
            facts["started_at"] = record.run.start_time.ToSeconds()
        elif kind == "config":
            settings |= _items(record.config.update)
        elif kind == "history":
            values = _items(record.history.item)
            facts["finished_at"] = values.get("_timestamp")
            logged = {name: value for name, value in values.items() if not name.startswith("_")}
            evaluations.append({"train_seconds": values.get("_runtime"), **logged, REPORTED: record.history.step.num})
        elif kind == "exit":
            facts["status"] = "finished" if record.exit.exit_code == 0 else "crashed"
    if TRIAL_ID in settings and facts["status"] != "running":
        facts["status"] = settings.pop(_STATUS, facts["status"])
    settings.pop("_wandb", None)
    return LoggedRun(run=file.stem.removeprefix("run-"), settings=settings, facts=facts, evaluations=evaluations)


def _without_id(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != TRIAL_ID}


def is_verdict(settings: Mapping[str, Any]) -> bool:
    """Whether a run that this package has sent contains the verdict of a study instead of a trained run."""
    return {"study", "version"} <= settings.keys() and TRIAL_ID not in settings


def _items(items: Any) -> dict[str, Any]:
    found = {}
    for item in items:
        with contextlib.suppress(ValueError):
            found[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    return found


def records_of(file: Path) -> Iterator[bytes]:
    """Yield the records of a file, up to the point where it is truncated."""
    data = file.read_bytes()
    if not data.startswith(_MAGIC) and data:  # an empty file belongs to a run that was killed at its start
        raise UserError(
            f"{file}: not a W&B run, according to its first bytes\n  Move it away, or import another folder"
        )
    place, parts = _HEADER, bytearray()
    while place + _FRAGMENT.size <= len(data):
        left = _BLOCK - place % _BLOCK
        if left < _FRAGMENT.size:  # the rest of a block is padded with zeros
            place += left
            continue
        checksum, length, kind = _FRAGMENT.unpack_from(data, place)
        body = data[place + _FRAGMENT.size : place + _FRAGMENT.size + length]
        if len(body) < length or zlib.crc32(bytes([kind]) + body) != checksum:
            return  # its writer was killed
        place += _FRAGMENT.size + length
        parts = bytearray(body) if kind in (_FULL, _FIRST) else parts + body
        if kind in (_FULL, _LAST):
            yield bytes(parts)
