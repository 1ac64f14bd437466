"""Record the walk of a new user from the form to a paper: ``python docs/hooks/render_walk.py FOLDER``.

Starts a dashboard over the empty FOLDER, presses what ``docs/walk.md`` says in Chromium, and writes a picture of each
step as ``docs/walk/N-NAME.png``. The quickstart is trained and settled for it, which takes some minutes. Needs the
`test` extra, and pdfLaTeX for the last picture.
"""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pypdfium2
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from werkzeug.serving import make_server

import sensitivity
from dashboards.app import create_app
from sensitivity.store.directory import place

PICTURES = Path(__file__).parents[1] / "walk"
CHROMIUM = "/usr/bin/chromium"
_WIDTH, _HEIGHT = 1440, 880
_PATIENCE_S = 900
_PAPER = r"""
\documentclass{article}
\usepackage{booktabs,graphicx}
\begin{document}
\input{tables/verdicts}
%s
\section*{Methods} \input{methods}
\end{document}
"""


def walk(page: Page, address: str, root: Path) -> None:
    """Press what the walk says, and take a picture of each step."""
    page.goto(f"{address}/start")
    _until(page, lambda: page.get_by_text("A valid study of").count() > 0)
    page.get_by_role("button", name="Plan and price it").click()
    page.get_by_text("of device time, less where runs diverge").wait_for(timeout=1e3 * _PATIENCE_S)
    _save(page, "1-start", full=True)
    page.get_by_role("button", name="Start it on this machine").click()
    page.get_by_role("link", name="quickstart").first.wait_for()
    _until(page, lambda: (root / "quickstart" / "study.json").exists())
    page.goto(f"{address}/study/quickstart/overview")
    _until(page, lambda: re.search("about .* left", page.inner_text("#strip")) is not None)
    _save(page, "2-running")
    _until(page, lambda: "Complete" in page.inner_text("#strip") and "Still running" not in page.inner_text("#page"))
    page.locator("summary", has_text="what would settle it").first.click()
    _save(page, "3-answers")
    runs = sensitivity.open(root / "quickstart").runs.sort_values("test_accuracy")
    best = {name: rows["cell_id"].iloc[-1] for name, rows in runs.dropna(subset="test_accuracy").groupby("optimizer")}
    page.goto(f"{address}/study/quickstart/robustness?cell={best['kfac']}&beside={best['sgd']}")
    page.locator("[id*=curves-b] .gtitle").wait_for()
    _save(page, "4-maps")
    page.goto(f"{address}/study/quickstart/overview")
    page.get_by_role("button", name="Settle it").click()
    # Its end takes the button away.
    _until(page, lambda: "Complete" in page.inner_text("#strip") and page.locator("#settle").count() == 0)
    _save(page, "5-settled")
    page.goto(f"{address}/study/quickstart/runs")
    page.locator("#runs .ag-row").first.wait_for()
    _save(page, "6-runs")
    page.goto(f"{address}/study/quickstart/overview")
    with page.expect_download(timeout=1e3 * _PATIENCE_S) as download:
        page.get_by_role("link", name="Report").click()
    report = root / "quickstart.html"
    download.value.save_as(report)
    page.goto(report.as_uri())
    page.wait_for_selector(".canvas[data-painted] .main-svg")
    _save(page, "7-report")


def paper(root: Path) -> None:
    """Compile what ``sensitivity paper`` writes, and take a picture of the first page."""
    folder = root / "paper"
    command = [sys.executable, "-m", "sensitivity.cli.main", "paper", str(root / "quickstart"), "-o", str(folder)]
    subprocess.run(command, check=True)
    figures = (folder / "figures.tex").read_text().split(r"\end{figure}")
    chosen = next((one for one in figures if "fig:scaling" in one), figures[0])
    (folder / "all.tex").write_text(_PAPER % (chosen + r"\end{figure}"))
    for _ in range(2):
        subprocess.run(["pdflatex", "-interaction=batchmode", "-halt-on-error", "all"], cwd=folder, check=True)
    pages = [page.render(scale=1.2).to_pil() for page in list(pypdfium2.PdfDocument(folder / "all.pdf"))[:2]]
    beside = Image.new("RGB", (sum(page.width for page in pages), pages[0].height), "white")
    for at, each in enumerate(pages):
        beside.paste(each, (at * pages[0].width, 0))
    _write(beside, "8-paper")


def _until(page: Page, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(page.inner_text("main"))
        page.wait_for_timeout(250)


def _save(page: Page, name: str, *, full: bool = False) -> None:
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_load_state("networkidle")
    _write(Image.open(io.BytesIO(page.screenshot(full_page=full))), name)


def _write(image: Image.Image, name: str) -> None:
    PICTURES.mkdir(exist_ok=True)
    image.convert("RGB").quantize(128).save(PICTURES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = create_app(place(str(folder)), allow_run=True)
    server = make_server("127.0.0.1", 0, app.server, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        window = chromium.new_page(viewport={"width": _WIDTH, "height": _HEIGHT})
        walk(window, f"http://127.0.0.1:{server.server_port}", folder)
        chromium.close()
    server.shutdown()
    paper(folder)
