"""Studies with known numbers, and dashboards over them in a real Chromium."""

import importlib.resources
import logging
import re
import runpy
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from werkzeug.serving import make_server

from dashboards.app import create_app
from sensitivity.store.directory import place
from sensitivity.study.results import Status

WAIT_MS = 60_000
_open = []
"""Open pages of the current test."""

synthetic = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "analysis" / "synthetic.py")))


def mixed(trial):
    """Diverged at the largest rate, failed for SGD at the smallest, otherwise a known loss."""
    lr = dict(trial.hyperparameters)["lr"]
    if lr == 1.0:
        return synthetic.run(trial, [9.0], Status.DIVERGED)
    if trial.arm == "sgd" and lr == 0.01:
        return synthetic.run(trial, [], Status.FAILED)
    return synthetic.run(trial, [2.0, lr + 0.05 * trial.seed + 0.1])


@pytest.fixture(scope="session")
def make():
    """Writers of synthetic studies."""
    return SimpleNamespace(**vars(synthetic), mixed=mixed)


@contextmanager
def served(root, **options):
    """Serve the dashboard of `root` on a free port inside the block; yields its address."""
    app = create_app(place(str(root)), **options)
    server = make_server("127.0.0.1", 0, app.server, threaded=True)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        for tab in _open:  # an open page would report that the server is gone
            if tab.url.startswith(f"http://127.0.0.1:{server.port}/"):
                tab.close()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="session")
def studies(tmp_path_factory):
    """A root with a finished study, one half done with failures, and a damaged one."""
    root = tmp_path_factory.mktemp("studies")
    synthetic.write_study(root / "bowl", synthetic.quickstart_spec(name="bowl"), synthetic.landscape, packs=3)
    synthetic.write_study(
        root / "half", synthetic.make_spec(name="half"), lambda trial: mixed(trial) if trial.seed < 2 else None
    )
    (root / "broken").mkdir()
    (root / "broken" / "study.json").write_text("{")
    return root


@pytest.fixture(scope="session")
def site(studies):
    """The address of a dashboard over `studies`."""
    with served(studies) as address:
        yield address


@pytest.fixture
def visit(new_tab):
    """Open an address; fail on any console error, page error, or request beyond loopback, which is not resolved."""
    faults = []

    def watch(request):
        if not re.match(r"(http://127\.0\.0\.1[:/]|data:|blob:)", request.url):
            faults.append(f"request to {request.url}")

    def open_(address, scheme="light", width=1360, *, absent=False):
        def hear(message):
            remark = absent and "404 (NOT FOUND)" in message.text  # Chromium's message on the page's status
            if message.type == "error" and not remark:
                faults.append(message.text)

        tab = new_tab("http://127.0.0.1", scheme, width)
        _open.append(tab)
        tab.on("request", watch)
        tab.on("console", hear)
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.goto(address)
        return tab

    yield open_
    for tab in _open:
        if not tab.is_closed():
            tab.evaluate("localStorage.clear()")
            tab.close()
    _open.clear()
    assert faults == []


@pytest.fixture(scope="session")
def axe():
    """The text of axe-core, the accessibility checker."""
    return importlib.resources.files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")


def figure(tab, name):
    """Wait until a figure is painted, and return its place."""
    place_ = tab.locator(f"""[id='{{"name":"{name}","type":"canvas"}}']""")
    place_.locator(".js-plotly-plot:not(.dash-graph--pending) .main-svg").first.wait_for()
    return place_


def cell_at(place_, panel=0, column=0, row=0):
    """Return the position of a heatmap cell on the page."""
    return place_.locator(".js-plotly-plot").evaluate(
        """(gd, [panel, column, row]) => {
            const trace = gd._fullData.filter(t => t.type === 'heatmap')[panel];
            const box = gd.getBoundingClientRect();
            const x = gd._fullLayout[trace.xaxis.replace('x', 'xaxis')];
            const y = gd._fullLayout[trace.yaxis.replace('y', 'yaxis')];
            const id = trace.customdata[row][column];
            return [box.left + x._offset + x.l2p(column), box.top + y._offset + y.l2p(row), id];
        }""",
        [panel, column, row],
    )


def click_cell(tab, place_, panel=0, column=0, row=0):
    """Click a cell of a heatmap without first resting the pointer on it. Returns its id."""
    place_.scroll_into_view_if_needed()
    x, y, name = cell_at(place_, panel, column, row)
    tab.mouse.click(x, y)
    return name


def until(condition, seconds=WAIT_MS / 1000):
    """Wait until `condition` holds; Playwright's own wait evaluates text in the page, which its policy forbids."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def at():
    """Helpers of browser tests."""
    return SimpleNamespace(figure=figure, cell_at=cell_at, click_cell=click_cell, served=served, until=until)
