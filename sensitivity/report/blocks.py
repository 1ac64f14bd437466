"""Pieces of HTML that sections are made of: headings, tabs, notes, and figures that may have nothing to show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import plotly.graph_objects as go

from sensitivity.figures.data import Data
from sensitivity.figures.labels import safe
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.figures.theme import Theme
from sensitivity.report.embed import Figures

_SHOWN_NOTES = 3


def section(name: str, title: str, introduction: str, content: str) -> str:
    """Return a section of the page; `introduction` and `content` are HTML."""
    said = f"<p class='introduction'>{introduction}</p>" if introduction else ""
    return f"<section id='{name}'><h2>{title}</h2>{said}{content}</section>\n"


def tabs(group: str, what: str, views: Mapping[str, tuple[str, str]]) -> str:
    """Return one view at a time of `views` (key -> label and HTML), and a switch where there are several.

    All switches of one `group` move together; `what` says what they switch.
    """
    if len(views) < 2:
        return "".join(content for _, content in views.values())
    buttons = "".join(
        f"<button type='button' data-group='{group}' data-show='{key}'>{label}</button>"
        for key, (label, _) in views.items()
    )
    shown = "".join(
        f"<div class='view' data-group='{group}' data-view='{key}'>{content}</div>"
        for key, (_, content) in views.items()
    )
    return f"<div class='switch' role='group' aria-label='{what}' hidden>{buttons}</div>{shown}"


def nothing(*texts: str) -> str:
    """Return why there is nothing to show, in words; empty without any."""
    return "".join(f"<p class='nothing'>{safe(text)}</p>" for text in texts)


def notes(texts: Sequence[str]) -> str:
    """Return remarks as a list; all but the first few behind a summary."""
    if not texts:
        return ""
    items = [f"<li>{safe(text)}</li>" for text in texts]
    head, rest = "".join(items[:_SHOWN_NOTES]), "".join(items[_SHOWN_NOTES:])
    more = f"<details><summary>{len(texts) - _SHOWN_NOTES} more</summary><ul>{rest}</ul></details>" if rest else ""
    return f"<div class='notes'><ul>{head}</ul>{more}</div>"


def drawn(figures: Figures, name: str, draw: Callable[[Theme], go.Figure], data: Callable[[], Data]) -> str:
    """Return a figure with its data; nothing where there is nothing to draw."""
    try:
        return figures.add(name, draw, data())
    except NothingToShowError:
        return ""


def themed(draw: Callable[..., go.Figure], *args: object, **kwargs: object) -> Callable[[Theme], go.Figure]:
    """Return a ``draw_`` function of a theme alone."""
    return lambda theme: partial(draw, *args, **kwargs)(theme=theme)
