import base64
import gzip
import json
import re
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from sensitivity.report import render_report, write_report
from sensitivity.store.directory import place
from sensitivity.store.reader import read_study
from sensitivity.study.errors import StorageError
from sensitivity.study.results import Status

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
ONE = {"sgd": {"kind": "sgd", "lr": 0.1}}
BOX = {"lr": {"log": [0.01, 1.0]}, "momentum": {"linear": [0.0, 0.9]}, "design": "random", "samples": 8}

synthetic = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "analysis" / "synthetic.py")))


def completed(trial):
    values = dict(trial.hyperparameters)
    return synthetic.run(trial, [2.0, values["lr"] + 0.05 * trial.seed + 0.1])


def diverged(trial):
    return synthetic.run(trial, [9.0], Status.DIVERGED)


def failed(trial):
    return synthetic.run(trial, [], Status.FAILED)


def half(trial):
    return completed(trial) if trial.seed == 0 and trial.arm == "kfac" else None


def mixed(trial):
    lr = dict(trial.hyperparameters)["lr"]
    if lr == 1.0:
        return diverged(trial) if trial.seed else completed(trial)
    return failed(trial) if trial.arm == "sgd" and lr == 0.01 else completed(trial)


CASES = {
    # name: (outcome, changes of the spec, what the page says, figures)
    "complete": (completed, {}, "108 completed", 13),
    "mixed": (mixed, {}, "failed with an exception", 13),
    "pending": (lambda trial: None, {}, "No run has a measured value", 1),
    "half-finished": (half, {"batch_sizes": [32]}, "planned runs have no result yet", 13),
    "all-diverged": (diverged, {"batch_sizes": [32]}, "no run has completed, so it has no best cell", 9),
    "all-failed": (failed, {}, "failed with an exception", 1),
    "single-cell": (completed, {"optimizers": ONE, "batch_sizes": [32], "seeds": 1}, "One seed", 9),
    "single-seed": (completed, {"seeds": 1, "batch_sizes": [32]}, "One seed", 13),
    "no-target": (completed, {"targets": {}, "batch_sizes": [32]}, "declares no target", 12),
    "random": (completed, {"optimizers": {"sgd": {"kind": "sgd", **BOX}}, "seeds": 1}, "95% interval", 9),
    "squared-error": (
        completed,
        {"problem": {"loss": "squared_error"}, "targets": {}, "optimizers": ONE},
        "squared error",
        8,
    ),
}


def packed(html, name):
    (data,) = re.findall(rf'id="packed-{name}">([^<]*)</script>', html)
    return gzip.decompress(base64.b64decode(data)).decode()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    made = {}

    def make(case):
        if case not in made:
            outcome, changes, _, _ = CASES[case]
            folder = tmp_path_factory.mktemp(case)
            html = write_report(synthetic.write_study(folder, synthetic.make_spec(**changes), outcome))
            made[case] = folder / "report.html"
            made[case].write_text(html, encoding="utf-8")
        return made[case]

    return make


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_study_has_a_report_that_says_what_it_can(case, page):
    _, _, said, figures = CASES[case]
    html = page(case).read_text(encoding="utf-8")
    assert said in html
    assert html.count('class="canvas"') == figures
    for heading in ("Robustness maps", "Runs that reach a target", "Every planned run", "Where this comes from"):
        assert heading in html
    assert "Traceback" not in html
    if figures:
        content = json.loads(packed(html, "figures"))
        assert len(content["figures"]) == figures
        assert content["config"]["showSendToCloud"] is False
        for themes in content["figures"].values():
            assert set(themes) == {"light", "dark"}
            assert "n = " in themes["light"]["layout"]["title"]["subtitle"]["text"]


def test_an_empty_plan_says_so(tmp_path):
    study = read_study(synthetic.write_study(tmp_path, synthetic.make_spec(), completed))
    html = render_report(replace(study, runs=study.runs.iloc[:0], curves=study.curves.iloc[:0], unplanned=108))
    assert "No run is planned in this directory" in html
    assert "108 further runs are kept" in html


