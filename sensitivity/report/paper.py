"""Parts of a paper from a study: figures at column width, tables, methods and references, one file each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures import catalogue
from sensitivity.figures.data import Data
from sensitivity.figures.exhibit import Computed, Exhibit, computed
from sensitivity.figures.exhibits.best import BEST
from sensitivity.figures.exhibits.targets import TARGETS
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.figures.tables import Table
from sensitivity.figures.theme import LIGHT
from sensitivity.figures.verdict_words import answers
from sensitivity.report.images import Image, write_drawn
from sensitivity.report.latex import bibtex, booktabs, cited, escaped, float_of
from sensitivity.report.methods import methods
from sensitivity.report.paper_figures import WIDTHS, caption, resized
from sensitivity.study.provenance import code_version
from sensitivity.study.whole_files import Written, write_output

_FORMATS = ("pdf", "svg")
_WORKS = (
    "Ma et al. 2020, arXiv 1903.06237",
    "Shallue et al. 2019, arXiv 1811.03600",
    "McCandlish et al. 2018, arXiv 1812.06162",
)
"""Works on the questions and quantities of every study: on K-FAC, on batch sizes, on S(B)."""


def write_paper(results: StudyResults, folder: Path) -> Iterator[Written]:
    """Write the parts of a paper into `folder`; yield each file.

    Raises:
        UserError: there is no Chromium or Chrome, or the folder can't be written.
    """
    floats, images = [], []
    for found, figure in _figures(results):
        for inches in WIDTHS:
            name = f"{found.name}-{inches:g}in"
            drawn = resized(figure, inches)
            images += [Image.of(folder / "figures" / f"{name}.{suffix}", drawn) for suffix in _FORMATS]
        floats.append(float_of(found.name, f"figures/{found.name}-{WIDTHS[0]:g}in", WIDTHS[0], caption(figure)))
    yield _text(folder / "figures.tex", "\n".join(floats))
    for name, table, data in _tables(results):
        yield _text(folder / "tables" / f"{name}.tex", booktabs(table, name))
        yield _text(folder / "tables" / f"{name}.csv", "".join(",".join(row) + "\r\n" for row in data.fields()))
    yield _text(folder / "methods.tex", _paragraphs(methods(results)))
    yield _text(folder / "references.bib", "\n".join(_references(results)))
    yield from write_drawn(images)


def _figures(results: StudyResults) -> Iterator[tuple[Computed[Any], go.Figure]]:
    """Yield the exhibits for a paper: one per optimizer or question, with default values of all other options."""
    for exhibit in catalogue.EXHIBITS:
        if not exhibit.in_paper:
            continue
        together = [option for option in exhibit.options if option.together]
        cases = itertools.product(*(option.values(results) for option in together))
        for case in cases:
            try:
                found = computed(exhibit, results, **dict(zip([o.name for o in together], case, strict=True)))
                figure = found.figure(LIGHT)
            except NothingToShowError:
                continue
            assert figure is not None
            yield found, figure


def _tables(results: StudyResults) -> Iterator[tuple[str, Table, Data]]:
    for name, exhibit in (("best", BEST), ("targets", TARGETS)):
        if results.summary.begun:
            yield from _table(name, exhibit, results)
    found = [(one.question, one.answer, one.headline, one.effect, one.role) for one in answers(results)]
    if found:
        header = ("question", "answer", "in words", "effect", "claim")
        table = Table(caption="The answers of the study.", header=header, rows=found, text_columns=len(header))
        yield "verdicts", table, Data(columns=header, rows=found)


def _table(name: str, exhibit: Exhibit[Any], results: StudyResults) -> Iterator[tuple[str, Table, Data]]:
    try:
        found = computed(exhibit, results)
    except NothingToShowError:
        return
    for table in found.tables[:1]:
        yield name, table, found.data


def _paragraphs(texts: Sequence[str]) -> str:
    """Return paragraphs with loose spacing, because hashes and versions in them can't be hyphenated."""
    return "\\begin{sloppypar}\n" + "\n\n".join(map(escaped, texts)) + "\n\\end{sloppypar}\n"


def _references(results: StudyResults) -> Iterator[str]:
    hash_, made = results.manifest.spec_hash, f"sensitivity {code_version()}"
    title = "sensitivity: how far an optimizer scales with batch size, and how sensitive it is to its hyperparameters"
    yield bibtex("misc", "sensitivity", {"title": title, "note": f"version {code_version()}", "year": "2026"})
    study = {"title": f"Study {results.spec.name}", "note": f"hash {hash_}, {made}"}
    yield bibtex("misc", f"study-{hash_}", study)
    arms = [type(arm).reference for arm in results.spec.optimizers.values()]
    yield from cited([*_WORKS, *arms])


def _text(path: Path, text: str) -> Written:
    return write_output(path, text.encode())
