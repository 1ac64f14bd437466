"""Time of `sensitivity.run` in Python, on the first call in a process and on later ones.

    python benchmarks/python_runs.py        writes benchmarks/results/python_runs.md

The study is small, so nearly all of the time is overhead. Ray starts with the first run; later runs reuse it, and its
worker processes that have trained before. Each run has its own name and is therefore a new study.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "python_runs.md"
RUNS = 5


def main() -> None:
    """Measure, and write the table."""
    began = time.perf_counter()
    import sensitivity

    rows = [("import sensitivity", "", time.perf_counter() - began, os.getloadavg()[0])]
    spec = sensitivity.Study(
        name="small",
        batch_sizes=[64],
        seeds=2,
        budget={"steps": 20},
        optimizers={"sgd": {"kind": "sgd", "lr": [0.05, 0.1, 0.2, 0.4]}},
    )
    with tempfile.TemporaryDirectory() as storage:
        for k in range(RUNS):
            began, at = time.perf_counter(), time.time()
            study = sensitivity.run(spec.replace(name=f"small-{k}"), storage=storage, workers=2, progress=False)
            seconds = time.perf_counter() - began
            first = f"{study.runs['finished_at'].min().timestamp() - at:.2f}"
            rows.append((f"run {k + 1}", first, seconds, os.getloadavg()[0]))
        sensitivity.shutdown()
    lines = [f"| {what} | {first} | {seconds:.2f} | {load:.1f} |" for what, first, seconds, load in rows]
    from sensitivity.study.provenance import machine

    RESULTS.write_text(
        "# A small study from Python, run after run in one process\n\n"
        "8 runs of 20 steps, 2 workers; made by `python benchmarks/python_runs.py` on "
        f"{machine()['cores']} cores ({machine()['cpu']}). The load is the number of processes that want to run.\n\n"
        "| | first result, s | end, s | load |\n| --- | ---: | ---: | ---: |\n" + "\n".join(lines) + "\n"
    )
    sys.stdout.write(RESULTS.read_text())


if __name__ == "__main__":
    main()
