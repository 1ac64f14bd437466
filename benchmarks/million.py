"""A million short runs: planning and training them on this machine, and reading a study of that size.

    python benchmarks/million.py [--train 20000] [--read 1000000] [--part 64] [--root FOLDER] [--record]

Trains `--train` runs of the noisy quadratic (10 steps, 11 evaluations each), and reads a synthetic study of `--read`
runs of 11 evaluations. Its parts have `--part` runs, 1,024 as the packs of such short runs or 64 as those of long ones,
and are merged before it is read. Every command runs in a fresh process; the dashboard is opened in Chromium. Processor
time is that of all processes of the command: the driver, Ray and the workers. On a machine that others use, it says
more than wall time.

Goals for 1,000,000 runs on a quiet machine: 1,000 runs a second and a driver of 1 GB; `list` in 2 s, `verdict` in 60 s,
the report in 5 minutes and 6 GB, the dashboard open in 15 s.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dashboard import CHROMIUM, Clock, open_page, peak_mib, server
from playwright.sync_api import sync_playwright
from record import circumstances
from report import make_spec, write_study

RECORD = Path(__file__).parent / "results" / "million.md"
_EVALUATIONS = 10
_CELLS_TIMES = 2 * 2 * 8
"""Runs of each pair of a learning rate and a second hyperparameter: two optimizers, two batch sizes, eight seeds."""
_STUDY = """
name = "million"
batch_sizes = [16, 256]
seeds = 8
[problem]
dataset = "noisy_quadratic"
model = "quadratic"
loss = "quadratic"
[budget]
steps = 10
[evaluation]
train_examples = 1
[targets]
test_loss = [2.0, 1.5]
[optimizers.sgd]
kind = "sgd"
lr = {{ log = [0.05, 2.0], points = {rates} }}
momentum = {{ linear = [0.0, 0.95], points = {others} }}
[optimizers.newton]
kind = "newton"
lr = {{ log = [3.16228e-3, 1.0], points = {rates} }}
damping = {{ log = [1e-3, 3.16228], points = {others} }}
momentum = 0.0
"""


@dataclass(frozen=True)
class Measured:
    """What one command took."""

    wall_s: float
    cpu_s: float
    """Processor seconds of the command and of all processes below it."""
    driver_cpu_s: float
    peak_mb: float
    """Peak resident memory of the command's own process."""


def measured(command: Sequence[str], *, cwd: str) -> Measured:
    """Run a command, and measure it and the processes below it; those that end are counted at their last sample."""
    began, cpu, peak = time.perf_counter(), dict[int, float](), 0.0
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=cwd, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            with contextlib.suppress(OSError, StopIteration):  # it has just ended
                peak = max(peak, peak_mib(process.pid))
            cpu |= _cpu_seconds(process.pid)
            time.sleep(0.1)
        wall = time.perf_counter() - began
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{text}")
    return Measured(wall, sum(cpu.values()), cpu[process.pid], peak)


def _cpu_seconds(root: int) -> dict[int, float]:
    """Return the processor seconds of a process and of all processes below it, by id."""
    seconds, children = dict[int, float](), dict[int, list[int]]()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # the process has just ended
            pid, fields = int(stat.parent.name), stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(pid)
            seconds[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    below = [root]
    for pid in below:
        below += children.get(pid, [])
    return {pid: seconds[pid] for pid in below if pid in seconds}


def train(runs: int) -> list[str]:
    """Plan and train about `runs` runs, and return rows of the table."""
    side = max(round((runs / _CELLS_TIMES) ** 0.5), 2)
    others = max(round(runs / _CELLS_TIMES / side), 2)
    runs = _CELLS_TIMES * side * others
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "million.toml").write_text(_STUDY.format(rates=side, others=others))
        command = [sys.executable, "-m", "sensitivity.cli.main"]
        planned = measured([*command, "plan", "million.toml"], cwd=folder)
        trained = measured([*command, "run", "million.toml", "--storage", "studies"], cwd=folder)
        parts = len(list(Path(folder, "studies", "million", "runs").iterdir()))
    rows = []
    for name, each in ((f"`plan`, {runs:,} runs", planned), (f"`run`, {runs:,} runs in {parts:,} parts", trained)):
        rate = f"{runs / each.wall_s:,.0f} | {runs / each.cpu_s:,.0f}"
        rows.append(_row(name, each, rate))
        print(rows[-1], flush=True)
    return rows


