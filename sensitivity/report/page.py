"""The page: one study's sections in reading order, or those of several behind a switch, after a comparison."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sensitivity.figures.labels import safe
from sensitivity.report import evidence, sections
from sensitivity.report.blocks import tabs
from sensitivity.report.embed import Figures
from sensitivity.report.opening import opening
from sensitivity.report.results import Results, compute_results
from sensitivity.report.several import comparison_section, labels
from sensitivity.store.directory import Place
from sensitivity.store.reader import Study, read_study
from sensitivity.study.errors import StorageError

_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""Content-Security-Policy of the page: the browser itself refuses any request."""

_CONTENTS = (
    ("maps", "Robustness"), ("success", "Success rates"), ("scaling", "Scaling"), ("cost", "Cost"),
    ("tuning", "Tuning"), ("regions", "Robust region"), ("importance", "Importance"), ("curves", "Curves"),
    ("runs", "Runs"), ("provenance", "Provenance"),
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """A report: the page, and the figures in it."""

    html: str
    figures: Mapping[str, str]
    """Of each its JSON in stand-in colours (``embed.in_theme``), by a name that can be a file's."""


def write_report(directories: Sequence[Place]) -> Report:
    """Return the report of one study directory or several.

    Raises:
        StorageError: no study there, or it can't be read.
        ValueError: no directory.
    """
    studies, errors = [], []
    for directory in directories:
        try:
            studies.append(read_study(directory))
        except StorageError as error:
            errors.append(str(error))
    if errors:  # each of them, rather than one a command
        raise StorageError("\n".join(errors))
    return render_report(studies)


def render_report(studies: Sequence[Study]) -> Report:
    """Return the report of studies that have been read.

    Raises:
        ValueError: no study.
    """
    if not studies:
        raise ValueError("a report needs at least one study")
    figures = Figures()
    named = dict(
        zip(labels([study.manifest.spec.name for study in studies]), map(compute_results, studies), strict=True)
    )
    if len(studies) == 1:
        ((title, results),) = named.items()
        body = _study(results, figures, "")
    else:
        title = f"{len(studies)} studies"
        views = {
            f"study-{k}": (
                safe(label),
                f"<h2 class='study'>{safe(label)}</h2>{_study(results, figures, f'study-{k}-')}",
            )
            for k, (label, results) in enumerate(named.items(), start=1)
        }
        body = comparison_section(named, figures) + tabs("study", "Study", views)
    return Report(_page(title, body, figures), figures.drawn)


def _study(results: Results, figures: Figures, prefix: str) -> str:
    links = "".join(f"<a href='#{prefix}{name}'>{label}</a>" for name, label in _CONTENTS)
    return "".join(
        (
            opening(results, figures, prefix),
            f"<nav aria-label='Contents'>{links}</nav>",
            sections.maps_section(results, figures, prefix),
            evidence.success_section(results, figures, prefix),
            evidence.scaling_section(results, figures, prefix),
            evidence.cost_section(results, figures, prefix),
            evidence.tuning_section(results, figures, prefix),
            evidence.region_section(results, figures, prefix),
            evidence.importance_section(results, figures, prefix),
            sections.curves_section(results, figures, prefix),
            sections.runs_section(results, prefix),
            sections.provenance_section(results, prefix),
        )
    )


def _page(title: str, body: str, figures: Figures) -> str:
    read = importlib.resources.files("sensitivity.report")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{safe(title)}: hyperparameter sensitivity</title>\n"
        f"<style>{read.joinpath('page.css').read_text(encoding='utf-8')}</style>\n</head>\n"
        f"<body>\n<header><div><p class='kicker'>Sensitivity report</p><h1>{safe(title)}</h1></div>"
        f"<button type='button' id='theme' hidden>Dark</button></header>\n<main>\n{body}</main>\n{figures.scripts()}"
        f"<script>{read.joinpath('page.js').read_text(encoding='utf-8')}</script>\n</body>\n</html>\n"
    )
