"""The ``list`` command."""

from __future__ import annotations

import os

from sensitivity.cli.json_output.base import json_text
from sensitivity.cli.json_output.studies import StudyOutput, UnreadableOutput
from sensitivity.figures.settled_words import standing_in_words
from sensitivity.store.counting import read_counts
from sensitivity.store.directory import Place, place
from sensitivity.store.reader import studies
from sensitivity.study.errors import UserError
from sensitivity.study.paths import STUDIES
from sensitivity.study.results import Status


def show_studies(root: str | None, *, as_json: bool) -> None:
    """Print each study below `root` with its counts, or with its error if it can't be read.

    If no folder was given and the default one doesn't exist, there are no studies, which is not an error.

    Raises:
        UserError: the given folder doesn't exist.
    """
    where = place(STUDIES if root is None else root)
    if root is not None and where.is_local and not os.path.isdir(where.path):  # noqa: PTH112 - Path's may raise
        there = os.path.exists(where.path)  # noqa: PTH110
        message = f"{root}: {'a file, not a folder' if there else 'no such folder'}"
        raise UserError(f"{message}\n  Give a folder of studies; `sensitivity run quickstart` creates one")
    found = [_study(directory) for directory in studies(where)]
    if as_json:
        print(json_text(found))
        return
    if not found:
        print(f"no studies below {root or STUDIES}; `sensitivity run quickstart` creates one")
        return
    names = ("study", "planned", *Status, "settlement", "directory")
    readable = [each for each in found if isinstance(each, StudyOutput)]
    lines = [names, *(tuple(_shown(each, name) for name in names) for each in readable)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:  # not a rich table, which cuts or wraps paths so that they can't be copied
        padded = [text.rjust(width) for text, width in zip(line, widths, strict=True)]
        print("  ".join([line[0].ljust(widths[0]), *padded[1:-1], line[-1]]))
    for each in found:
        if isinstance(each, UnreadableOutput):
            print(each.error)


def _shown(study: StudyOutput, name: str) -> str:
    if name == "settlement":
        counts = ", ".join(f"{n:,} {status}" for status, n in study.settlement_by_status.items())
        return ": ".join(filter(None, (standing_in_words(study.settlement, study.settlement_runs), counts))) or "-"
    return str(getattr(study, name))


def _study(directory: Place) -> StudyOutput | UnreadableOutput:
    try:
        study = read_counts(directory)
    except UserError as error:
        return UnreadableOutput(study=directory.path.rpartition("/")[2], directory=directory.uri, error=str(error))
    ledger = study.ledger
    shown = {
        "study": study.manifest.spec.name,
        "directory": directory.uri,
        "planned": study.planned,
        "settlement": None if ledger is None else ledger.standing,
        "settlement_runs": sum(study.settling.values()),
        "settlement_by_status": {status: n for status in Status if (n := study.settling.get(status.value))},
    }
    return StudyOutput.model_validate(shown | {status.value: study.by_status.get(status.value, 0) for status in Status})