def test_a_folder_without_a_study_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="no study here"):
        write_report(place(str(tmp_path)))


def test_text_from_outside_is_escaped(tmp_path):
    hostile = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
    html = write_report(synthetic.write_study(tmp_path, synthetic.make_spec(description=hostile), failed))
    assert "<img" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html
    assert "<script>alert(" not in html, "of the description, or of a run's message"


def test_best_cells_are_told_with_their_denominators(page):
    html = page("mixed").read_text(encoding="utf-8")
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    best = [re.sub(r"<[^>]+>", "|", row) for row in rows if "SGD" in row and "learning rate" in row]
    # SGD at lr 0.1: losses 0.2, 0.25, 0.3; accuracy 1 / (1 + loss) - 0.01, median 0.79.
    assert "learning rate 0.1, momentum 0" in best[0]
    assert "79.0%" in best[0]
    assert "75.9%–82.3%" in best[0]
    assert "3/3" in best[0]


def test_the_page_is_one_small_file_of_its_own(page):
    html = page("complete").read_text(encoding="utf-8")
    assert len(html) < 3_000_000
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", html.split('<script type="text/plain"')[0])
    assert "default-src 'none'" in html


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM}")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser):
    """Open a file; fail on any console error, page error, or request beyond it."""
    faults, contexts = [], []

    def watch(request):
        if not request.url.startswith(("file:", "data:", "blob:")):
            faults.append(f"request to {request.url}")

    def open_(path, scheme="light", width=1280):
        contexts.append(browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}))
        tab = contexts[-1].new_page()
        tab.on("console", lambda m: faults.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("request", watch)
        tab.goto(path.as_uri())
        return tab

    yield open_
    for context in contexts:
        context.close()
    assert faults == []


def paint_all(tab, theme):
    """Scroll to each figure of each metric, and return how many were painted with marks in them."""
    metrics = tab.eval_on_selector_all("#maps [data-show]", "buttons => buttons.map(b => b.dataset.show)")
    painted = set()
    for metric in metrics or [None]:
        if metric:
            tab.click(f"#maps [data-show={metric}]")
        for canvas in tab.query_selector_all(".canvas"):
            if canvas.is_visible():
                canvas.scroll_into_view_if_needed()
                name = canvas.get_attribute("id")
                tab.wait_for_selector(f"#{name}[data-painted={theme}] .main-svg", timeout=20_000)
                assert tab.query_selector(f"#{name} .overplot .trace, #{name} .overplot image") is not None
                painted.add(name)
    return len(painted)


@pytest.mark.parametrize("case", ["mixed", "all-diverged", "random"])
def test_a_browser_paints_every_figure_and_asks_for_nothing(case, page, visit):
    assert paint_all(visit(page(case)), "light") == CASES[case][3]


def test_dark_is_followed_and_switched(page, visit):
    tab = visit(page("complete"), scheme="dark")
    tab.query_selector("#figure-1").scroll_into_view_if_needed()
    tab.wait_for_selector("#figure-1[data-painted=dark]")
    ground = "getComputedStyle(document.querySelector('#figure-1 .main-svg')).backgroundColor"
    assert tab.evaluate(ground) == "rgb(23, 28, 36)"
    tab.click("#theme")  # which scrolls up to the button; a figure out of view is repainted when it comes back
    tab.query_selector("#figure-1").scroll_into_view_if_needed()
    tab.wait_for_selector("#figure-1[data-painted=light]")
    assert tab.evaluate(ground) == "rgb(255, 255, 255)"
    assert tab.inner_text("#theme") == "Dark"


def test_a_study_without_results_opens(page, visit):
    assert "No run has a measured value" in visit(page("pending")).inner_text("main")


def test_a_phone_scrolls_figures_and_not_the_page(page, visit):
    tab = visit(page("mixed"), width=390)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
