"""W&B runs on this machine: the ``run-ID.wandb`` file of each, as written with ``WANDB_MODE=offline`` or beside a sync.

Such a file is a log of protobuf records in LevelDB's format: after a header of 7 bytes, blocks of 32 KiB of fragments,
each with a checksum, a length and a type. Runs of a server are exported from its pages as CSV, and imported from that.
"""

from __future__ import annotations

import contextlib
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

from sensitivity.importing.sources.rows import REPORTED, LoggedRun, source_of
from sensitivity.importing.tables import Source
from sensitivity.study.errors import UserError
from sensitivity.study.paths import path_faults

_MAGIC, _HEADER, _BLOCK, _FRAGMENT = b":W&B", 7, 32 * 1024, struct.Struct("<IHB")
TRIAL_ID, _STATUS = "trial_id", "status"
"""In the configuration of runs that this package has sent."""
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def read(address: str) -> Source:
    """Read all runs below a folder, or that of one file.

    Raises:
        UserError: there are none, or a file isn't W&B's.
    """
    root = Path(address).expanduser()
    files = [root] if root.is_file() else sorted(root.glob("**/run-*.wandb"))
    with path_faults(root, "Give a folder of W&B runs, such as wandb/"):
        found = [read_file(file) for file in files]
    runs = [replace(run, settings=_without_id(run.settings)) for run in found if not is_verdict(run.settings)]
    return source_of(runs, root.name, reported="the step of wandb.log")


def read_file(file: Path) -> LoggedRun:
    """Return the run of one file, up to where it was cut off.

    Raises:
        UserError: it isn't W&B's.
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
    if facts["status"] != "running":
        facts["status"] = settings.get(_STATUS, facts["status"])
    settings = {name: value for name, value in settings.items() if name not in ("_wandb", _STATUS)}
    return LoggedRun(run=file.stem.removeprefix("run-"), settings=settings, facts=facts, evaluations=evaluations)


def _without_id(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != TRIAL_ID}


def is_verdict(settings: Mapping[str, Any]) -> bool:
    """Whether a run that this package has sent holds a study's verdict, and nothing was trained."""
    return {"study", "version"} <= settings.keys() and TRIAL_ID not in settings


def _items(items: Any) -> dict[str, Any]:
    found = {}
    for item in items:
        with contextlib.suppress(ValueError):
            found[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    return found


def records_of(file: Path) -> Iterator[bytes]:
    """Yield the records of a file, up to where it was cut off."""
    data = file.read_bytes()
    if not data.startswith(_MAGIC) and data:  # an empty one is of a run that was killed at its start
        raise UserError(f"{file}: no W&B run: it doesn't begin as one")
    place, parts = _HEADER, bytearray()
    while place + _FRAGMENT.size <= len(data):
        left = _BLOCK - place % _BLOCK
        if left < _FRAGMENT.size:  # the end of a block is filled with zeroes
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
