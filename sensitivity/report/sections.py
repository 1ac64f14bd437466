"""The sections on what was run: robustness maps, learning curves, every run, and where it all comes from."""

from __future__ import annotations

import json
from functools import partial

from sensitivity.analysis.clipping import Clipping
from sensitivity.analysis.designs import NEAR_BOUND
from sensitivity.figures.exhibits.curves import draw_curves
from sensitivity.figures.exhibits.maps import draw_maps
from sensitivity.figures.labels import number, optimizer_name, safe
from sensitivity.figures.scales import map_scale
from sensitivity.report import tables
from sensitivity.report.blocks import drawn, notes, nothing, section, tabs, themed
from sensitivity.report.choices import CHOICES, SUBJECTS
from sensitivity.report.embed import Figures
from sensitivity.report.figure_data import curve_data, map_data
from sensitivity.report.results import Results
from sensitivity.report.words import refusals
from sensitivity.study.metrics import METRICS

_MOST_CELLS = 5_000
"""Of one metric, beyond which two metrics are drawn and no more: 5,000 cells take about 0.3 MB."""


def maps_section(results: Results, figures: Figures, prefix: str) -> str:
    """Return a figure for each metric and optimizer, the metrics behind a switch."""
    views = {}
    for name in _shown(results):
        of_metric = results.maps[name]
        scale = map_scale(of_metric)
        parts = []
        for optimizer in dict.fromkeys(map_.optimizer for map_ in of_metric):
            own = [map_ for map_ in of_metric if map_.optimizer == optimizer]
            draw = themed(draw_maps, own, scale=scale)
            parts.append(figures.add(f"{prefix}maps-{name}-{optimizer}", draw, map_data(own)))
        views[name] = (METRICS[name].label, "".join(parts))
    introduction = (
        "A cell is one configuration at one batch size; its value is the median over its seeds. A diverged run"
        " counts as the untrained network, so divergence costs what had been learned; failed and waiting runs"
        " have no value and stay in the counts. All panels of a metric, of every optimizer, share one colour scale,"
        " which ends at the untrained network. The tolerance is 1 percentage point of accuracy, or 2% of the untrained"
        " network's loss. ○ marks cells that can't be told from the best: the 95% Student t interval of their"
        " difference, paired by seed, contains zero, for each cell by itself; with few seeds that holds also for"
        " cells that vary widely. The cells of a grid are chosen, not drawn: their shares are no probabilities."
        " An arrow marks a best cell on the edge of its grid or, of draws and searches, within"
        f" {NEAR_BOUND:.0%} of a bound of its box, in the scale that it is drawn in: there the map has to be extended."
    )
    content = tabs(f"{prefix}metric", "Metric", views) + notes(_left_out(results))
    if results.metric is not None:
        content += tables.best_table(results.maps[results.metric.name])
    empty = nothing("No run has a measured value here, so there is nothing to draw.")
    return section(f"{prefix}maps", "Robustness maps", introduction, content if views else empty)


def _shown(results: Results) -> tuple[str, ...]:
    """Return the metrics whose maps and curves are drawn: all, or the two most telling where each has many cells."""
    names = tuple(results.maps)
    if results.metric is None or sum(len(map_.cells) for map_ in results.maps[results.metric.name]) <= _MOST_CELLS:
        return names
    return names[:2]


def _left_out(results: Results) -> tuple[str, ...]:
    left = [METRICS[name].label for name in results.maps if name not in _shown(results)]
    if not left:
        return ()
    text = f"Maps and curves of {' and '.join(left)} are left out to keep this file small; the dashboard has them."
    return (text,)


def curves_section(results: Results, figures: Figures, prefix: str) -> str:
    """Return a figure for each metric and choice of cells."""
    views: dict[str, tuple[str, str]] = {}
    for which in CHOICES:
        by_metric = {
            name: (
                METRICS[name].label,
                drawn(
                    figures,
                    f"{prefix}curves-{which}-{name}",
                    themed(draw_curves, cells, subject=SUBJECTS[which]),
                    partial(curve_data, cells),
                ),
            )
            for name, cells in results.curves[which].items()
            if cells and name in _shown(results)
        }
        if by_metric:
            views[which] = (SUBJECTS[which], tabs(f"{prefix}metric", "Metric", by_metric))
    introduction = (
        "The best cell of each optimizer and batch size, by any metric; the cell in the middle of the ranking;"
        " and, of the cells that lost a seed, one with the smallest learning rate. After the last evaluation of a"
        " diverged run, the median and the band count it as the untrained network."
    )
    content = tabs(f"{prefix}curves", "Cells", views)
    if "best" not in views:
        content = nothing("No run has completed, so there is no best cell to show the curves of.") + content
    return section(f"{prefix}curves", "Learning curves", introduction, content)


def runs_section(results: Results, prefix: str) -> str:
    """Return the denominators by status, what they cost, and what a KL clip did."""
    content = tables.status_table(results.summary) + clipping_block(results.clipping)
    return section(f"{prefix}runs", "Every planned run", "", content)


def clipping_block(clippings: tuple[Clipping, ...]) -> str:
    """Return how much a KL clip bound; nothing without one."""
    if not clippings:
        return ""
    rows = [
        [optimizer_name(c.optimizer), f"{c.batch_size:,}", f"{c.share:.0%}", f"{c.binding:,}/{len(c.cells):,}"]
        for c in clippings
    ]
    header = ("optimizer", "batch size", "steps clipped", "cells clipped in most steps")
    caption = "The KL clip. Where it binds, the learning rate cancels, and robustness to it is the clip's doing."
    return tables.table(caption, header, rows, text_columns=1) + notes(refusals(c.refused for c in clippings))


def provenance_section(results: Results, prefix: str) -> str:
    """Return code, packages, machines, and the study as it was run."""
    manifest, runs = results.study.manifest, results.study.runs
    done = runs[runs["code_version"].notna()]
    made = [
        (label, ", ".join(str(value) for value in done[column].dropna().unique()) or "–")
        for column, label in (("code_version", "code"), ("host", "hosts"), ("device", "devices"))
    ]
    # The hash of a study changes when a later version of this package knows more fields; its entry is the last one.
    last = next(reversed(manifest.specs), manifest.spec_hash)
    entry = manifest.specs.get(manifest.spec_hash, manifest.specs.get(last, {}))
    made += [(str(name), str(value)) for name, value in entry.get("machine", {}).items()]
    packages = ", ".join(f"{name} {version}" for name, version in entry.get("packages", {}).items())
    made.append(("packages", packages or "–"))
    made.append(("study hash", manifest.spec_hash))
    made += [("source of the user's problem code", manifest.source)] if manifest.source else []
    versions = len(manifest.specs)
    changed = f"<p>The study was run with {number(versions)} versions of its file.</p>" if versions > 1 else ""
    spec = json.dumps(manifest.spec.model_dump(mode="json"), indent=2)
    content = (
        f"{changed}{tables.pairs_table('What made these results.', made)}"
        f"<details><summary>The study, as resolved</summary><pre>{safe(spec)}</pre></details>"
    )
    return section(f"{prefix}provenance", "Where this comes from", "", content)
