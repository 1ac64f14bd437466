"""Notes and tags that people give to runs, as amendments: each is added, and none is ever changed.

What a run is noted with now follows from all of its amendments, in the order of their ids. A note says which notes its
writer saw and replaces; two that were written at once replace neither each other nor what the other replaced twice, so
both stand. Tags are added and removed one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

from sensitivity.study.amendments import Amendment
from sensitivity.study.errors import UserError

MOST_NOTE = 4_000
"""Characters of a note."""
MOST_TAG = 40
MOST_TAGS = 20
"""Of a run, and of one amendment."""


def _one_line(tag: str) -> str:
    if tag != tag.strip() or "," in tag or not tag.isprintable():
        raise ValueError("a tag is a word or a few on one line, without a comma")
    return tag


Tag = Annotated[str, Field(min_length=1, max_length=MOST_TAG), AfterValidator(_one_line)]
Id = Annotated[str, Field(pattern=r"^[0-9]{16}-[0-9a-f]{8}$")]
"""Microseconds since the epoch, and eight hex digits that no other writer has."""


class Annotation(Amendment):
    """What was noted of a run at one time."""

    run: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    note: Annotated[str, Field(max_length=MOST_NOTE)] | None = None
    """A new note; empty to delete what it replaces, None to leave the notes as they are."""
    replaces: tuple[Id, ...] = ()
    """The notes that its writer saw."""
    tags: Annotated[tuple[Tag, ...], Field(max_length=MOST_TAGS)] = ()
    """Added."""
    removed: Annotated[tuple[Tag, ...], Field(max_length=MOST_TAGS)] = ()


@dataclass(frozen=True, kw_only=True)
class Noted:
    """What is noted of a run now."""

    note: str = ""
    ids: tuple[str, ...] = ()
    """The notes that it consists of: several where they were written at once."""
    tags: tuple[str, ...] = ()
    """In alphabetical order."""


NOTHING_NOTED = Noted()


def noted(annotations: Mapping[str, Annotation]) -> dict[str, Noted]:
    """Return what is noted of each run, by its id, from all amendments by theirs."""
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
    """Return the tags that a text names, separated by commas.

    Raises:
        UserError: too many, or one that is too long.
    """
    found = tuple(dict.fromkeys(" ".join(part.split()) for part in text.split(",") if part.strip()))
    if len(found) > MOST_TAGS:
        raise UserError(f"{len(found)} tags; a run has {MOST_TAGS} at most")
    for tag in found:
        if len(tag) > MOST_TAG or not tag.isprintable():
            raise UserError(f"the tag {tag[:MOST_TAG]!r}...: a tag is a word or a few, {MOST_TAG} characters at most")
    return found
