"""Figures as files: PNG, SVG and PDF, all drawn in one local browser without network requests."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from sensitivity.figures.labels import count
from sensitivity.figures.theme import LIGHT
from sensitivity.report.embed import in_theme
from sensitivity.store.directory import first_line
from sensitivity.study.errors import UserError
from sensitivity.study.whole_files import Written, output_faults, write_output

FORMATS = ("png", "svg")
_WIDEST = 1180
_TIMEOUT_S = 120
"""Per figure; the first one includes the start of the browser."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """A figure and its output file, whose suffix determines the format."""

    path: Path
    figure: Mapping[str, Any]
    """Data and layout, as Plotly draws them."""
    width: float
    """Width in pixels."""

    @classmethod
    def of(cls, path: Path, figure: go.Figure) -> Image:
        """Return an image of a figure whose layout has a width."""
        return cls(path=path, figure=figure.to_plotly_json(), width=float(figure.layout.width))


def write_images(figures: Mapping[str, str], folder: Path) -> tuple[Written, ...]:
    """Write each figure of a report's ``figures`` to `folder` as PNG (2 pixels per point) and SVG; return the files.

    Raises:
        UserError: there is no Chromium or Chrome, a figure can't be drawn, or the folder can't be written.
    """
    with output_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
    named = ((folder / f"{name}.{suffix}", figure) for name, figure in figures.items() for suffix in FORMATS)
    return write_drawn([_in_light(path, figure) for path, figure in named])


def write_image(figure: str, path: Path) -> Written:
    """Write a figure of a report's ``figures`` as PNG, SVG or PDF, by the suffix of the file; return the file.

    Raises:
        UserError: as for `write_images`.
    """
    (written,) = write_drawn([_in_light(path, figure)])
    return written


def _in_light(path: Path, text: str) -> Image:
    figure = in_theme(text, LIGHT)
    width = min(max(figure["layout"].get("meta", {}).get("min_width", _WIDEST), 800), _WIDEST)
    return Image(path=path, figure=figure, width=width)


def write_drawn(files: Sequence[Image]) -> tuple[Written, ...]:
    """Draw figures in one browser and write them; return the files.

    Raises:
        UserError: as for `write_images`.
    """
    logging.getLogger("choreographer").setLevel(logging.CRITICAL)  # it logs tracebacks of errors that it ignores
    stopped = threading.Event()
    with ThreadPoolExecutor(1) as own:  # a thread without an event loop, unlike a notebook's
        try:
            return own.submit(lambda: asyncio.run(_draw(files, stopped))).result()
        except BaseException:  # Ctrl-C, which only this thread receives
            stopped.set()
            raise


async def _draw(files: Sequence[Image], stopped: threading.Event) -> tuple[Written, ...]:
    import kaleido  # slow to import, and needed for this alone
    from kaleido.errors import ChromeNotFoundError, KaleidoError

    class OnePage(kaleido.Kaleido):  # type: ignore[misc]  # it has no types
        """A browser that keeps its page; Kaleido reloads it, with all of Plotly, after every image."""

        async def _return_kaleido_tab(self, tab: Any) -> None:
            await self.tabs_ready.put(tab)

    written: list[Written] = []
    page = kaleido.PageGenerator(mathjax=False)  # its default page asks a CDN for MathJax
    try:
        async with OnePage(page_generator=page, timeout=_TIMEOUT_S) as browser:
            for file in files:
                if stopped.is_set():
                    break
                image = await browser.calc_fig(file.figure, opts=_options(file))
                written.append(write_output(file.path, image))
    except ChromeNotFoundError:
        raise UserError(
            "images need Chromium or Chrome, and none was found; install it (Debian: apt-get install chromium), or name"
            " it in the environment variable BROWSER_PATH. An HTML file needs none: its figures have PNG and SVG"
            " buttons"
        ) from None
    except (OSError, RuntimeError, TimeoutError, KaleidoError) as error:
        raise UserError(
            f"{files[len(written)].path}: the browser did not draw it; of {count(len(files), 'image')} {len(written)}"
            f" are there ({first_line(error)})\n  Try again; if memory is short, close other programs first"
        ) from None
    return tuple(written)


def _options(file: Image) -> dict[str, Any]:
    suffix = file.path.suffix[1:].lower()
    scale = 2 if suffix == "png" else 1
    return {"format": suffix, "width": file.width, "height": file.figure["layout"]["height"], "scale": scale}
