"""The ``figure`` command: lists the exhibits of a study, prints one, or writes one to a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sensitivity.analysis.evaluations import read_tables
from sensitivity.analysis.study_results import StudyResults
from sensitivity.cli.display import shown_file, table_lines
from sensitivity.figures import catalogue
from sensitivity.figures.data import Data
from sensitivity.figures.exhibit import Computed
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.figures.tables import Table
from sensitivity.figures.theme import LIGHT
from sensitivity.report import render_exhibit
from sensitivity.report.images import FORMATS, write_image
from sensitivity.store.directory import place
from sensitivity.store.record import refuse_record
from sensitivity.study.errors import UserError
from sensitivity.study.whole_files import Written, refuse_unwritable, write_output

_OF_FIGURES = (*FORMATS, "json")
_SUFFIXES = ("html", *_OF_FIGURES, "csv")


def show_figure(study_dir: str, name: str | None, options: Sequence[str], output: Path | None) -> Iterator[str]:
    """Write an exhibit to a file in the format given by its suffix; yield what was written, or the exhibit's tables.

    Without a name, list the exhibits with their options. Without a file, an exhibit that consists of tables is printed,
    and any other is written to a file of its name in the current folder.

    Raises:
        UserError: the study can't be read, the exhibit has nothing to show, or another argument is invalid.
    """
    chosen = _options(options)
    if name is not None:
        exhibit = catalogue.find(name)
        if output is not None:
            _check_suffix(output, _SUFFIXES if exhibit.draw else tuple(s for s in _SUFFIXES if s not in _OF_FIGURES))
    elif output is not None:
        raise UserError(f"{output}: name an exhibit to write to it, such as {catalogue.EXHIBITS[0].name}")
    results = StudyResults(read_tables(place(study_dir)))
    if name is None:
        yield from _listed(results)
        return
    try:
        found = catalogue.show(results, name, **chosen)
        if output is None and exhibit.draw is None:
            yield from _printed(found)
            return
        target = output or Path(f"{found.name}.html")
        if output is None:
            _check_suffix(target, _SUFFIXES)
        written = _write(found, results.spec.name, target)
    except NothingToShowError as error:
        raise UserError(f"{study_dir}: {name} has nothing to show\n  {error}") from None
    yield f"{found.name}: {shown_file(written)}"


def _options(given: Sequence[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for each in given:
        option, sign, key = each.partition("=")
        if not (option and sign and key) or option in options:
            why = "is given twice" if option in options else "is not of the form OPTION=VALUE"
            raise UserError(
                f"the option {each!r} {why}\n"
                "  Give for example optimizer=sgd; `sensitivity figure STUDY_DIR` lists exhibits with their options"
            )
        options[option] = key
    return options


def _check_suffix(target: Path, suffixes: Sequence[str]) -> None:
    if target.suffix.lower()[1:] not in suffixes:
        allowed = ", ".join(f".{suffix}" for suffix in suffixes)
        raise UserError(f"{target}: the suffix of the file must give its format\n  Use one of: {allowed}")
    refuse_record(target)
    refuse_unwritable(target)


def _write(found: Computed[Any], study: str, target: Path) -> Written:
    suffix = target.suffix.lower()[1:]
    if suffix == "csv":
        return write_output(target, _csv(found.data))
    figure = found.figure(LIGHT)  # raises if there is nothing to draw
    if suffix == "json" and figure is not None:
        return write_output(target, str(figure.to_json()).encode())
    page = render_exhibit(found, study)
    if suffix == "html":
        return write_output(target, page.html.encode())
    return write_image(page.figures[found.name], target)


def _csv(data: Data) -> bytes:
    return "".join(",".join(row) + "\r\n" for row in data.fields()).encode()


def _listed(results: StudyResults) -> Iterator[str]:
    yield f"{results.spec.name}: `sensitivity figure STUDY_DIR NAME [OPTION=VALUE ...] [-o FILE]` shows one of"
    width = max(len(exhibit.name) for exhibit in catalogue.EXHIBITS)
    for exhibit in catalogue.EXHIBITS:
        kind = "" if exhibit.draw else " (a table)"
        yield f"{exhibit.name.ljust(width)}  {exhibit.title}{kind}"
        for option, values in exhibit.values(results).items():
            yield f"{'':{width}}    {option}={'|'.join(values) or 'none here'}"


def _printed(found: Computed[Any]) -> Iterator[str]:
    for table in found.tables:
        yield from _lines(table)
    yield from found.notes


def _lines(table: Table) -> Iterator[str]:
    yield table.caption
    yield from table_lines(table.header, table.rows, table.text_columns)
