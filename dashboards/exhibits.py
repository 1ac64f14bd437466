"""Converts exhibits to blocks: each exhibit becomes figures or texts, with controls for its options."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import dash_mantine_components as dmc
from dash import html
from dash.development.base_component import Component

from dashboards.blocks import FigureBlock, FixedBlock, Scene, TextBlock, aria, folded, html_table, note_lists
from dashboards.listing import Listing
from dashboards.rows import listed
from sensitivity.analysis.evaluations import StoredTables
from sensitivity.analysis.memo import Memo
from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.exhibit import Computed, Exhibit, Option, computed
from sensitivity.figures.nothing import NothingToShowError

_MAX_SEGMENTS = 4
"""Largest number of choices shown next to each other; more are shown as a drop-down list."""


def exhibit_blocks(exhibit: Exhibit[Any], scene: Scene) -> list[FigureBlock | TextBlock]:
    """Return one block for each case that is shown at the same time, such as each optimizer."""
    together = [option for option in exhibit.options if option.together]
    cases = itertools.product(*(option.values(scene.results).items() for option in together))
    return [_block(exhibit, [option.name for option in together], case) for case in cases]


def _block(exhibit: Exhibit[Any], names: list[str], case: tuple[tuple[str, str], ...]) -> FigureBlock | TextBlock:
    fixed = dict(zip(names, (key for key, _ in case), strict=True))
    name = "-".join((exhibit.name, *fixed.values()))
    label = ": ".join((exhibit.title, *(words for _, words in case)))
    show = partial(shown, exhibit, fixed)
    chosen = tuple(option.name for option in choices(exhibit))
    if exhibit.draw is None:
        return TextBlock(
            name=name, label=label, show=show, content=partial(_written, show), depends=exhibit.depends,
            options=chosen, steps=exhibit.steps,
        )  # fmt: skip
    return FigureBlock(
        name=name, label=label, show=show, depends=exhibit.depends, options=chosen, choosable=exhibit.choosable,
        of_runs=exhibit.of_runs,
        steps=exhibit.steps,
    )  # fmt: skip


def shown(exhibit: Exhibit[Any], fixed: Mapping[str, str], scene: Scene) -> Computed[Any]:
    """Compute an exhibit with the options in the address; missing or invalid options take their first value.

    Raises:
        NothingToShowError: there is nothing to show; the message says why.
    """
    asked = scene.address.options
    results = _narrowed(scene) if exhibit.of_runs else scene.results
    own = {
        option.name: asked[option.name]
        for option in choices(exhibit)
        if option.name in asked and asked[option.name] in option.values(results)
    }
    return computed(exhibit, results, **fixed, **own)


def _narrowed(scene: Scene) -> StudyResults:
    """Return the results restricted to the runs in the page's list of runs."""
    tables = scene.loaded.results.tables
    where = scene.address.listing.where
    if not where or not isinstance(tables, StoredTables):
        return scene.results
    runs = listed(tables.runs, Listing(where=where))
    if not len(scene.results.view.filtered(runs)):
        raise NothingToShowError("No run passes the filters of the table.")
    narrowed = replace(tables, study=replace(tables.study, runs=runs.sort_index()))
    return replace(scene.results, tables=narrowed, memo=Memo(1))


def choices(exhibit: Exhibit[Any]) -> tuple[Option, ...]:
    """Return the options of an exhibit that have a control of their own, because one value is shown at a time."""
    return tuple(option for option in exhibit.options if not (option.together or option.of_view))


def chosen_key(option: Option, scene: Scene) -> str | None:
    """Return the key of an option's current value, or None if it has no values."""
    values = option.values(scene.results)
    asked = scene.address.options.get(option.name)
    return asked if asked in values else next(iter(values), None)


def option_block(options: Sequence[Option], results: StudyResults) -> FixedBlock | None:
    """Return the controls of options, next to each other, or None if there is nothing to choose."""
    offered = [(option, values) for option in options if len(values := option.values(results)) > 1]
    if not offered:
        return None
    name = " ".join(f"{option.name} {' '.join(values)}" for option, values in offered)
    return FixedBlock(
        name=name,
        content=lambda scene: html.Div(
            [_control(option, values, scene) for option, values in offered], className="options"
        ),
    )


def _control(option: Option, values: Mapping[str, str], scene: Scene) -> Component:
    data = [{"value": key, "label": words} for key, words in values.items()]
    control_id = {"type": "option", "name": option.name}
    value = chosen_key(option, scene)
    if len(values) > _MAX_SEGMENTS:
        many: Component = dmc.Select(
            id=control_id, label=option.label, data=data, value=value, allowDeselect=False, size="xs", w=260
        )
        return many
    label = f"option-{option.name}"
    control = dmc.SegmentedControl(id=control_id, data=data, value=value, size="xs", **aria(labelledby=label))
    return html.Div([html.Span(option.label, className="label", id=label), control], className="slots")


def _written(show: Any, scene: Scene) -> Any:
    """Return an exhibit that consists of tables only."""
    found: Computed[Any] = show(scene)
    return [html.H2(found.exhibit.title), *note_lists(found.notes), *map(html_table, found.tables)]


def notes_and_tables(found: Computed[Any]) -> list[Component]:
    """Return what is shown below a figure: its notes and its tables."""
    return [*note_lists(found.notes), *map(folded, found.tables)]
