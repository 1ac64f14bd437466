"""Updates a figure in place without resetting what the reader may have moved: the ranges of its axes.

Plotly's own ``uirevision`` doesn't work through Dash, which passes a zoomed figure back to Plotly as if drawn that way.
"""

from __future__ import annotations

import hashlib
from typing import Any

import plotly.graph_objects as go
from dash import Patch

_MOVED = ("range", "autorange")


def frame_of(figure: go.Figure) -> str:
    """Return a token of a figure's panels and their ranges; if it changes, the zoom can't be kept."""
    layout = figure.to_plotly_json()["layout"]
    axes = sorted((name, repr([axis.get(key) for key in ("type", "range", "domain")])) for name, axis in _axes(layout))
    content = repr((axes, layout.get("height"), figure.layout.title.text, [trace.type for trace in figure.data][:1]))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def patch_of(figure: go.Figure) -> Patch:
    """Return the patch that turns a figure with the same frame into `figure`."""
    content = figure.to_plotly_json()
    layout: dict[str, Any] = content["layout"]
    patch = Patch()
    patch["data"] = content["data"]
    axes = dict(_axes(layout))
    for name, value in layout.items():
        if name not in axes:
            patch["layout"][name] = value
            continue
        for key, part in value.items():
            if key not in _MOVED:
                patch["layout"][name][key] = part
    return patch


def _axes(layout: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(name, value) for name, value in layout.items() if name.startswith(("xaxis", "yaxis"))]
