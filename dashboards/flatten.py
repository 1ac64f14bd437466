"""Analysis results as rows: one row an item, or one row a part of it, with the item's own scalars before."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dashboards.blocks import Table
from sensitivity.analysis.estimates import Estimate
from sensitivity.study.metrics import Metric


def flatten(items: Sequence[Any], *, parts: str = "", columns: Sequence[str] = ()) -> Table:
    """Return the table of `items`, dataclasses of one kind.

    `parts` names a field with a tuple of dataclasses, each of which becomes a row; `columns` name fields with one
    value a row,.
    """
    rows: list[dict[str, object]] = []
    for item in items:
        own = _scalars(item)
        if parts:
            rows += [{**own, **_scalars(part)} for part in getattr(item, parts)]
        elif columns:
            values = [getattr(item, name) for name in columns]
            rows += [{**own, **dict(zip(columns, entry, strict=True))} for entry in zip(*values, strict=True)]
        else:
            rows.append(own)
    return _table(rows)


def flatten_arrays(items: Sequence[Any], over: tuple[str, str], columns: Sequence[str]) -> Table:
    """Return one row an entry of arrays [a, b], where `over` names the fields that hold a and b."""
    rows: list[dict[str, object]] = []
    for item in items:
        own = _scalars(item)
        for i, a in enumerate(getattr(item, over[0])):
            for j, b in enumerate(getattr(item, over[1])):
                entry = {name: float(np.asarray(getattr(item, name))[i, j]) for name in columns}
                rows.append({**own, over[0]: a, over[1]: b, **entry})
    return _table(rows)


def _table(rows: Sequence[Mapping[str, object]]) -> Table:
    header = list(dict.fromkeys(name for row in rows for name in row))
    return Table(
        header=tuple(name.replace("_", " ") for name in header),
        rows=[[row.get(name) for name in header] for row in rows],
    )


def _scalars(item: Any) -> dict[str, object]:
    found: dict[str, object] = {}
    for field in dataclasses.fields(item):
        value = getattr(item, field.name)
        if isinstance(value, Metric):
            found[field.name] = value.name
        elif isinstance(value, Estimate):
            found[field.name] = value.value
            if value.interval is not None:
                found[f"{field.name} low"], found[f"{field.name} high"] = value.interval
            found[f"{field.name} n"] = value.n
        elif isinstance(value, (str, bool, int, float)):
            found[field.name] = value
        elif isinstance(value, tuple) and value and all(_is_pair(entry) for entry in value):
            found |= {str(name): number for name, number in value}
    return found


def _is_pair(entry: object) -> bool:
    return isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str)
