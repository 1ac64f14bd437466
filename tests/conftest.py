"""What every test of the suite gets: caches of its own, so that no test depends on what this machine ran before."""

import gc
import os
import signal
import sys
from pathlib import Path

import pytest

# Before any import of torch, and for all commands: networks this small gain nothing from threads, which wait for each
# other by spinning.
os.environ["OMP_NUM_THREADS"] = "1"

# The suite starts hundreds of processes; what one of them has compiled, the others read.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--process-per-site",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
"""Pages of one site share a process, see `new_tab`; the last lets no request leave this machine."""
WAIT_MS = 60_000


def pytest_addoption(parser):
    parser.addoption(
        "--faults",
        type=int,
        metavar="N",
        help="tests/faults: make N kills instead of 4, and record the outcome in benchmarks/results/faults.md",
    )
    parser.addoption(
        "--cluster",
        action="store_true",
        help="tests/cluster: also the quickstart on a cluster, SLURM and object stores; recorded in benchmarks/results",
    )
    parser.addoption(
        "--pages",
        action="store_true",
        help="tests/dashboards, tests/report: the rules of pixels on every page, at each width, in both schemes",
    )


def pytest_configure():
    """Heed the signals that the caller ignores, as `nohup` and a shell's background do: tests send them to commands."""
    defaults = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    for number, handler in defaults.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


_COMPUTING = frozenset({"analysis", "figures", "kfac", "optimizers", "settling", "study", "training"})
"""Folders whose tests only compute."""


def pytest_xdist_auto_num_workers(config):
    """One process more than cores, for the time in which one waits; one a core if the tests only compute. At most 4."""
    here = Path(__file__).parent
    paths = [Path.cwd() / argument.partition("::")[0] for argument in config.args]
    computing = all(path.is_relative_to(here) and {*path.relative_to(here).parts[:1]} & _COMPUTING for path in paths)
    cores = os.cpu_count() or 1
    return min(4, cores if computing else cores + 1)


LONGEST = (
    "dashboards/test_browser.py",
    "faults/test_faults.py",
    "execution/test_interruption.py",
    "cluster/test_cluster.py",
    "execution/test_worker_pool.py",
    "face/test_notebook.py",
    "report/test_page.py",
    "report/test_browser.py",
    "execution/test_identity.py",
    "dashboards/test_results.py",
    "dashboards/test_workbench.py",
    "execution/test_launch.py",
    "kfac/test_optimises.py",
)
"""Files in which a process of the suite spends longest, the longest first."""


def pytest_collection_modifyitems(items):
    """Begin with the longest files: the processes that share the suite then end together."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get("/".join(item.path.parts[-2:]), len(places)))


def pytest_collection_finish():
    """Spare the garbage collector what lives until the end: to search it again and again took a tenth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _own_caches(tmp_path_factory):
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture
def optuna_storage():
    """Open an Optuna storage by its URL, and close it at the end of the test."""
    optuna = pytest.importorskip("optuna")
    opened = []

    def storage(url):
        opened.append(optuna.storages.RDBStorage(url))
        return opened[-1]

    yield storage
    for each in opened:
        each.remove_session()
        each.engine.dispose()


@pytest.fixture(scope="session")
def pixel_faults():
    """What is wrong with a page as it is painted: a function of a tab, which returns a line for each fault."""
    rules = Path(__file__).with_name("pixel_rules.js").read_text(encoding="utf-8")
    return lambda tab: tab.evaluate(rules)


@pytest.fixture(scope="module")
def browser():
    """A Chromium; one at a time in a process, as playwright's event loop is the process's own while it is open."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM}")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS, timeout=120_000)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def new_tab(browser):
    """Open a tab for pages of a site, such as `file:///`, in a colour scheme and at a width.

    The tabs of a module are of one window and share its cache. An empty page of the site stays open, and with it the
    process of the site's pages: a page then finds the scripts of the one before it compiled, which halves its processor
    time.
    """
    context, sites = browser.new_context(), set()
    context.set_default_timeout(WAIT_MS)

    def open_(site, scheme, width):
        if site not in sites:
            empty = context.new_page()
            empty.route("**", lambda route: route.fulfill(body=""))
            empty.goto(site)
            sites.add(site)
        tab = context.new_page()
        tab.emulate_media(color_scheme=scheme)
        tab.set_viewport_size({"width": width, "height": 900})
        return tab

    yield open_
    context.close()
