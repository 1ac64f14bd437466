"""Duration of the shipped studies by number of workers: the table of docs/clusters.md, made by ``sensitivity plan``.

    python benchmarks/sizing.py                     every study that can be planned here
    python benchmarks/sizing.py quickstart template only these; the rows of other studies stay

A study is planned on the device that its file names, and the table says which. If that is an accelerator that this
machine lacks, the FLOPs of the plan are divided by an assumed rate; if a data set can't be downloaded, zeros of the
same shape replace it, since FLOPs depend on the shape only. Times are upper bounds, since diverged runs end early, and
exclude start-up.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from sensitivity.study.load import shipped
from sensitivity.study.provenance import machine
from sensitivity.study.words import duration

GUIDE = Path(__file__).parents[1] / "docs" / "clusters.md"
WORKERS = (1, 8, 64)
TIMEOUT_S = 900
ASSUMED = 1e13
"""FLOP per second of a missing accelerator: not measured, a unit for scaling."""
SIZES = {"cifar10": (50_000, 10_000), "svhn": (73_257, 26_032)}
"""Numbers of training and test images, 3 x 32 x 32 in ten classes (Krizhevsky 2009; Netzer et al. 2011)."""
_STAND_IN = """
import torch

def data():
    train, test = {sizes}
    return [x for n in (train, test) for x in (torch.zeros(n, 3, 32, 32), torch.arange(n) % 10)]
"""
_KNOWN = re.compile(r"Known without it: ([\d,]+) runs, (\S+) FLOP in all")
_BLOCK = re.compile(r"(?<=<!-- sizing -->\n).*?(?=<!-- /sizing -->)", re.DOTALL)
_HEAD = (
    f"| study | runs | measured on | {' | '.join(f'on {n}' for n in WORKERS)} |",
    f"| --- | ---: | --- |{' ---: |' * len(WORKERS)}",
)


def row(name: str) -> str:
    """Plan a study, and return its table row, or a row that says why it has no times."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = planned(name, folder)
            missing = re.search(r"the data set (\w+) can't be downloaded", done.stderr)
            if missing and missing[1] in SIZES:
                done = planned(stand_in(name, missing[1], Path(folder)), folder)
        except subprocess.TimeoutExpired:
            return f"| {name} | | not measured within {TIMEOUT_S} s here |{' |' * len(WORKERS)}"
    if done.returncode == 0:
        priced = json.loads(done.stdout)
        runs, seconds, where = sum(line["planned"] for line in priced["lines"]), priced["device_seconds"], device()
    elif known := _KNOWN.search(done.stderr):
        runs, flops = int(known[1].replace(",", "")), float(known[2])
        seconds, where = flops / ASSUMED, f"not measured: {flops:.2g} FLOP at {ASSUMED / 1e12:.0f} TFLOP/s, assumed"
    else:
        reason = done.stderr.removeprefix("error: ").splitlines()[0].partition(" (")[0]
        return f"| {name} | | not measured yet: {reason} |{' |' * len(WORKERS)}"
    times = [duration(seconds / workers) for workers in WORKERS]
    return f"| {name} | {runs:,} | {where} | {' | '.join(times)} |"


def planned(study: str, folder: str) -> subprocess.CompletedProcess[str]:
    """Run `sensitivity plan` for one worker."""
    command = [sys.executable, "-m", "sensitivity.cli.main", "plan", study, "--json", "--workers", "1"]
    return subprocess.run(
        [*command, "--storage", folder], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def stand_in(name: str, dataset: str, folder: Path) -> str:
    """Write a copy of a shipped study that uses zeros instead of a data set, and return its path."""
    (folder / "stand_in.py").write_text(_STAND_IN.format(sizes=SIZES[dataset]))
    text = shipped()[name].read_text()
    (folder / f"{name}.toml").write_text(text.replace(f'dataset = "{dataset}"', 'dataset = "stand_in:data"'))
    return str(folder / f"{name}.toml")


def device() -> str:
    """Return the device on which studies are planned here."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"one core, {machine()['cpu'] or platform.machine()}"


def main() -> None:
    """Measure, print, and write the rows into the guide."""
    wanted = sys.argv[1:] or list(shipped())
    text = GUIDE.read_text()
    block = _BLOCK.search(text)
    if block is None:
        raise SystemExit(f"{GUIDE} has no place for the table")
    rows = {line.split("|")[1].strip(): line for line in block[0].splitlines()[len(_HEAD) :] if line}
    for name in wanted:
        rows[name] = row(name)
        print(rows[name], flush=True)
        table = "\n".join([*_HEAD, *(rows[name] for name in sorted(rows))])
        GUIDE.write_text(f"{text[: block.start()]}{table}\n{text[block.end() :]}")


if __name__ == "__main__":
    main()
