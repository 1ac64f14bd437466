r"""Tests and measurements of this product on a machine with an accelerator, the most informative first, in one command.

    python3 benchmarks/accelerator.py --minutes 8 --out OUT

It needs Python 3.11 and torch 2.11 or later, numpy, scipy and scikit-learn, this repository (which need not be
installed), and five wheels, which can be copied to the machine if it has no network: pydantic, pydantic-core,
annotated-types, typing-inspection, typing-extensions. Ray, Optuna, Plotly, pyarrow and pandas are not needed. To
download the wheels, for Python 3.12 on x86-64:

    python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        --platform manylinux_2_17_x86_64 -d wheels \
        'pydantic==2.14.*' pydantic-core annotated-types typing-inspection typing-extensions
    python3 -m pip install --no-index --no-deps --target site wheels/*.whl    # there; then PYTHONPATH=site

Each part runs in a process of its own and is ended at its own time limit. ``accelerator.json`` and ``accelerator.md``
in the folder are rewritten after every case, so an interrupted command keeps what it has. docs/accelerator.md explains
each line. The exit status is 1 if a case failed.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from accelerator_parts.record import MARKDOWN, Record, cases_in, write  # noqa: E402

PARTS = {
    "machine": 15,
    "correctness": 110,
    "recording": 20,
    "steps": 75,
    "packs": 110,
    "shares": 30,
    "kernels": 45,
    "memory": 35,
    "small_study": 40,
}
"""Modules of `accelerator_parts` in the order in which they run, with their shares of the time."""
_LAST_CASE_S = 20.0
"""Seconds that the current case may take to end when the time of a part is over."""


def main() -> int:
    """Run all parts or, in a process of its own, one of them."""
    arguments = _arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.part:
        _run_part(arguments)
        return 0
    write(arguments.out, [])
    ends = time.monotonic() + 60 * arguments.minutes
    waiting = {part: share for part, share in PARTS.items() if part in (arguments.only or PARTS)}
    for part in list(waiting):
        share = (ends - time.monotonic()) * PARTS[part] / sum(waiting.values())
        del waiting[part]
        _spawn(part, share, arguments)
    cases = cases_in(arguments.out)
    print(f"{len(cases)} cases in {arguments.out / MARKDOWN}")
    return int(any(case.get("ok") is False for case in cases))


def _spawn(part: str, share: float, arguments: argparse.Namespace) -> None:
    command = [sys.executable, __file__, "--part", part, "--seconds", str(share), "--out", str(arguments.out)]
    command += ["--device", arguments.device, *(["--tiny"] if arguments.tiny else [])]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    record = Record(arguments.out, part, math.inf)
    try:
        status = subprocess.run(command, env=environment, timeout=share + _LAST_CASE_S, check=False).returncode
    except subprocess.TimeoutExpired:
        record.case("the part", lambda: {"ok": False, "ended": f"after {share + _LAST_CASE_S:.0f} s"})
    else:
        if status:
            record.case("the part", lambda: {"ok": False, "ended": f"with status {status}"})


def _run_part(arguments: argparse.Namespace) -> None:
    """Run one part in this process."""
    import torch
    from accelerator_parts.workloads import Workloads

    from sensitivity.training.precision import set_tf32

    if arguments.device == "cpu":
        torch.set_num_threads(1 if arguments.tiny else torch.get_num_threads())
    elif not torch.cuda.is_available():
        raise SystemExit("no CUDA device; to try it without one: --device cpu --tiny")
    set_tf32("float32")
    record = Record(arguments.out, arguments.part, time.monotonic() + arguments.seconds)
    module = importlib.import_module(f"accelerator_parts.{arguments.part}")
    module.run(record, Workloads(torch.device(arguments.device), arguments.tiny))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--out", type=Path, default=Path("accelerator"), help="folder of the record")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to see that every part runs")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help="of: " + ", ".join(PARTS))
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=600.0, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
