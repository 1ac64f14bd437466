"""The page in a real browser: every figure painted, no console errors, no requests beyond the file."""

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

SLOW_3D = ("willReadFrequently", "GPU stall due to ReadPixels")
"""Chromium's performance warnings for any 3-D surface."""


@pytest.fixture
def visit(new_tab):
    """Open a file; fail on any console error, page error, or request beyond it."""
    faults, tabs = [], []

    def watch(request):
        if not request.url.startswith(("file:", "data:", "blob:")):
            faults.append(f"request to {request.url}")

    def hear(message):
        slow = any(remark in message.text for remark in SLOW_3D)
        if message.type == "error" or (message.type == "warning" and not slow):
            faults.append(message.text)

    def open_(path, scheme="light", width=1280):
        tab = new_tab("file:///", scheme, width)
        tabs.append(tab)
        tab.on("console", hear)
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("request", watch)
        tab.goto(path.as_uri())
        return tab

    yield open_
    for tab in tabs:
        tab.close()
    assert faults == []


UNPAINTED = """[...document.querySelectorAll('.canvas')]
  .filter((c) => c.offsetParent && !c.querySelector('.main-svg')).map((c) => c.dataset.figure)"""
BLANK = """[...document.querySelectorAll('.canvas')].filter((c) => c.querySelector('.main-svg')
  && !c.querySelector('.overplot .trace, .overplot image, .contourlayer path, .gl-container canvas, .barlayer path'))"""


HOVER = """Object.fromEntries([...document.querySelectorAll('.canvas')]
  .map((c) => [c.dataset.figure, c.data.map((trace) => trace.hovertext ?? null)]))"""


def wait_until_painted(tab):
    """Wait for every figure that isn't behind a tab."""
    for _ in range(300):  # the page's policy forbids the eval of wait_for_function
        left = tab.evaluate(UNPAINTED)
        if not left:
            return
        tab.wait_for_timeout(100)
    pytest.fail(f"not painted: {left}")


HIDDEN = """[...document.querySelectorAll('.canvas')].filter((c) => !c.querySelector('.main-svg'))
  .map((c) => c.dataset.figure)"""
TABS = """(name) => {
  const path = [];
  for (let at = document.querySelector(`.canvas[data-figure="${name}"]`); at; at = at.parentElement)
    if (at.matches('.view')) path.unshift([at.dataset.group, at.dataset.view]);
  return path;
}"""


def paint_all(tab):
    """Open each figure that has not been shown, with the buttons that a user would press, and wait for it."""
    wait_until_painted(tab)
    while left := tab.evaluate(HIDDEN):
        for group, key in tab.evaluate(TABS, left[0]):
            buttons = tab.query_selector_all(f"[data-group='{group}'][data-show='{key}']")
            next(button for button in buttons if button.is_visible()).click()
        wait_until_painted(tab)
        assert left[0] not in tab.evaluate(HIDDEN)


@pytest.mark.parametrize("case", ["landscape", "random"])
def test_every_figure_is_painted_without_requests(case, report_of, page_of, visit):
    tab = visit(page_of(case))
    paint_all(tab)
    assert tab.evaluate(f"{BLANK}.map((c) => c.dataset.figure)") == []
    texts = {
        name: [t.get("hovertext") for t in json.loads(drawn)["data"]] for name, drawn in report_of(case).figures.items()
    }
    assert tab.evaluate(HOVER) == texts
    assert len(tab.query_selector_all(".canvas")) == len(report_of(case).figures)


def test_switches_of_one_option_move_together(page_of, visit):
    tab = visit(page_of("landscape"))
    shown = """[...document.querySelectorAll('.canvas')].filter((c) => c.offsetParent).map((c) => c.dataset.figure)
      .filter((name) => name.startsWith('robustness') || name.startsWith('curves'))"""
    tab.click("#curves [data-show=median]")
    assert tab.evaluate(shown)[-1] == "curves-train_loss-median"
    tab.click("#maps [data-show=test_loss]")
    assert tab.evaluate(shown) == ["robustness-test_loss-kfac", "robustness-test_loss-sgd", "curves-test_loss-best"]
    assert tab.get_attribute("#curves [data-show=test_loss]", "aria-pressed") == "true"
    tab.click("#curves [data-show=train_loss]")
    assert tab.evaluate(shown)[-1] == "curves-train_loss-median"


def test_switch_between_studies(page_of, visit):
    tab = visit(page_of("landscape", "random"))
    assert tab.is_visible("[data-figure='study-1-verdict-kfac-sgd-scaling'].canvas")
    tab.click("[data-show=study-2]")
    tab.query_selector("#study-2-cost").scroll_into_view_if_needed()
    tab.wait_for_selector("[data-figure='study-2-cost'][data-painted] .main-svg")
    assert not tab.is_visible("[data-figure='study-1-verdict-kfac-sgd-scaling'].canvas")


