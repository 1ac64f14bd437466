"""Checkpoints of packs in training, so that the work of a lost worker or driver is not repeated.

A checkpoint is one file, ``checkpoints/<pack id>.checkpoint``: one line of JSON that identifies the pack, followed by
opaque bytes. A driver reads the line, without the parameters, to keep packs that have a checkpoint when it groups
trials into packs again. A later checkpoint of a pack replaces the earlier one.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass

from sensitivity.store.directory import Place
from sensitivity.study.errors import StorageError

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
_SUFFIX = ".checkpoint"
_MAX_HEADER_BYTES = 2**20
"""A header of 1,024 trial ids takes 20 kB."""


@dataclass(frozen=True, kw_only=True)
class CheckpointHeader:
    """The pack and the study that a checkpoint belongs to."""

    trials: tuple[str, ...]
    """Ids of the pack's trials, in order."""
    step: int
    """Steps trained."""
    code_version: str
    torch: str
    """Version of PyTorch. With another version, or other code, training might continue differently."""


def write_checkpoint(directory: Place, pack_id: str, header: CheckpointHeader, payload: bytes) -> None:
    """Write a pack's checkpoint, atomically replacing the previous one.

    Raises:
        StorageError: the place can't be written.
    """
    line = json.dumps({**asdict(header), "sha256": hashlib.sha256(payload).hexdigest()})
    directory.write(_name(pack_id), line.encode() + b"\n" + payload)


def read_checkpoint(directory: Place, pack_id: str) -> tuple[CheckpointHeader, bytes] | None:
    """Return a pack's checkpoint; None if there is none, or if it is damaged (which is logged).

    Raises:
        StorageError: the place can't be read.
    """
    if not directory.exists(_name(pack_id)):
        return None
    line, _, payload = directory.read(_name(pack_id)).partition(b"\n")
    header = _parse(line)
    if header is None or json.loads(line)["sha256"] != hashlib.sha256(payload).hexdigest():
        logger.warning("%s: damaged, not used", directory.uri_of(_name(pack_id)))
        return None
    return header, payload


def delete_checkpoint(directory: Place, pack_id: str) -> None:
    """Delete a pack's checkpoint if it exists; if that fails, the next sweep deletes it."""
    try:
        directory.delete(_name(pack_id))
    except StorageError as error:
        logger.warning("%s", error)


def sweep_checkpoints(directory: Place, missing: AbstractSet[str]) -> tuple[tuple[str, ...], ...]:
    """Delete checkpoints that can't be resumed; return the trials of each remaining one, most steps first.

    A checkpoint is kept if all its trials are in `missing` and in no other kept checkpoint. Damaged ones are ignored.

    Raises:
        StorageError: the place can't be read.
    """
    headers = []
    for file in directory.child(CHECKPOINTS).files(_SUFFIX):
        start = directory.read_start(f"{CHECKPOINTS}/{file}", _MAX_HEADER_BYTES)
        if (header := _parse(start.partition(b"\n")[0])) is not None:
            headers.append((header, file.removesuffix(_SUFFIX)))
    kept: list[tuple[str, ...]] = []
    taken: set[str] = set()
    for header, pack_id in sorted(headers, key=lambda pair: (-pair[0].step, pair[1])):
        if missing >= set(header.trials) and taken.isdisjoint(header.trials):
            kept.append(header.trials)
            taken.update(header.trials)
        else:
            delete_checkpoint(directory, pack_id)
    return tuple(kept)


def _name(pack_id: str) -> str:
    return f"{CHECKPOINTS}/{pack_id}{_SUFFIX}"


def _parse(line: bytes) -> CheckpointHeader | None:
    try:
        content = json.loads(line)
        return CheckpointHeader(
            trials=tuple(str(trial) for trial in content["trials"]),
            step=int(content["step"]),
            code_version=str(content["code_version"]),
            torch=str(content["torch"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
