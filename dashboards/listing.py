"""The state of the table of runs as the address stores it: filters, order, columns, and runs selected for comparison.

The filter of a column is written ``COLUMN:KIND:VALUE``, with a second value for a range and alternatives separated by
``|``. All filters must hold, also several of one column. ``page.js`` writes the same text from the grid's model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

MOST_CHOSEN = 12
"""Largest number of runs side by side: as many lines as a reader can distinguish."""
_MAX_ITEMS = 64
_COLUMN = re.compile(r"[^:|\x00-\x1f]{1,110}")
_VALUE = re.compile(r"[^\x00-\x1f]{1,200}")
_ID = re.compile(r"[0-9a-f]{16}")
KINDS: Mapping[str, tuple[int, str]] = {
    "equals": (1, "is"),
    "notEqual": (1, "is not"),
    "contains": (1, "contains"),
    "notContains": (1, "does not contain"),
    "startsWith": (1, "begins with"),
    "endsWith": (1, "ends with"),
    "lessThan": (1, "<"),
    "lessThanOrEqual": (1, "≤"),
    "greaterThan": (1, ">"),
    "greaterThanOrEqual": (1, "≥"),
    "inRange": (2, "is between"),
    "blank": (0, "is empty"),
    "notBlank": (0, "is not empty"),
}
"""The grid's name of a filter type -> its number of values, and its text."""


@dataclass(frozen=True, order=True)
class Condition:
    """One of the alternatives of a filter."""

    kind: str
    operands: tuple[str, ...] = ()


@dataclass(frozen=True, order=True)
class Where:
    """A filter of a column: at least one of the alternatives must hold."""

    column: str
    any_of: tuple[Condition, ...]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The state of the table; the default shows everything in the usual order."""

    where: tuple[Where, ...] = ()
    sort: tuple[tuple[str, bool], ...] = ()
    """(column, descending) pairs, most significant first."""
    columns: tuple[str, ...] = ()
    """Columns to show; if empty, the usual ones."""
    chosen: tuple[str, ...] = ()
    """Ids of the runs side by side."""


def parse_listing(given: Mapping[str, Sequence[str]]) -> Listing:
    """Return the listing in the values of an address; invalid values are ignored."""
    where = (parse_where(text) for text in given.get("where", [])[:_MAX_ITEMS])
    sort = {
        text.removesuffix(":desc"): text.endswith(":desc")
        for text in given.get("sort", [])[:_MAX_ITEMS]
        if _COLUMN.fullmatch(text.removesuffix(":desc"))
    }
    columns = [text for text in given.get("column", [])[:_MAX_ITEMS] if _COLUMN.fullmatch(text)]
    chosen = [text for text in given.get("chosen", [])[:_MAX_ITEMS] if _ID.fullmatch(text)]
    return Listing(
        where=tuple(dict.fromkeys(one for one in where if one is not None)),
        sort=tuple(sort.items()),
        columns=tuple(dict.fromkeys(columns)),
        chosen=tuple(dict.fromkeys(chosen))[:MOST_CHOSEN],
    )


def listing_pairs(listing: Listing) -> list[tuple[str, object]]:
    """Return the names and values that `parse_listing` reads."""
    return [
        *(("where", where_text(one)) for one in listing.where),
        *(("sort", f"{name}:desc" if descending else name) for name, descending in listing.sort),
        *(("column", name) for name in listing.columns),
        *(("chosen", run) for run in listing.chosen),
    ]


def parse_where(text: str) -> Where | None:
    """Parse a filter as `where_text` writes it; None if it is invalid."""
    column, _, rest = text.partition(":")
    if not _COLUMN.fullmatch(column):
        return None
    found = []
    for part in rest.split("|")[:_MAX_ITEMS]:
        kind, *values = (unquote(field) for field in part.split(":"))
        if kind not in KINDS or len(values) != KINDS[kind][0] or not all(map(_VALUE.fullmatch, values)):
            return None
        found.append(Condition(kind, tuple(values)))
    return Where(column, tuple(dict.fromkeys(found)))


def where_text(where: Where) -> str:
    """Return the text of a filter."""
    alternatives = (":".join((each.kind, *(quote(v, safe=" ") for v in each.operands))) for each in where.any_of)
    return f"{where.column}:{'|'.join(alternatives)}"


def grid_model(where: Collection[Where], numeric: Collection[str]) -> dict[str, Any]:
    """Return the grid's filter model; `numeric` are the columns of numbers."""
    model: dict[str, Any] = {}
    for one in where:
        of_numbers = one.column in numeric
        conditions = [found for each in one.any_of if (found := _condition(each, of_numbers=of_numbers)) is not None]
        if not conditions:
            continue
        kind = conditions[0]["filterType"]
        several = {"filterType": kind, "operator": "OR", "conditions": conditions}
        own = conditions[0] if len(conditions) == 1 else several
        if one.column in model:  # the grid's format for two filters that must both hold
            before = model[one.column]
            own = {"filterType": kind, "operator": "AND", "conditions": [before, own]}
        model[one.column] = own
    return model


def _condition(condition: Condition, *, of_numbers: bool) -> dict[str, Any] | None:
    values: list[Any] = list(condition.operands)
    if of_numbers:
        try:
            values = [float(value) for value in values]
        except ValueError:
            return None
        if not all(map(math.isfinite, values)):
            return None
    names = ("filter", "filterTo")
    return {
        "filterType": "number" if of_numbers else "text",
        "type": condition.kind,
        **dict(zip(names, values, strict=False)),
    }


def in_words(where: Where, label: str) -> str:
    """Return a filter in words."""
    texts = []
    for each in where.any_of:
        words = KINDS[each.kind][1]
        texts.append(" ".join((words, " and ".join(each.operands))).strip())
    same = {each.kind for each in where.any_of} == {"equals"}
    text = "is " + " or ".join(each.operands[0] for each in where.any_of) if same else " or ".join(texts)
    return f"{label} {text}"
