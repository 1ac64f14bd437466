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


def write_images(figures: Mapping[str, str], folder: Path) -> tuple[Written, ...]:
    """Write each figure of a report's ``figures`` to `folder` as PNG (two pixels a point) and SVG; return the files.

    Raises:
        UserError: no Chromium or Chrome, a figure can't be drawn, or the folder can't be written.
    """
    with output_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _loop() as run:  # a thread's own, as that of a notebook is in use
        return run(_write(figures, folder))


@contextlib.contextmanager
def _loop() -> Iterator[Callable[[Coroutine[Any, Any, _T]], _T]]:
    """Yield what runs a coroutine in another thread; an exception here, such as Ctrl-C, cancels it there."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="images", daemon=True)
    thread.start()

    def run(work: Coroutine[Any, Any, _T]) -> _T:
        future = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    try:
        yield run
    finally:
        asyncio.run_coroutine_threadsafe(_settle(), loop).result(_TIDY_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
def _options(figure: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    layout = figure["layout"]
    width = min(max(layout.get("meta", {}).get("min_width", _WIDEST), 800), _WIDEST)
    return {"format": suffix, "width": width, "height": layout["height"], "scale": 2 if suffix == "png" else 1}
