"""The sections of the report below its opening. Each says so where there is nothing to show yet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial

import plotly.graph_objects as go

from sensitivity.analysis.curves import CellCurves
from sensitivity.analysis.maps import RobustnessMap
from sensitivity.analysis.summary import StudySummary
from sensitivity.analysis.targets import TargetOutcome
from sensitivity.figures.curves import draw_curves
from sensitivity.figures.labels import safe
from sensitivity.figures.maps import draw_maps
from sensitivity.figures.scales import Scale, map_scale
from sensitivity.figures.targets import draw_targets
from sensitivity.figures.theme import Theme
from sensitivity.report import tables
from sensitivity.report.embed import Figures
from sensitivity.store.reader import Study
from sensitivity.study.metrics import METRICS

_NO_RESULT = "<p class='nothing'>No run has a measured value here, so there is nothing to draw.</p>"


def maps_section(maps: Mapping[str, Sequence[RobustnessMap]], figures: Figures) -> str:
    """Return a figure for each metric and optimizer, the metrics behind a switch."""
    views = {}
    for name, of_metric in maps.items():
        scale = map_scale(of_metric)
        views[name] = ""
        for optimizer in dict.fromkeys(map_.optimizer for map_ in of_metric):
            own = [map_ for map_ in of_metric if map_.optimizer == optimizer]
            views[name] += figures.add(partial(_draw_maps, own, scale), tables.map_table(own))
    introduction = (
        "A cell is one configuration at one batch size; its value is the median over its seeds. A diverged run"
        " counts as the untrained network, so divergence costs what had been learned; failed and waiting runs"
        " have no value and stay in the counts. All panels of a metric share one colour scale, which ends at"
        " the untrained network. The tolerance is 1 percentage point of accuracy, or 2% of the untrained"
        " network's loss. ○ marks cells that can't be told from the best: the 95% Student t interval of their"
        " difference, paired by seed, contains zero, for each cell by itself; with few seeds that holds also for"
        " cells that vary widely. The cells of a grid are chosen,"
        " not drawn: their shares are no probabilities."
    )
    return _section("maps", "Robustness maps", introduction, _views(views))


def curves_section(best: Mapping[str, Sequence[CellCurves]], figures: Figures) -> str:
    """Return a figure for each metric."""
    views = {
        name: figures.add(partial(_draw_curves, cells), tables.curve_table(cells))
        if cells
        else "<p class='nothing'>No run has completed, so no cell is the best.</p>"
        for name, cells in best.items()
    }
    introduction = (
        "The best cell of each optimizer and batch size, by the metric shown. After the last evaluation of a"
        " diverged run, the median and the band count it as the untrained network."
    )
    return _section("curves", "Learning curves of the best cells", introduction, _views(views))


def targets_section(outcomes: Sequence[TargetOutcome], figures: Figures) -> str:
    """Return one figure of all targets and the table of times."""
    introduction = (
        "A completed run reaches a target at its first evaluation that meets it; one that never does is"
        " censored at its budget. A diverged run never reaches it, even where it met it on its way. Expected"
        " running time is the steps of all observed runs, those without success at the full budget, over the"
        " successes; without a success it is only known to exceed that total."
    )
    if not outcomes:
        content = (
            "<p class='nothing'>The study declares no target. Add one to the study file, such as"
            " <code>[targets]</code> <code>test_accuracy = [0.95]</code>, run the study again (nothing is trained"
            " anew: the learning curves that are there suffice), and report.</p>"
        )
        return _section("targets", "Runs that reach a target", "", content)
    content = figures.add(partial(_draw_targets, outcomes), tables.target_table(outcomes))
    return _section("targets", "Runs that reach a target", introduction, content)


def runs_section(summary: StudySummary) -> str:
    """Return the denominators and the cost."""
    return _section("runs", "Every planned run", "", tables.status_table(summary))


def provenance_section(study: Study) -> str:
    """Return code, packages, machines, and the study as it was run."""
    manifest = study.manifest
    done = study.runs[study.runs["code_version"].notna()]
    made = [
        (label, ", ".join(str(value) for value in done[column].dropna().unique()) or "–")
        for column, label in (("code_version", "code"), ("host", "hosts"), ("device", "devices"))
    ]
    entry = manifest.specs.get(manifest.spec_hash, {})
    made += [(str(name), str(value)) for name, value in entry.get("machine", {}).items()]
    packages = ", ".join(f"{name} {version}" for name, version in entry.get("packages", {}).items())
    made.append(("packages", packages or "–"))
    made.append(("study hash", manifest.spec_hash))
    made += [("source of the user's problem code", manifest.source)] if manifest.source else []
    versions = len(manifest.specs)
    changed = f"<p>The study was run with {versions} versions of its file.</p>" if versions > 1 else ""
    spec = json.dumps(manifest.spec.model_dump(mode="json"), indent=2)
    content = (
        f"{changed}{tables.pairs_table('What made these results.', made)}"
        f"<details><summary>The study, as resolved</summary><pre>{safe(spec)}</pre></details>"
    )
    return _section("provenance", "Where this comes from", "", content)


def _section(name: str, title: str, introduction: str, content: str) -> str:
    said = f"<p class='introduction'>{introduction}</p>" if introduction else ""
    return f"<section id='{name}'><h2>{title}</h2>{said}{content}</section>\n"


def _views(views: Mapping[str, str]) -> str:
    """Return one view a metric, and a switch between them where there are several."""
    if not views:
        return _NO_RESULT
    buttons = "".join(f"<button type='button' data-show='{name}'>{METRICS[name].label}</button>" for name in views)
    switch = f"<div class='switch' role='group' aria-label='Metric' hidden>{buttons}</div>"
    shown = "".join(f"<div class='view' data-metric='{name}'>{view}</div>" for name, view in views.items())
    return (switch if len(views) > 1 else "") + shown


def _draw_maps(maps: Sequence[RobustnessMap], scale: Scale, theme: Theme) -> go.Figure:
    return draw_maps(maps, theme=theme, scale=scale)


def _draw_curves(cells: Sequence[CellCurves], theme: Theme) -> go.Figure:
    return draw_curves(cells, theme=theme)


def _draw_targets(outcomes: Sequence[TargetOutcome], theme: Theme) -> go.Figure:
    return draw_targets(outcomes, theme=theme)
