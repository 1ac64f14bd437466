"""Figures as files: PNG and SVG, all drawn in one browser, without a request to anywhere."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sensitivity.figures.labels import count
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
    return _write([(folder / f"{name}.{suffix}", text) for name, text in figures.items() for suffix in FORMATS])


def write_image(figure: str, path: Path) -> Written:
    """Write a figure of a report's ``figures`` as PNG or SVG, by the suffix of the file; return it.

    Raises:
        UserError: as `write_images`.
    """
    (written,) = _write([(path, figure)])
    return written


def _write(files: Sequence[tuple[Path, str]]) -> tuple[Written, ...]:
    logging.getLogger("choreographer").setLevel(logging.CRITICAL)  # it logs tracebacks of what it then ignores
    stopped = threading.Event()
    with ThreadPoolExecutor(1) as own:  # a thread without an event loop, which a notebook's has
        try:
            return own.submit(lambda: asyncio.run(_draw(files, stopped))).result()
        except BaseException:  # Ctrl-C, which only this thread sees
            stopped.set()
            raise


async def _draw(files: Sequence[tuple[Path, str]], stopped: threading.Event) -> tuple[Written, ...]:
    import kaleido  # slow to import, and needed for this alone
    from kaleido.errors import ChromeNotFoundError, KaleidoError

    written: list[Written] = []
    page = kaleido.PageGenerator(mathjax=False)  # its default page asks a CDN for MathJax
    try:
        async with kaleido.Kaleido(page_generator=page, timeout=_TIMEOUT_S) as browser:
            for path, text in files:
                if stopped.is_set():
                    break
                figure = in_theme(text, LIGHT)
                image = await browser.calc_fig(figure, opts=_options(figure, path.suffix[1:].lower()))
                written.append(write_output(path, image))
    except ChromeNotFoundError:
        raise UserError(
            "images need Chromium or Chrome, and none was found; install it (Debian: apt-get install chromium), or name"
            " it in the environment variable BROWSER_PATH. An HTML file needs none: its figures have PNG and SVG"
            " buttons"
        ) from None
    except (OSError, RuntimeError, TimeoutError, KaleidoError) as error:
        raise UserError(
            f"{files[len(written)][0]}: the browser did not draw it; of {count(len(files), 'image')} {len(written)} are"
            f" there ({first_line(error)})\n  Try again; if memory is short, close other programs first"
        ) from None
    return tuple(written)


def _options(figure: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    layout = figure["layout"]
    width = min(max(layout.get("meta", {}).get("min_width", _WIDEST), 800), _WIDEST)
    return {"format": suffix, "width": width, "height": layout["height"], "scale": 2 if suffix == "png" else 1}
