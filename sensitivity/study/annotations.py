"""User notes and tags on runs, stored as append-only amendments.

The current notes and tags of a run follow from all its amendments in the order of their ids. A new note lists the notes
that its author saw, which it replaces. Two notes written concurrently do not replace each other, so both are kept. Tags
are added and removed one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

from sensitivity.study.amendments import Amendment
from sensitivity.study.errors import UserError

MOST_NOTE = 4_000
"""Maximum number of characters of a note."""
MOST_TAG = 40
MOST_TAGS = 20
"""Maximum number of tags of a run, and of one amendment."""


def _one_line(tag: str) -> str:
    if tag != tag.strip() or "," in tag or not tag.isprintable():
        raise ValueError("a tag is one or more words on one line, without a comma")
    return tag


Tag = Annotated[str, Field(min_length=1, max_length=MOST_TAG), AfterValidator(_one_line)]
Id = Annotated[str, Field(pattern=r"^[0-9]{16}-[0-9a-f]{8}$")]
"""Microseconds since the epoch, followed by eight hex digits that are unique to the writer."""


class Annotation(Amendment):
    """One change to the notes and tags of a run."""

    run: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    note: Annotated[str, Field(max_length=MOST_NOTE)] | None = None
    """A new note; an empty one deletes the notes it replaces, and None leaves the notes unchanged."""
    replaces: tuple[Id, ...] = ()
    """Ids of the notes that the author saw, which this one replaces."""
    tags: Annotated[tuple[Tag, ...], Field(max_length=MOST_TAGS)] = ()
    """Tags to add."""
    removed: Annotated[tuple[Tag, ...], Field(max_length=MOST_TAGS)] = ()


@dataclass(frozen=True, kw_only=True)
class Noted:
    """The current notes and tags of a run."""

    note: str = ""
    ids: tuple[str, ...] = ()
    """Ids of the current notes; more than one if notes were written concurrently."""
    tags: tuple[str, ...] = ()
    """In alphabetical order."""


NOTHING_NOTED = Noted()


def noted(annotations: Mapping[str, Annotation]) -> dict[str, Noted]:
    """Return the current notes and tags by run id, given all amendments by amendment id."""
    by_run: dict[str, list[tuple[str, Annotation]]] = {}
    for name in sorted(annotations):
        by_run.setdefault(annotations[name].run, []).append((name, annotations[name]))
    return {run: _of_run(found) for run, found in by_run.items()}


def _of_run(annotations: Iterable[tuple[str, Annotation]]) -> Noted:
    notes: dict[str, str] = {}
    replaced: set[str] = set()
    tags: set[str] = set()
    for name, each in annotations:
        if each.note is not None:
            notes[name] = each.note
            replaced.update(each.replaces)
        tags = (tags | set(each.tags)) - set(each.removed)
    standing = {name: text for name, text in notes.items() if name not in replaced and text}
    return Noted(
        note="\n".join(standing.values()),
        ids=tuple(standing),
        tags=tuple(sorted(tags, key=lambda t: (t.casefold(), t))),
    )


def parse_tags(text: str) -> tuple[str, ...]:
    """Return the comma-separated tags of a text.

    Raises:
        UserError: there are too many tags, or a tag is too long.
    """
    found = tuple(dict.fromkeys(" ".join(part.split()) for part in text.split(",") if part.strip()))
    if len(found) > MOST_TAGS:
        raise UserError(f"{len(found)} tags; a run can have at most {MOST_TAGS}")
    for tag in found:
        if len(tag) > MOST_TAG or not tag.isprintable():
            raise UserError(f"the tag {tag[:MOST_TAG]!r}...: a tag is one or more words, {MOST_TAG} characters at most")
    return found
