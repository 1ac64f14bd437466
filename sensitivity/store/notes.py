"""``notes/``: users' notes and tags of runs, one file per amendment, separate from the results.

A file is written atomically under a unique name and never changes. Any number of writers can add files at the same
time, without a lock, and none overwrites the files of another.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Collection, Mapping, MutableMapping
from typing import Any

from pydantic import ValidationError

from sensitivity.store.directory import Place
from sensitivity.study.annotations import NOTHING_NOTED, Annotation, Noted, noted
from sensitivity.study.errors import UserError

logger = logging.getLogger(__name__)

NOTES = "notes"
MAX_NOTES = 10_000
"""Most amendments of a study: more indicate an error of some program, and would slow down every reader."""
_SUFFIX = ".json"
_FILE = re.compile(rf"([0-9]{{16}}-[0-9a-f]{{8}}){re.escape(_SUFFIX)}")


def note_parts(directory: Place) -> tuple[str, ...]:
    """Return the names of all amendments, in order.

    Raises:
        StorageError: the place can't be read.
    """
    return tuple(name for name in directory.child(NOTES).files(_SUFFIX) if _FILE.fullmatch(name))


def read_notes(directory: Place, kept: MutableMapping[str, Annotation | None] | None = None) -> dict[str, Noted]:
    """Return the notes and tags of each run, by its id.

    Amendments never change: those in the cache `kept` are not read again, and new ones are added to it. A damaged one
    is skipped with a warning, because no result depends on it.

    Raises:
        StorageError: the place can't be read.
    """
    kept = {} if kept is None else kept
    folder = directory.child(NOTES)
    names = note_parts(directory)
    for name in names:
        if name not in kept:
            try:
                kept[name] = Annotation.model_validate_json(folder.read(name))
            except ValidationError as error:
                logger.warning("%s: damaged (%s); skipped", folder.uri_of(name), error.errors()[0]["msg"])
                kept[name] = None
    found = {name: kept[name] for name in names}
    return noted({name.removesuffix(_SUFFIX): each for name, each in found.items() if each is not None})


def write_note(
    directory: Place,
    run: str,
    *,
    note: str | None = None,
    tags: Collection[str] = (),
    untag: Collection[str] = (),
    seen: Collection[str] | None = None,
) -> None:
    """Write a note of a run, or add and remove tags.

    Args:
        directory: study directory.
        run: id of the run, the ``trial_id`` of the table of runs.
        note: text that replaces the notes in `seen`; empty to delete them, None to keep them.
        tags: tags to add.
        untag: tags to remove.
        seen: ids of the notes to replace; by default the current ones.

    Raises:
        UserError: the note is too long, a tag is not valid, or there are too many notes.
        StorageError: the place can't be written.
    """
    if seen is None:
        seen = read_notes(directory).get(run, NOTHING_NOTED).ids
    try:
        annotation = Annotation(
            run=run, note=note, replaces=tuple(seen if note is not None else ()), tags=tuple(tags), removed=tuple(untag)
        )
    except ValidationError as error:
        raise UserError(_mistake(error.errors()[0])) from None
    if annotation == Annotation(run=run):  # nothing changes
        return
    if len(note_parts(directory)) >= MAX_NOTES:
        raise UserError(
            f"{directory.child(NOTES).uri}: has {MAX_NOTES:,} notes, the most allowed\n  Delete those not needed"
        )
    name = f"{time.time_ns() // 1000:016d}-{uuid.uuid4().hex[:8]}{_SUFFIX}"
    directory.child(NOTES).write(name, annotation.model_dump_json(exclude_defaults=True).encode())


def _mistake(first: Mapping[str, Any]) -> str:
    """Return the message about an invalid field of an amendment."""
    where, most = first["loc"][0], first.get("ctx", {}).get("max_length")
    if first["type"] == "too_long":
        return f"{where}: {most} at most"
    if first["type"] == "string_too_long":
        return f"{where}: {most:,} characters at most"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"
