"""How long the shipped studies take on how many workers: the table of docs/clusters.md, made by ``sensitivity plan``.

    python benchmarks/sizing.py                     every study that can be planned here
    python benchmarks/sizing.py quickstart template only these; the others' rows stay

A study is planned on the device that its file names, or on the CPU where there is no accelerator, and the table says
which. Times are upper bounds, since diverged runs end early; start-up is not in them.
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

from sensitivity.cli.display import duration
from sensitivity.study.load import shipped
from sensitivity.study.provenance import machine

GUIDE = Path(__file__).parents[1] / "docs" / "clusters.md"
WORKERS = (1, 8, 64)
TIMEOUT_S = 900
_BLOCK = re.compile(r"(?<=<!-- sizing -->\n).*?(?=<!-- /sizing -->)", re.DOTALL)
_HEAD = (
    f"| study | runs | measured on | {' | '.join(f'on {n}' for n in WORKERS)} |",
    f"| --- | ---: | --- |{' ---: |' * len(WORKERS)}",
)


def row(name: str) -> str:
    """Plan a study, and return its row; or why it has none."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sensitivity.cli.main", "plan", name, "--json", "--workers", "1"]
        try:
            done = subprocess.run(
                [*command, "--storage", folder], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return f"| {name} | | not measured within {TIMEOUT_S} s here |{' |' * len(WORKERS)}"
    if done.returncode:
        reason = done.stderr.removeprefix("error: ").splitlines()[0].partition(" (")[0]
        return f"| {name} | | not measured yet: {reason} |{' |' * len(WORKERS)}"
    priced = json.loads(done.stdout)
    runs = sum(line["planned"] for line in priced["lines"])
    times = [duration(priced["device_seconds"] / workers) for workers in WORKERS]
    return f"| {name} | {runs:,} | {device()} | {' | '.join(times)} |"


def device() -> str:
    """Return what studies are planned on here."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"one core, {machine()['cpu'] or platform.machine()}"


def main() -> None:
    """Measure, print, and put the rows into the guide."""
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
