"""Time that the dashboard takes to open a large study in Chromium, and to respond to a click on a cell.

    python benchmarks/dashboard.py [--runs 10000 100000] [--rounds 3] [--write]

Writes a synthetic study with the given number of runs x 100 epochs, serves it from a process of its own, and measures
in a real browser: the time from the request to a painted robustness page (cold: nothing read; warm: the server has read
the study), the time from a click on a cell to its painted learning curves, and for each the CPU time of the page's main
thread and of the server, which varies less on a busy machine. Prints a table in Markdown; `--write` stores it in
benchmarks/results/dashboard.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from playwright.sync_api import Page, sync_playwright

from sensitivity.store.directory import place
from sensitivity.store.manifest import write_manifest
from sensitivity.store.schema import CURVES, PARAM_PREFIX, RUNS, curves_schema, runs_schema
from sensitivity.store.writer import plan_table, write_plan
from sensitivity.study.spec import StudySpec
from sensitivity.study.trials import expand

EPOCHS = 100
_CLIFF = 0.7
SEEDS = 5
PACK = 1_000
BATCH_SIZES = (32, 64, 128, 256, 512)
SIDES = {10_000: (10, 20), 100_000: (20, 100)}
"""Grid points of learning rate and second hyperparameter, for two optimizers, five batch sizes and five seeds."""
CHROMIUM = "/usr/bin/chromium"
RECORD = Path(__file__).parent / "results" / "dashboard.md"
_BEGIN, _END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"


def spec_of(runs: int) -> StudySpec:
    """Return a study of `runs` runs."""
    lr, other = SIDES[runs]
    return StudySpec.model_validate(
        {
            "name": f"runs-{runs}",
            "batch_sizes": BATCH_SIZES,
            "seeds": SEEDS,
            "budget": {"epochs": EPOCHS},
            "targets": {"test_accuracy": [0.9]},
            "optimizers": {
                "kfac": {
                    "kind": "kfac",
                    "lr": {"log": [1e-3, 3.0], "points": lr},
                    "damping": {"log": [1e-5, 10.0], "points": other},
                },
                "sgd": {
                    "kind": "sgd",
                    "lr": {"log": [1e-3, 3.0], "points": lr},
                    "momentum": {"linear": [0.0, 0.99], "points": other},
                },
            },
        }
    )


def write(root: Path, runs: int) -> None:
    """Write a study of `runs` runs, a thousand per pack, in the store's schemas.

    The loss decays to a bowl in log coordinates; runs beyond a cliff diverge. Rows are written as columns, because the
    store's writer takes one run at a time, which would take a quarter of an hour here.
    """
    spec = spec_of(runs)
    directory = place(str(root / spec.name))
    trials = expand(spec)
    manifest = write_manifest(directory, spec, source="")
    write_plan(directory, trials)
    rng = np.random.default_rng(0)
    for k in range(0, len(trials), PACK):
        table = plan_table(trials[k : k + PACK]).to_pandas()
        measured = _measured(table, rng)
        curves = pd.DataFrame(
            {"trial_id": np.repeat(table["trial_id"].to_numpy(), EPOCHS + 1)}
            | {name: np.broadcast_to(values, (len(table), EPOCHS + 1)).ravel() for name, values in measured.items()}
        )
        last = {name: values[..., -1] for name, values in measured.items() if name not in ("step", "epoch", "lr")}
        now = pd.Timestamp.now(tz="UTC")
        finished = table.assign(
            **last,
            status=np.where(_reach(table) > _CLIFF, "diverged", "completed"),
            steps=10 * EPOCHS, epochs=float(EPOCHS), initial_train_loss=measured["train_loss"][:, 0], eval_seconds=0.1,
            message="", traceback="", pack_id=f"pack{k}", pack_size=len(table), host="host", device="cpu",
            started_at=now, finished_at=now, spec_hash=manifest.spec_hash, code_version="benchmark",
        )  # fmt: skip
        params = [name.removeprefix(PARAM_PREFIX) for name in table if name.startswith(PARAM_PREFIX)]
        for folder, frame, schema in ((CURVES, curves, curves_schema()), (RUNS, finished, runs_schema(params))):
            whole = frame.reindex(columns=schema.names)
            sink = pa.BufferOutputStream()
            pq.write_table(
                pa.Table.from_pandas(whole, schema=schema, preserve_index=False), sink, compression="zstd",
                write_page_checksum=True,
            )  # fmt: skip
            directory.write(f"{folder}/pack{k}.parquet", sink.getvalue())


def _reach(table: pd.DataFrame) -> np.ndarray:
    """Return the size of each run's step, in decades [runs]."""
    momentum = table.get(PARAM_PREFIX + "momentum", pd.Series(0.0, index=table.index)).fillna(0.0).to_numpy()
    sgd = (table["kind"] == "sgd").to_numpy()
    return np.asarray(np.log10(table[PARAM_PREFIX + "lr"].to_numpy()) - np.where(sgd, np.log10(1 - momentum), 0.0))


