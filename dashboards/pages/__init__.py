"""The pages of a study, in the order of the navigation, and their blocks.

A page names sections of the catalogue; exhibits that no page names are on the last one, so each is shown somewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dash import html

from dashboards.blocks import Block, FigureBlock, FixedBlock, Page, Scene, TextBlock
from dashboards.exhibits import choices, exhibit_blocks, option_block
from dashboards.pages.overview import OVERVIEW
from dashboards.pages.robustness import ROBUSTNESS
from dashboards.pages.runs import RUNS
from sensitivity.figures import catalogue
from sensitivity.figures.exhibit import Exhibit
from sensitivity.figures.sections import SECTIONS, Section

_PAGES = (
    OVERVIEW,
    ROBUSTNESS,
    Page(
        name="sensitivity",
        title="Sensitivity",
        lead="What does it take to find a setting that works, and which hyperparameters matter?",
        parts=("tuning", "regions", "importance"),
    ),
    Page(
        name="success",
        title="Success rates",
        lead="How likely is a configuration of the prior box to reach a target within the budget?",
        parts=("success",),
    ),
    Page(
        name="scaling",
        title="Scaling and cost",
        lead="How far does a larger batch buy fewer steps, and what does it cost to get there?",
        parts=("scaling", "cost"),
    ),
    Page(
        name="curves",
        title="Learning curves",
        lead="How do the best, the median and the diverging configurations get to their results?",
        parts=("curves",),
    ),
    RUNS,
)


def pages() -> dict[str, Page]:
    """Return the pages by name."""
    named = {part for page in _PAGES for part in page.parts}
    left = [e for e in catalogue.EXHIBITS if e.name not in named and e.section not in named]
    parts = tuple(dict.fromkeys(exhibit.section for exhibit in left))
    more = Page(name="more", title="More", lead="Further figures and tables of this study.", parts=parts)
    return {page.name: page for page in (*_PAGES, *((more,) if parts else ()))}


def blocks_of(page: Page, scene: Scene) -> Iterator[Block]:
    """Yield the blocks of a page, from top to bottom."""
    yield from page.first
    several = sum(part in _sections() for part in page.parts) > 1
    begun: set[str] = set()
    controls: set[str] = set()
    for exhibit in _exhibits(page):
        if exhibit.section in page.parts and exhibit.section not in begun:
            begun.add(exhibit.section)
            yield from _head(exhibit.section, scene, titled=several)
        new = [option for option in choices(exhibit) if option.name not in controls]
        controls.update(option.name for option in new)
        if (control := option_block(new, scene.results)) is not None:
            yield control
        yield from page.before.get(exhibit.name, ())
        yield from exhibit_blocks(exhibit, scene)
        yield from page.after.get(exhibit.name, ())


def block_of(page: Page, scene: Scene, name: str) -> FigureBlock | TextBlock | None:
    """Return the block with this name, or None if the page has none."""
    named = (
        block for block in (*blocks_of(page, scene), *page.dock, *page.further) if not isinstance(block, FixedBlock)
    )
    return next((block for block in named if block.name == name), None)


def _exhibits(page: Page) -> Iterator[Exhibit[Any]]:
    """Yield the exhibits of a page; a section contributes those that are shown nowhere else."""
    apart = {part for one in _PAGES for part in one.parts} - _sections()
    for part in page.parts:
        for exhibit in catalogue.EXHIBITS:
            own = exhibit.section == part and exhibit.name not in apart
            if exhibit.name == part if part in apart else own:
                yield exhibit


def _sections() -> set[str]:
    return {section.name for section in SECTIONS} | {exhibit.section for exhibit in catalogue.EXHIBITS}


def _head(name: str, scene: Scene, *, titled: bool) -> Iterator[FixedBlock]:
    """Yield the title of a section, if the page has several, and how to read the section."""
    section = next((section for section in SECTIONS if section.name == name), None)
    section = section or Section(name=name, title=name.capitalize(), short=name)
    introduction = section.introduction(scene.results)
    content = [
        *([html.H2(section.title)] if titled and section.title else []),
        *([html.Details([html.Summary("How to read this"), html.P(introduction)])] if introduction else []),
    ]
    if content:
        yield FixedBlock(name=f"section {name}", content=lambda _: html.Div(content, className="head"))
