"""The page: the sections of one study in reading order, of several studies behind a switch, or a single exhibit."""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup

from sensitivity.analysis.evaluations import read_tables
from sensitivity.analysis.settled import OWN_DESIGN_WAITS
from sensitivity.analysis.study_results import StudyResults
from sensitivity.analysis.tables import Tables
from sensitivity.figures.exhibit import Computed
from sensitivity.figures.sections import SECTIONS
from sensitivity.report.embed import Figures
from sensitivity.report.exhibits import StudyPage, exhibited
from sensitivity.report.opening import Opening, opening
from sensitivity.report.parts import Exhibited, Nothing, PageSection, Part
from sensitivity.report.provenance import provenance_section
from sensitivity.report.several import comparison_section, labels
from sensitivity.store.directory import Place
from sensitivity.study.errors import StorageError

_MAX_ROWS = 1000
"""Largest number of rows of a table in the page."""


@dataclass(frozen=True)
class Report:
    """A report: its page, and the figures in it."""

    html: str
    figures: Mapping[str, str]
    """Name that is valid as a file name -> JSON of the figure in placeholder colours (``embed.in_theme``)."""


@dataclass(frozen=True, kw_only=True)
class _Study:
    key: str
    label: str
    opening: Opening
    sections: Sequence[PageSection]


def write_report(directories: Sequence[Place]) -> Report:
    """Return the report of one or more study directories.

    Raises:
        StorageError: a directory contains no study, or can't be read.
        ValueError: `directories` is empty.
    """
    studies, errors = [], []
    for directory in directories:
        try:
            studies.append(read_tables(directory))
        except StorageError as error:
            errors.append(str(error))
    if errors:  # report all of them at once
        raise StorageError("\n".join(errors))
    return render_report(studies)


def render_report(studies: Sequence[Tables]) -> Report:
    """Return the report of studies whose runs have been read.

    Raises:
        StorageError: a study's curves can't be read.
        ValueError: `studies` is empty.
    """
    if not studies:
        raise ValueError("a report needs at least one study")
    figures = Figures()
    names = labels([tables.manifest.spec.name for tables in studies])
    named = dict(zip(names, map(StudyResults, studies), strict=True))
    several = len(studies) > 1
    comparison = comparison_section(named, figures) if several else None
    parts = [
        _study(results, label, figures, f"study-{k}" if several else "")
        for k, (label, results) in enumerate(named.items(), start=1)
    ]
    title = f"{len(studies)} studies" if several else names[0]
    return _rendered("report.html", figures, title=title, comparison=comparison, studies=parts)


def render_exhibit(found: Computed[Any], study: str) -> Report:
    """Return a page with one exhibit of a study."""
    figures = Figures()
    shown = exhibited(found, figures)
    parts: tuple[Part, ...] = (*shown.parts, Nothing(shown.why_not), Exhibited(notes=shown.notes))
    return _rendered("exhibit.html", figures, title=found.exhibit.title, study=study, parts=parts)


def _study(results: StudyResults, label: str, figures: Figures, key: str) -> _Study:
    prefix = f"{key}-" if key else ""
    page = StudyPage(results, figures, prefix)
    first = opening(page)
    waits = OWN_DESIGN_WAITS in results.cautions  # every other section would be empty
    shown = [each for each in SECTIONS if (each.name == "settling" if waits else each.name != "answers")]
    sections = [page.section(section) for section in shown]
    return _Study(key=key, label=label, opening=first, sections=[*sections, provenance_section(results, prefix)])


def _rendered(template: str, figures: Figures, **content: object) -> Report:
    # Compressed figures contain no character with a meaning in HTML (``embed``).
    html = _templates().get_template(template).render(scripts=Markup(figures.scripts()), **content)
    return Report(html, figures.drawn)


@functools.cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sensitivity.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    folder = importlib.resources.files("sensitivity.report").joinpath("templates")
    for name in ("page.css", "page.js"):
        text = folder.joinpath(name).read_text(encoding="utf-8")
        environment.globals[name.replace(".", "_")] = Markup(text)
    environment.globals["MOST_ROWS"] = _MAX_ROWS
    return environment
