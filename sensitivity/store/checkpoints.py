"""Checkpoints of packs in training, so that the work of a lost worker or driver is not repeated.

A checkpoint is one file, ``checkpoints/<pack id>.checkpoint``: a line of JSON that says whose it is, and then bytes
that this room does not look into. The line stands in front, so that a driver that cuts packs anew can keep those that
have a checkpoint as they are without reading parameters. A pack's later checkpoint replaces its earlier one.
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
_MOST_HEADER_BYTES = 2**20
"""A line of 1,024 trial ids takes 20 kB."""


@dataclass(frozen=True, kw_only=True)
class CheckpointHeader:
    """The pack and the study that a checkpoint belongs to."""

    trials: tuple[str, ...]
    """Ids of the pack's trials, in order."""
    step: int
    """Steps trained."""
    code_version: str
    torch: str
    """Version of PyTorch. Another one, or other code, might go on in another way."""


def write_checkpoint(directory: Place, pack_id: str, header: CheckpointHeader, payload: bytes) -> None:
    """Replace a pack's last checkpoint atomically.

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
    """Remove a pack's checkpoint if it exists; one that can't be removed is left to the next sweep."""
    try:
        directory.delete(_name(pack_id))
    except StorageError as error:
        logger.warning("%s", error)


def sweep_checkpoints(directory: Place, missing: AbstractSet[str]) -> tuple[tuple[str, ...], ...]:
    """Remove checkpoints that can't be resumed; return the trials of each remaining one, most steps first.

    One stays if all its trials are in `missing` and in no other that stays. A damaged one is left to its pack.

    Raises:
        StorageError: the place can't be read.
    """
    headers = []
    for file in directory.child(CHECKPOINTS).files(_SUFFIX):
        start = directory.read_start(f"{CHECKPOINTS}/{file}", _MOST_HEADER_BYTES)
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