def test_dark_scheme_is_followed_and_can_be_switched(page_of, visit):
    tab = visit(page_of("landscape"), scheme="dark")
    first = ".canvas[data-figure=verdict-kfac-sgd-scaling]"
    tab.wait_for_selector(f"{first}[data-painted=dark]")
    ground = f'getComputedStyle(document.querySelector("{first} .main-svg")).backgroundColor'
    assert tab.evaluate(ground) == "rgb(23, 28, 36)"
    tab.click("#theme")
    tab.query_selector(first).scroll_into_view_if_needed()
    tab.wait_for_selector(f"{first}[data-painted=light]")
    assert tab.evaluate(ground) == "rgb(255, 255, 255)"
    assert tab.inner_text("#theme") == "Dark"


def test_figure_downloads_as_data_and_image(page_of, visit):
    tab = visit(page_of("landscape"))
    tab.wait_for_selector("[data-figure=verdict-kfac-sgd-scaling][data-painted]")
    starts = {"csv": b"what,batch_size,row", "png": b"\x89PNG", "svg": b"<svg"}
    for kind, start in starts.items():
        with tab.expect_download() as download:
            tab.click(f"[data-take={kind}][data-figure=verdict-kfac-sgd-scaling]")
        assert download.value.suggested_filename == f"verdict-kfac-sgd-scaling.{kind}"
        assert Path(download.value.path()).read_bytes().startswith(start)
    with tab.expect_download() as download:
        tab.click("[data-take=csv][data-figure=robustness-train_loss-kfac]")
    rows = list(csv.DictReader(Path(download.value.path()).read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 2 * 4 * 4
    assert sum(row["marks"] == "best, within tolerance" for row in rows) == 2, "a field with a comma"
    assert all(float(row["smallest"]) <= float(row["median_train_loss"]) <= float(row["largest"]) for row in rows)


def test_figure_data_is_shown_as_a_table(page_of, report_of, visit):
    tab = visit(page_of("landscape"))
    details = tab.query_selector("details.data[data-figure=cost]")
    details.scroll_into_view_if_needed()
    details.query_selector("summary").click()
    tab.wait_for_selector("details.data[data-figure=cost] tbody tr")
    rows = details.query_selector_all("tbody tr")
    assert len(rows) == 2 * 2
    header = [cell.inner_text() for cell in details.query_selector_all("th")]
    assert header[:3] == ["optimizer", "batch size", "planned"]
    assert [cell.inner_text() for cell in rows[0].query_selector_all("td")][:3] == ["kfac", "32", "64"]


def test_report_of_a_study_without_results_opens(page_of, visit):
    assert "No run has a measured value" in visit(page_of("pending")).inner_text("main")


FEW = [("mixed", 390, "light"), ("landscape", 1440, "dark")]


@pytest.mark.parametrize(("case", "width", "scheme"), FEW)
def test_report_has_no_clipped_or_overlapping_text(page_of, visit, pixel_faults, case, width, scheme):
    tab = visit(page_of(case), scheme, width)
    wait_until_painted(tab)
    assert pixel_faults(tab) == []


def test_no_report_has_clipped_or_overlapping_text(page_of, visit, pixel_faults, request):
    if not request.config.getoption("--pages"):
        pytest.skip("takes a minute; --pages checks every report at three widths in both colour schemes")
    faults = {}
    for case, width, scheme in itertools.product(
        ("landscape", "random", "mixed"), (390, 1024, 1440), ("light", "dark")
    ):
        tab = visit(page_of(case), scheme, width)
        wait_until_painted(tab)
        if found := pixel_faults(tab):
            faults[case, width, scheme] = found
        tab.close()
    assert faults == {}


def test_report_prints_every_figure_in_the_light_theme(page_of, visit, tmp_path):
    """Printed right after opening, in the dark scheme; the pages are checked as a printer would produce them."""
    pdfium = pytest.importorskip("pypdfium2")
    tab = visit(page_of("landscape"), scheme="dark")
    tab.wait_for_selector("html[data-printable]")
    titles = tab.evaluate(
        "[...document.querySelectorAll('.canvas')].filter((c) => c.offsetParent).map((c) => c.ariaLabel)"
    )
    tab.pdf(path=tmp_path / "printed.pdf", format="A4", print_background=True)
    document = pdfium.PdfDocument(tmp_path / "printed.pdf")
    text = " ".join(" ".join(page.get_textpage().get_text_range().split()) for page in document)
    assert len(titles) > 10
    assert [title for title in titles if title not in text] == [], "a figure's title is drawn with it"
    assert "had not been drawn" not in text
    for page in document:
        seen = np.asarray(page.render(scale=0.6).to_pil().convert("L"))
        margin = int(10 / 210 * seen.shape[1])
        assert seen[:, :margin].min() > 250
        assert seen[:, -margin:].min() > 250, "cut off, or dark"
    assert tab.get_attribute("html", "data-theme") == "dark"