def _measured(table: pd.DataFrame, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the columns of curves [runs, evaluations]."""
    epoch = np.arange(EPOCHS + 1, dtype=float)
    floor = 0.05 + 0.1 * (_reach(table)[:, None] + 1) ** 2
    loss = (floor + 2.2 * np.exp(-0.1 * epoch)) * np.exp(0.05 * rng.standard_normal((len(table), EPOCHS + 1)))
    return {
        "step": (10 * epoch).astype(int),
        "epoch": epoch,
        "lr": table[PARAM_PREFIX + "lr"].to_numpy()[:, None],
        "train_seconds": 0.1 * epoch,
        "flops": 1e9 * epoch,
        "train_loss": loss,
        "train_accuracy": np.clip(1 - loss / 2.5, 0.1, 1.0),
        "test_loss": loss + 0.1,
        "test_accuracy": np.clip(0.99 - loss / 2.5, 0.1, 1.0),
    }


def serve(root: str, pipe: Connection) -> None:
    """Serve the dashboard of `root`, and send the port; the process ends with the benchmark."""
    import logging

    from werkzeug.serving import make_server

    from dashboards.app import create_app

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, create_app(place(root)).server, threaded=True)
    pipe.send(server.port)
    server.serve_forever()


@contextmanager
def server(root: Path) -> Iterator[tuple[str, int]]:
    """Yield the address and the process id of a fresh server."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(str(root), theirs), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}", int(process.pid or 0)
    finally:
        process.terminate()
        process.join()


def open_page(tab: Page, address: str) -> float:
    """Return the seconds from requesting a page until both optimizers' maps are painted."""
    began = time.perf_counter()
    tab.goto(address)
    for name in ("robustness-kfac", "robustness-sgd"):
        tab.locator(f"[id*='{name}'] .js-plotly-plot .heatmaplayer image").first.wait_for(timeout=120_000)
    return time.perf_counter() - began


def click_cell(tab: Page, column: int) -> float:
    """Return the seconds from a click on a cell until its curves are painted."""
    tab.evaluate("window.scrollTo(0, 0)")
    x, y, name = tab.locator("[id*='robustness-kfac'] .js-plotly-plot").first.evaluate(
        """(gd, column) => {
            const trace = gd._fullData.filter(t => t.type === 'heatmap')[0], box = gd.getBoundingClientRect();
            const x = gd._fullLayout.xaxis, y = gd._fullLayout.yaxis, row = trace.y.length - 2;
            const id = trace.customdata[row][column];
            return [box.left + x._offset + x.l2p(column), box.top + y._offset + y.l2p(row), id];
        }""",
        column,
    )
    curves = "document.querySelector('[id*=curves-a] .js-plotly-plot')"
    before = tab.evaluate(f"JSON.stringify({curves}?.data)")
    began = time.perf_counter()
    tab.mouse.click(x, y)
    tab.wait_for_url(f"**cell={name}**")
    drawn = f"{curves}?.querySelector('.scatterlayer .trace') && JSON.stringify({curves}.data) !== before"
    tab.wait_for_function(f"before => {drawn}", arg=before, polling="raf", timeout=120_000)
    return time.perf_counter() - began


class Clock:
    """CPU seconds of a tab's main thread and of the server since the last lap."""

    def __init__(self, tab: Page, pid: int) -> None:
        self._session, self._pid = tab.context.new_cdp_session(tab), pid
        self._session.send("Performance.enable", {"timeDomain": "threadTicks"})
        self._before = (0.0, self._server())

    def _server(self) -> float:
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def lap(self) -> tuple[float, float]:
        """Return the seconds of the tab and of the server."""
        metrics = {each["name"]: each["value"] for each in self._session.send("Performance.getMetrics")["metrics"]}
        now = (metrics["TaskDuration"], self._server())
        took = (now[0] - self._before[0], now[1] - self._before[1])
        self._before = now
        return took


def peak_mib(pid: int) -> float:
    """Return the peak memory of a process, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def measure(root: Path, runs: int, rounds: int) -> str:
    """Return a table row."""
    name = f"runs-{runs}"
    cold: list[float] = []
    warm: list[float] = []
    clicks: list[float] = []
    spent: dict[str, list[tuple[float, float]]] = {"cold": [], "warm": [], "click": []}
    memory = 0.0
    for _ in range(rounds):
        with server(root) as (address, pid), sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
            context = browser.new_context(viewport={"width": 1360, "height": 900})
            for kind, times in (("cold", cold), ("warm", warm)):
                tab = context.new_page()
                clock = Clock(tab, pid)
                times.append(open_page(tab, f"{address}/study/{name}/robustness"))
                spent[kind].append(clock.lap())
                tab.wait_for_timeout(2_000)
            for column in (2, 4, 6):
                clock.lap()
                clicks.append(click_cell(tab, column))
                tab.wait_for_timeout(1_000)
                spent["click"].append(clock.lap())
            memory = max(memory, peak_mib(pid))
            browser.close()
    median = statistics.median
    seconds = " | ".join(
        f"{median([page for page, _ in took]):.2f} + {median([server for _, server in took]):.2f} s"
        for took in spent.values()
    )
    return (
        f"| {runs:,} x {EPOCHS} | {median(cold):.1f} s | {median(warm):.1f} s | {median(clicks):.2f} s"
        f" ({min(clicks):.2f} to {max(clicks):.2f}) | {seconds} | {memory:,.0f} MiB |"
    )


def main() -> None:
    """Write the studies, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=sorted(SIDES), choices=sorted(SIDES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--root", type=Path, help="folder in which the studies are written, or already are")
    parser.add_argument("--write", action="store_true", help=f"put the table into {RECORD.name}")
    given = parser.parse_args()
    lines = [
        "| runs x epochs | open, cold | open, warm | click to curves, median (range) | CPU, page + server: cold | warm"
        " | click | server's peak memory |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    print("\n".join(lines))
    with tempfile.TemporaryDirectory() as temporary:
        root = given.root or Path(temporary)
        for runs in given.runs:
            if not (root / f"runs-{runs}" / "study.json").exists():
                write(root, runs)
            lines.append(measure(root, runs, given.rounds))
            print(lines[-1], flush=True)
    loads = (
        f"Load average when it ended: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; n = {given.rounds} rounds."
    )
    print(loads)
    if given.write:
        text = RECORD.read_text(encoding="utf-8")
        before, after = text.partition(_BEGIN)[0], text.partition(_END)[2]
        RECORD.write_text("\n".join([before + _BEGIN, *lines, "", loads, "", _END]) + after, encoding="utf-8")


if __name__ == "__main__":
    main()
