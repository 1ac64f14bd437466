"""The ``list`` command's work."""

from __future__ import annotations

import json

from sensitivity.store.directory import Place, place
from sensitivity.store.reader import read_counts, studies
from sensitivity.study.errors import UserError
from sensitivity.study.results import Status


def show_studies(root: str, *, as_json: bool) -> None:
    """Print each study below `root` with its counts; one that can't be read has its error instead."""
    rows = [_row(directory) for directory in studies(place(root))]
    if as_json:
        print(json.dumps(rows))
        return
    if not rows:
        print(f"no studies below {root}; `sensitivity run quickstart` makes one")
        return
    names = ("study", "planned", *Status, "directory")
    lines = [names, *(tuple(str(row[name]) for name in names) for row in rows if "error" not in row)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:  # not a table of rich's: a path that is cut or wrapped can't be copied
        padded = [text.rjust(width) for text, width in zip(line, widths, strict=True)]
        print("  ".join([line[0].ljust(widths[0]), *padded[1:-1], line[-1]]))
    for row in rows:
        if "error" in row:
            print(row["error"])


def _row(directory: Place) -> dict[str, object]:
    try:
        study = read_counts(directory)
    except UserError as error:
        return {"study": directory.path.rpartition("/")[2], "directory": directory.uri, "error": str(error)}
    return {
        "study": study.manifest.spec.name,
        "directory": directory.uri,
        "planned": study.planned,
        **{status.value: study.by_status.get(status.value, 0) for status in Status},
    }
