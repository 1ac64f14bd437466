"""Figures as files: PNG and SVG, all drawn in one browser, without a request to anywhere."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sensitivity.figures.theme import LIGHT
from sensitivity.report.embed import in_theme
from sensitivity.store.directory import first_line
from sensitivity.study.errors import UserError
from sensitivity.study.whole_files import Written, output_faults, write_output

FORMATS = ("png", "svg")
_WIDEST = 1180
_TIMEOUT_S = 120
"""For one figure: the first one waits for the browser."""


def write_images(figures: Mapping[str, str], folder: Path) -> tuple[Written, ...]:
    """Write each figure of a report's ``figures`` to `folder` as PNG (two pixels a point) and SVG; return the files.

    Raises:
        UserError: no Chromium or Chrome, a figure can't be drawn, or the folder can't be written.
    """
    with output_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
    stopped = threading.Event()
    with ThreadPoolExecutor(1) as own:  # a thread without an event loop, which a notebook's has
        try:
            return own.submit(lambda: asyncio.run(_write(figures, folder, stopped))).result()
        except BaseException:  # Ctrl-C, which only this thread sees
            stopped.set()
            raise


async def _write(figures: Mapping[str, str], folder: Path, stopped: threading.Event) -> tuple[Written, ...]:
    import kaleido  # slow to import, and needed for this alone
    from kaleido.errors import ChromeNotFoundError, KaleidoError

    written: list[Written] = []
    page = kaleido.PageGenerator(mathjax=False)  # its default page asks a CDN for MathJax
    try:
        async with kaleido.Kaleido(page_generator=page, timeout=_TIMEOUT_S) as browser:
            for name, text in figures.items():
                figure = in_theme(text, LIGHT)
                for suffix in FORMATS:
                    if stopped.is_set():
                        return tuple(written)
                    image = await browser.calc_fig(figure, opts=_options(figure, suffix))
                    written.append(write_output(folder / f"{name}.{suffix}", image))
    except ChromeNotFoundError:
        raise UserError(
            "images need Chromium or Chrome, and none was found; install it (Debian: apt-get install chromium), or name"
            " it in the environment variable BROWSER_PATH. The report itself needs none: its figures have PNG and SVG"
            " buttons"
        ) from None
    except (OSError, RuntimeError, TimeoutError, KaleidoError) as error:
        raise UserError(
            f"{folder}: the browser did not draw all images, {len(written)} of {len(figures) * len(FORMATS)} are there"
            f" ({first_line(error)})\n  Try again; if memory is short, close other programs first"
        ) from None
    return tuple(written)


def _options(figure: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    layout = figure["layout"]
    width = min(max(layout.get("meta", {}).get("min_width", _WIDEST), 800), _WIDEST)
    return {"format": suffix, "width": width, "height": layout["height"], "scale": 2 if suffix == "png" else 1}
