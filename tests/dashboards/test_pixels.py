"""Pages as painted: no text cut off, no overlaps, nothing beyond its panel, no sideways scrolling."""

import itertools

import numpy as np
import pytest

from sensitivity.store.directory import place
from sensitivity.store.reader import read_study

LONG = "study_of_a_name_without_a_gap_that_is_as_long_as_names_may_be_64"
FEW = [
    (390, "light", f"/study/{LONG}/overview"),
    (390, "dark", "/study/bowl/sensitivity"),
    (1024, "light", "/study/bowl/scaling"),
    (1440, "dark", "/study/half/robustness"),
]
"""Pages that are always checked; with --pages, every page is."""
ALL = (
    "/", "/compare?study=bowl&study=half", "/start", "/study/bowl/overview", "/study/half/overview",
    "/study/bowl/robustness", "/study/half/runs?run={run}", "/study/bowl/sensitivity", "/study/bowl/success",
    "/study/bowl/success?form=difference", "/study/bowl/scaling", "/study/half/scaling", "/study/bowl/curves",
    "/study/half/curves?cells=median", "/study/bowl/runs",
)  # fmt: skip
UNFILLED = """[...document.querySelectorAll('#page figure.block')].filter((one) => {
  const drawn = one.querySelector('.gtitle') && one.querySelector('.main-svg');
  const wide = drawn && one.querySelector('.js-plotly-plot').clientWidth - drawn.getBoundingClientRect().width;
  return drawn ? Math.abs(wide) > 1 : !one.querySelector('.note:not(:empty)');
}).length"""
"""Figures that are neither drawn at their width nor explain why not."""


@pytest.fixture(scope="module")
def named(studies, make, at):
    """The address of a dashboard that may run studies, over the studies of other tests and one with a long name."""
    if not (studies / LONG).exists():
        make.write_study(studies / LONG, make.make_spec(name=LONG), make.mixed)
    with at.served(studies, allow_run=True) as address:
        yield address


def look(tab, at):
    """Wait until the page has requested everything, and every figure is drawn or explains why not."""
    tab.locator("#page h1").first.wait_for()
    tab.wait_for_load_state("networkidle")
    at.until(lambda: tab.evaluate(UNFILLED) == 0)
    tab.wait_for_load_state("networkidle")


@pytest.mark.parametrize(("width", "scheme", "path"), FEW)
def test_page_has_no_clipped_or_overlapping_text(named, visit, at, pixel_faults, width, scheme, path):
    tab = visit(f"{named}{path}", scheme, width)
    look(tab, at)
    assert pixel_faults(tab) == []
    filters = tab.locator(".filters")
    assert (filters.get_attribute("open") is None) is (width < 600), "folded on a phone"
    if width < 600:
        filters.locator("summary").first.click()
        tab.get_by_role("textbox", name="Metric").or_(tab.get_by_label("Metric")).first.wait_for()
        assert pixel_faults(tab) == []


def test_no_page_has_clipped_or_overlapping_text(named, studies, visit, at, pixel_faults, request):
    if not request.config.getoption("--pages"):
        pytest.skip("takes minutes; --pages checks every page at three widths in both colour schemes")
    run = read_study(place(str(studies / "half"))).runs["trial_id"].iloc[0]
    faults = {}
    for width, scheme, path in itertools.product((390, 1024, 1440), ("light", "dark"), ALL):
        tab = visit(f"{named}{path.format(run=run)}", scheme, width)
        look(tab, at)
        if found := pixel_faults(tab):
            faults[width, scheme, path] = found
        tab.close()
    assert faults == {}


def test_printed_page_has_every_figure_within_its_margins(named, visit, at, tmp_path):
    pdfium = pytest.importorskip("pypdfium2")
    tab = visit(f"{named}/study/half/robustness", "light", 1440)
    look(tab, at)
    tab.pdf(path=tmp_path / "printed.pdf", format="A4", print_background=True)
    document = pdfium.PdfDocument(tmp_path / "printed.pdf")
    text = " ".join(" ".join(page.get_textpage().get_text_range().split()) for page in document)
    for title in tab.locator(".gtitle").all_text_contents():
        assert title in text
    for control in ("Metric", "Duplicate", "CSV", "Start a study"):
        assert control not in text, "controls are not printed"
    for page in document:
        seen = np.asarray(page.render(scale=0.6).to_pil().convert("L"))
        margin = int(10 / 210 * seen.shape[1])
        assert seen[:, :margin].min() > 240
        assert seen[:, -margin:].min() > 240, "cut off"
