"""Texts and tables as columns, which compress to two thirds of what they take row by row.

The texts that appear on hovering over a figure are many of one form, with other numbers: "best of 2 trials: 0.209"
and "best of 3 trials: 0.187" are the form "best of # trials: #" with the columns "2|3" and "0.209|0.187". The page puts
them together again (``page.js``); nothing is lost.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

_NUMBER = re.compile(r"\d[\d.,]*(?:e[+-]?\d+)?")
_HOLE, _BETWEEN = "\x01", "|"
_FIELD, _COLUMN = "\x1f", "\x1e"


def fold_texts(texts: Sequence[Any]) -> dict[str, Any]:
    """Return the forms of texts, which form each has, and their numbers by form and place.

    `texts` are strings, or rows of equally many, whose `width` is then above 0.
    """
    nested = bool(texts) and not isinstance(texts[0], str)
    rows: Sequence[Sequence[str]] = texts if nested else [texts]
    forms: dict[str, int] = {}
    columns: list[list[list[str]]] = []
    which = []
    for text in chain.from_iterable(rows):
        numbers = _NUMBER.findall(text)
        form = forms.setdefault(_NUMBER.sub(_HOLE, text), len(forms))
        if form == len(columns):
            columns.append([[] for _ in numbers])
        which.append(form)
        for column, value in zip(columns[form], numbers, strict=True):
            column.append(value)
    return {
        "forms": list(forms),
        "which": which,
        "columns": [[_BETWEEN.join(column) for column in of_form] for of_form in columns],
        "width": len(rows[0]) if nested else 0,
    }


def fold_rows(rows: Sequence[Sequence[str]]) -> str:
    """Return a table of CSV fields by column."""
    return _COLUMN.join(_FIELD.join(column) for column in zip(*rows, strict=True))
