"""``notes/``: what people note of runs, an amendment a file, beside the results and never among them.

A file is written whole, under a name that no other writer gives, and never changed: any number of writers add to the
folder at once, without a lock, and none loses what another wrote.
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
MOST_NOTES = 10_000
"""Amendments of a study: more are a fault of some program, and would slow every reader down."""
_SUFFIX = ".json"
_FILE = re.compile(rf"([0-9]{{16}}-[0-9a-f]{{8}}){re.escape(_SUFFIX)}")


def note_parts(directory: Place) -> tuple[str, ...]:
    """Return the names of all amendments, in order.

    Raises:
        StorageError: the place can't be read.
    """
    return tuple(name for name in directory.child(NOTES).files(_SUFFIX) if _FILE.fullmatch(name))


def read_notes(directory: Place, kept: MutableMapping[str, Annotation | None] | None = None) -> dict[str, Noted]:
    """Return what is noted of each run, by its id.

    Amendments never change: those that `kept` holds are not read again, and new ones are added. One that is damaged is
    left out with a warning, because no result depends on it.

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
                logger.warning("%s: damaged (%s), and left out", folder.uri_of(name), error.errors()[0]["msg"])
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
    """Add a note to a run, or tags, or remove some of them.

    Args:
        directory: of the study.
        run: its id, the ``trial_id`` of the table of runs.
        note: replaces the notes that were seen; empty to delete them, None to leave them.
        tags: to be added.
        untag: tags to be removed.
        seen: ids of the notes that it replaces; by default those that stand now.

    Raises:
        UserError: the note is too long, a tag is none, or there are too many already.
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
    if annotation == Annotation(run=run):  # nothing is said
        return
    if len(note_parts(directory)) >= MOST_NOTES:
        raise UserError(f"{directory.child(NOTES).uri}: has {MOST_NOTES:,} notes\n  Delete those that nobody needs")
    name = f"{time.time_ns() // 1000:016d}-{uuid.uuid4().hex[:8]}{_SUFFIX}"
    directory.child(NOTES).write(name, annotation.model_dump_json(exclude_defaults=True).encode())


def _mistake(first: Mapping[str, Any]) -> str:
    """Return a mistake in an amendment in words."""
    where, most = first["loc"][0], first.get("ctx", {}).get("max_length")
    if first["type"] == "too_long":
        return f"{where}: {most} at most"
    if first["type"] == "string_too_long":
        return f"{where}: {most:,} characters at most"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"
