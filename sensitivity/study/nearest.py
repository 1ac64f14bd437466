"""Suggestions for misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the closest match to `name` in `known`, ignoring case; None if none is close.

    `cutoff` is the least similarity, from 0 to 1, of ``difflib``.

    >>> nearest("momentun", ["momentum", "damping"])
    'momentum'
    """
    folded: dict[str, str] = {}
    for each in known:
        folded.setdefault(each.casefold(), each)
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=cutoff)
    return folded[close[0]] if close else None
