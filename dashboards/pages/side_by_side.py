"""Selected runs side by side on the page of runs: their learning curves, and a table of their differences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from dashboards.blocks import FigureBlock, Scene, TextBlock, aria, html_table
from sensitivity.figures.exhibit import Computed
from sensitivity.figures.exhibits.side_by_side import SideBySide, chosen_exhibit, compute_side_by_side
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.figures.tables import Table


def _show(scene: Scene, *, table: bool) -> Computed[SideBySide]:
    chosen = scene.address.listing.chosen
    return Computed(chosen_exhibit(chosen, table=table), compute_side_by_side(scene.results, chosen))


def _curves(scene: Scene) -> Computed[SideBySide]:
    return _show(scene, table=False)


def _differences(scene: Scene) -> Computed[SideBySide]:
    return _show(scene, table=True)


def _table(scene: Scene) -> Any:
    try:
        found = _differences(scene).result
    except NothingToShowError:
        return None  # the curves report it
    ids = [str(run) for run in found.runs["trial_id"]]
    alike = [f"{found.label(name)} {found.values(name)[0]}" for name in found.alike]
    rows = [["", *(_tools(scene, run, place) for place, run in enumerate(ids, 1))]]
    rows += [[found.label(name), *found.values(name)] for name in found.differing]
    table = Table(
        caption="Differences between the chosen runs.",
        header=("run", *(str(place) for place in range(1, len(ids) + 1))),
        rows=rows,
        text_columns=len(ids) + 1,
    )
    return [
        html.H2("Side by side"),
        html_table(table),
        html.Details([html.Summary(f"{len(alike):,} the same in all"), html.P("; ".join(alike), className="note")])
        if alike and len(ids) > 1
        else None,
    ]


def _tools(scene: Scene, run: str, place: int) -> Component:
    return html.Span(
        [
            dcc.Link(f"open {place}", href=scene.href(replace(scene.address, run=run)), title=run),
            html.Button(
                "remove", id={"type": "unchoose", "run": run}, className="quiet", title=run,
                **aria(label=f"Remove run {place}"),
            ),
        ],
        className="run-tools",
    )  # fmt: skip


CHOSEN_BLOCKS: tuple[FigureBlock | TextBlock, ...] = (
    FigureBlock(
        name="chosen-curves",
        label="Learning curves of the chosen runs",
        show=_curves,
        depends=("metric", "chosen"),
    ),
    TextBlock(
        name="differences",
        label="Differences between the chosen runs",
        content=_table,
        show=_differences,
        depends=("metric", "chosen"),
    ),
)
