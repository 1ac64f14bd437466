"""The ``list`` command's work."""

from __future__ import annotations

import json

from rich.console import Console
from rich.table import Table

from sensitivity.store.directory import Place, place
from sensitivity.store.reader import read_study, studies
from sensitivity.study.errors import UserError
from sensitivity.study.results import Status


def show_studies(root: str, *, as_json: bool) -> None:
    """Print each study below `root` with its counts; one that can't be read has its error instead."""
    rows = [_row(directory) for directory in studies(place(root))]
    if as_json:
        print(json.dumps(rows))
        return
    console = Console()
    if not rows:
        console.print(f"no studies below {root}; `sensitivity run quickstart` makes one", soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("study", "planned", *Status, "directory"):
        table.add_column(
            name, justify="left" if name in ("study", "directory") else "right", overflow="fold", min_width=len(name)
        )
    for row in rows:
        if "error" in row:
            table.add_row(str(row["study"]), *[""] * (len(Status) + 1), str(row["error"]))
        else:
            table.add_row(*(str(row[name]) for name in ("study", "planned", *Status, "directory")))
    console.print(table)


def _row(directory: Place) -> dict[str, object]:
    try:
        study = read_study(directory)
    except UserError as error:
        return {"study": directory.path.rpartition("/")[2], "directory": directory.uri, "error": str(error)}
    counts = study.runs["status"].value_counts()
    return {
        "study": study.manifest.spec.name,
        "directory": directory.uri,
        "planned": len(study.runs),
        **{status.value: int(counts.get(status.value, 0)) for status in Status},
    }
