"""Figures as files: PNG and SVG, all drawn in one browser, without a request to anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sensitivity.figures.theme import LIGHT
from sensitivity.report.embed import in_theme
from sensitivity.study.errors import UserError

FORMATS = ("png", "svg")
_WIDEST = 1180
_TIMEOUT_S = 120
"""For one figure: the first one waits for the browser."""


def write_images(figures: Mapping[str, str], folder: Path) -> tuple[Path, ...]:
    """Write each figure of a report's ``figures`` to `folder` as PNG (two pixels a point) and SVG; return the files.

    Raises:
        UserError: no Chromium or Chrome, or the folder can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(1) as own:  # a thread without an event loop, which a notebook's has
            return own.submit(lambda: asyncio.run(_write(figures, folder))).result()
    except OSError as error:
        raise UserError(f"{folder}: can't be written ({error.strerror}); give another folder") from None


async def _write(figures: Mapping[str, str], folder: Path) -> tuple[Path, ...]:
    import kaleido  # slow to import, and needed for this alone
    from kaleido.errors import ChromeNotFoundError

    written = []
    page = kaleido.PageGenerator(mathjax=False)  # its default page asks a CDN for MathJax
    try:
        async with kaleido.Kaleido(page_generator=page, timeout=_TIMEOUT_S) as browser:
            for name, text in figures.items():
                figure = in_theme(text, LIGHT)
                for suffix in FORMATS:
                    path = folder / f"{name}.{suffix}"
                    await browser.write_fig(figure, path=path, opts=_options(figure, suffix))
                    written.append(path)
    except ChromeNotFoundError:
        raise UserError(
            "images need Chromium or Chrome, and none was found; install it (Debian: apt-get install chromium), or name"
            " it in the environment variable BROWSER_PATH. The report itself needs none: its figures have PNG and SVG"
            " buttons"
        ) from None
    return tuple(written)


def _options(figure: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    layout = figure["layout"]
    width = min(max(layout.get("meta", {}).get("min_width", _WIDEST), 800), _WIDEST)
    return {"format": suffix, "width": width, "height": layout["height"], "scale": 2 if suffix == "png" else 1}