_MERGE = """
import sys
from sensitivity.store.directory import place
from sensitivity.store.merging import merge_parts
merge_parts(place(sys.argv[1]), require=lambda: None)
"""


def read(study: Path) -> list[str]:
    """Merge the parts of a study, read it with each reader, and return rows of the table."""
    command = [sys.executable, "-m", "sensitivity.cli.main"]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        before = len(list((study / "runs").iterdir()))
        listed = measured([*command, "list", str(study.parent)], cwd=folder)
        merged = measured([sys.executable, "-c", _MERGE, str(study)], cwd=folder)
        after = len(list((study / "runs").iterdir()))
        rows.append(_row(f"`list` of {before:,} parts", listed, "– | –"))
        rows.append(_row(f"merging them into {after:,}", merged, "– | –"))
        for name, arguments in {
            "list": ["list", str(study.parent)],
            "verdict": ["verdict", str(study)],
            "report": ["report", str(study), "--output", f"{folder}/report.html"],
        }.items():
            rows.append(_row(f"`{name}`", measured([*command, *arguments], cwd=folder), "– | –"))
            print(rows[-1], flush=True)
    rows.append(_row("dashboard's maps, its first page", opened(study), "– | –"))
    print(rows[-1], flush=True)
    return rows


def opened(study: Path) -> Measured:
    """Open the maps of a study in Chromium, from a server that has read nothing yet."""
    with server(study.parent) as (address, pid), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_context(viewport={"width": 1360, "height": 900}).new_page()
        clock = Clock(tab, pid)
        wall = open_page(tab, f"{address}/study/{study.name}/robustness")
        page_s, server_s = clock.lap()
        browser.close()
        return Measured(wall, page_s + server_s, server_s, peak_mib(pid))


def _row(name: str, each: Measured, rate: str) -> str:
    return f"| {name} | {each.wall_s:.1f} | {each.cpu_s:.1f} | {each.driver_cpu_s:.1f} | {each.peak_mb:,.0f} | {rate} |"


def main() -> None:
    """Measure, print the table, and record it on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=20_000, help="runs that are trained; 0 for none")
    parser.add_argument("--read", type=int, default=1_000_000, help="runs of the synthetic study; 0 for none")
    parser.add_argument("--part", type=int, default=1_024, help="runs in a part of it before parts are merged")
    parser.add_argument("--root", type=Path, help="folder in which the synthetic study is written, or already is")
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    begun = circumstances("numpy", "pandas", "pyarrow", "ray", "torch")
    rows = train(arguments.train) if arguments.train else []
    if arguments.read:
        spec = make_spec(arguments.read, _EVALUATIONS)
        with tempfile.TemporaryDirectory() as temporary:
            study = (arguments.root or Path(temporary)).resolve() / spec.name
            if not study.exists():
                study.mkdir(parents=True)
                write_study(study, spec, _EVALUATIONS, runs_a_part=arguments.part)
            rows += read(study)
    text = "\n".join(
        [
            "# million",
            "",
            f"{begun}.",
            "",
            f"Load {os.getloadavg()[0]:.1f} at the end; n = 1 each, in a fresh process. The reading commands read "
            f"{arguments.read:,} runs of {_EVALUATIONS + 1} evaluations in parts of {arguments.part:,} runs.",
            "",
            "| command | wall s | CPU s | of it its own process | peak MB of it | runs/s of wall | runs/s of CPU |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
            *rows,
            "",
        ]
    )
    print(text)
    if arguments.record:
        RECORD.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
