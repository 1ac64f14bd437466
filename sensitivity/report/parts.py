"""Parts of a page. Python decides what is shown; ``templates/parts.html`` renders it and escapes every text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from sensitivity.figures.tables import Table
from sensitivity.figures.verdict_words import Answer
from sensitivity.report.embed import Embedded


@dataclass(frozen=True, kw_only=True)
class Exhibited:
    """A figure, tables, or both, with their data and notes on how to read them."""

    kind: ClassVar = "exhibited"
    embedded: Embedded | None = None
    """The figure and its data, or the data alone."""
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Nothing:
    """Reasons why there is nothing to show, one paragraph each."""

    kind: ClassVar = "nothing"
    texts: Sequence[str]


@dataclass(frozen=True)
class Answers:
    """Verdicts side by side."""

    kind: ClassVar = "answers"
    answers: Sequence[Answer]


@dataclass(frozen=True)
class Paragraph:
    """A paragraph."""

    kind: ClassVar = "paragraph"
    text: str
    muted: bool = False


@dataclass(frozen=True)
class Details:
    """Verbatim text that unfolds below a summary."""

    kind: ClassVar = "details"
    summary: str
    text: str


@dataclass(frozen=True)
class View:
    """One of several alternatives, of which one is shown at a time."""

    key: str
    label: str
    parts: Sequence[Part]


@dataclass(frozen=True, kw_only=True)
class Tabs:
    """Alternative views of which one is shown at a time; all tabs of one group switch together."""

    kind: ClassVar = "tabs"
    group: str
    label: str
    """Text that says what is chosen."""
    views: Sequence[View]
    switch: bool = True
    """Whether it has buttons; otherwise another switch of the group controls it."""


Part = Exhibited | Nothing | Answers | Paragraph | Details | Tabs


@dataclass(frozen=True, kw_only=True)
class PageSection:
    """A section of the page."""

    id: str
    title: str
    short: str = ""
    """Title in the table of contents."""
    introduction: str = ""
    parts: Sequence[Part]


def tabs(group: str, label: str, views: Sequence[View], *, switch: bool = True) -> tuple[Part, ...]:
    """Return views behind tabs; a single view is returned without tabs."""
    if len(views) < 2:
        return tuple(part for view in views for part in view.parts)
    return (Tabs(group=group, label=label, views=views, switch=switch),)
