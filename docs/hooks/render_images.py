"""Draw the documentation's pictures from a study: ``python docs/hooks/render_images.py studies/quickstart``.

Needs Chromium, and the `test` extra for the pictures of pages. Writes ``docs/gallery/NAME.webp`` for each exhibit,
``docs/robustness.png``, ``docs/report.png`` and ``docs/dashboard.png``.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright
from werkzeug.serving import make_server

import sensitivity
from dashboards.app import create_app
from sensitivity.figures import catalogue
from sensitivity.store.directory import place

DOCS = Path(__file__).parents[1]
CHROMIUM = "/usr/bin/chromium"
_WIDTH = 1600
"""Pixels of a picture in the gallery."""
_PREFERRED = {"kfac", "steps", "accuracy", "best"}
"""Values of options whose pictures are shown where an exhibit has several."""


def draw_gallery(figures: Path) -> None:
    """Make the gallery's pictures from the images that a report's ``--figures`` has written, one of each exhibit."""
    gallery = DOCS / "gallery"
    gallery.mkdir(exist_ok=True)
    for exhibit in catalogue.EXHIBITS:
        found = sorted(figures.glob(f"{exhibit.name}.png")) or sorted(figures.glob(f"{exhibit.name}-*.png"))
        if not found:
            continue
        image = Image.open(max(found, key=lambda file: len(_PREFERRED & set(file.stem.split("-"))))).convert("RGB")
        if exhibit.name == "robustness":
            image.quantize(128).save(DOCS / "robustness.png", optimize=True)
        image.resize((_WIDTH, round(image.height * _WIDTH / image.width)), Image.Resampling.LANCZOS).save(
            gallery / f"{exhibit.name}.webp", quality=80, method=6
        )


def draw_pages(study: Path, report: Path) -> None:
    """Take pictures of the top of the report, and of the dashboard with each optimizer's best cell chosen."""
    runs = sensitivity.open(study).runs.sort_values("test_accuracy")
    best = {name: rows["cell_id"].iloc[-1] for name, rows in runs.dropna(subset="test_accuracy").groupby("optimizer")}
    with _browser() as page, _dashboard(study.parent) as address:
        page.goto(report.as_uri())
        _save(page, DOCS / "report.png", height=1600)
        page.goto(f"{address}/study/{study.name}/robustness?cell={best['kfac']}&beside={best['sgd']}")
        page.wait_for_selector("#curves-b .js-plotly-plot, [id*=curves-b] .js-plotly-plot")
        _save(page, DOCS / "dashboard.png", height=1900)


def _save(page: Page, path: Path, *, height: int) -> None:
    page.set_viewport_size({"width": 1440, "height": height})
    page.wait_for_selector(".js-plotly-plot .main-svg")
    page.wait_for_load_state("networkidle")
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(128).save(path, optimize=True)


@contextlib.contextmanager
def _browser() -> Iterator[Page]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium.new_page(viewport={"width": 1440, "height": 1600})
        chromium.close()


@contextlib.contextmanager
def _dashboard(root: Path) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, create_app(place(str(root))).server, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        page_file, images = Path(folder) / "report.html", Path(folder) / "figures"
        command = [sys.executable, "-m", "sensitivity.cli.main", "report", sys.argv[1]]
        subprocess.run([*command, "-o", str(page_file), "--figures", str(images)], check=True)
        draw_gallery(images)
        draw_pages(Path(sys.argv[1]), page_file)
