"""The page: sections in reading order, each of them also for a study that lacks what it would show."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence

from sensitivity.analysis.cautions import Caution, compute_cautions
from sensitivity.analysis.curves import compute_curves
from sensitivity.analysis.maps import RobustnessMap, compute_maps
from sensitivity.analysis.outcomes import available_metrics
from sensitivity.analysis.summary import StudySummary, compute_summary
from sensitivity.analysis.targets import compute_targets
from sensitivity.figures.labels import safe
from sensitivity.report import sections, story, tables
from sensitivity.report.embed import Figures
from sensitivity.store.directory import Place
from sensitivity.store.reader import Study, read_study

_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""Content-Security-Policy of the page: the browser itself refuses any request."""


def write_report(directory: Place) -> str:
    """Return the report of a study directory: the text of one HTML file.

    Raises:
        StorageError: no study there, or it can't be read.
    """
    return render_report(read_study(directory))


def render_report(study: Study) -> str:
    """Return the report of a study that has been read."""
    spec, runs, curves = study.manifest.spec, study.runs, study.curves
    designs = {name: arm.design for name, arm in spec.optimizers.items()}
    metrics = available_metrics(runs)
    maps = {str(metric.name): compute_maps(runs, curves, metric, designs=designs) for metric in metrics}
    best = {
        str(metric.name): compute_curves(
            runs, curves, metric, [map_.best_cell.cell_id for map_ in maps[metric.name] if map_.best_cell]
        )
        for metric in metrics
    }
    primary: Sequence[RobustnessMap] = maps[metrics[0].name] if metrics else ()
    summary = compute_summary(runs)
    figures = Figures()
    body = "".join(
        (
            _opening(study, summary, primary, compute_cautions(runs, summary, primary)),
            sections.maps_section(maps, figures),
            sections.curves_section(best, figures),
            sections.targets_section(compute_targets(runs, curves, spec.targets, designs=designs), figures),
            sections.runs_section(summary),
            sections.provenance_section(study),
            "</main>",
        )
    )
    read = importlib.resources.files("sensitivity.report")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{safe(spec.name)}: hyperparameter sensitivity</title>\n"
        f"<style>{read.joinpath('page.css').read_text(encoding='utf-8')}</style>\n</head>\n"
        f"<body>\n{body}\n{figures.scripts()}"
        f"<script>{read.joinpath('page.js').read_text(encoding='utf-8')}</script>\n</body>\n</html>\n"
    )


def _opening(study: Study, summary: StudySummary, maps: Sequence[RobustnessMap], cautions: Sequence[Caution]) -> str:
    spec = study.manifest.spec
    said = [story.what_was_run(spec), story.where_it_stands(summary)]
    if study.unplanned:
        said.append(
            f"{study.unplanned:,} further runs are kept in the directory but belong to no cell of the present"
            " plan; they are not counted here."
        )
    paragraphs = "".join(f"<p>{safe(text)}</p>" for text in said)
    description = f'<p class="lead">{safe(spec.description)}</p>' if spec.description else ""
    found = ""
    if maps:
        items = "".join(f"<li>{safe(text)}</li>" for text in story.findings(maps))
        found = f"<ul class='findings'>{items}</ul>{tables.best_table(maps)}"
    warned = "".join(f'<li data-code="{item.code}">{safe(item.text)}</li>' for item in cautions)
    beware = (
        f"<aside class='cautions'><h2>Before you conclude</h2><ul>{warned}</ul>"
        "<p>This report describes what was run; it does not test whether one optimizer is better.</p></aside>"
        if summary.total.planned
        else ""
    )
    total = summary.total
    tiles = (
        ("planned", total.planned), ("completed", total.completed), ("diverged", total.diverged),
        ("failed", total.failed), ("waiting", total.waiting),
    )  # fmt: skip
    counts = "".join(f"<div><dt>{name}</dt><dd>{n:,}</dd></div>" for name, n in tiles)
    return (
        f"<header><div><p class='kicker'>Sensitivity report</p><h1>{safe(spec.name)}</h1></div>"
        "<button type='button' id='theme' hidden>Dark</button></header>\n<main>"
        f"<section id='summary'>{description}{paragraphs}<dl class='tiles'>{counts}</dl>{found}{beware}</section>"
    )
