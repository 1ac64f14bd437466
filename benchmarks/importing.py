"""Time and memory of an import of 1,000,000 evaluations from CSV, and of the export of 1,152 runs to Optuna.

    python benchmarks/importing.py

Each is done in a process of its own; time and peak memory are those of the process, including imports of packages. The
record is ``benchmarks/results/importing.md``.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

RECORD = Path(__file__).parent / "results" / "importing.md"


def write_csv(path: Path, *, rates: int, sizes: int, seeds: int, evaluations: int) -> int:
    """Write a grid of two optimizers, one row per evaluation; return the number of rows."""
    shape = (2, rates, sizes, seeds, evaluations)
    optimizer, rate, size, seed, k = (axis.ravel() for axis in np.indices(shape))
    lr = np.logspace(-3, 0, rates)[rate]
    loss = 2.3 * np.exp(-k / (20 + 5 * optimizer + 10 * np.abs(np.log10(lr) + 1.5) + seed % 3)) + 0.01
    table = pa.table(
        {
            "run": np.ravel_multi_index((optimizer, rate, size, seed), shape[:-1]),
            "optimizer": np.array(["sgd", "adamw"])[optimizer],
            "learning_rate": lr,
            "batch_size": 32 * 2**size,
            "seed": seed,
            "step": 10 * k,
            "train_loss": loss,
            "val_loss": loss + 0.1,
            "val_accuracy": np.clip(1 - loss / 2.5, 0, 1),
        }
    )
    pa_csv.write_csv(table, path)
    return len(table)


def measured(*command: str) -> str:
    """Run a command; return its wall-clock time, its CPU time, and its peak memory, as table cells."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "sensitivity.cli.main", *command], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return f"{wall:.1f} s | {cpu:.1f} s | {after.ru_maxrss * 1024 / 1e9:.2f} GB |"


def main() -> None:
    """Measure, and write the record."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, shape in {
            "export": {"rates": 12, "sizes": 4, "seeds": 12, "evaluations": 55},
            "large": {"rates": 20, "sizes": 5, "seeds": 50, "evaluations": 100},
        }.items():
            rows = write_csv(Path(f"{name}.csv"), **shape)
            runs = rows // shape["evaluations"]
            took = measured("import", f"{name}.csv", "--as", name)
            size = Path(f"{name}.csv").stat().st_size / 1e6
            what = f"import of {rows:,} evaluations of {runs:,} runs ({size:.0f} MB of CSV)"
            lines.append(f"| {what} | {took}")
            if name == "export":
                took = measured("export", f"studies/{name}", "optuna:export.db")
                lines.append(f"| export of {runs:,} runs to an Optuna storage | {took}")
    text = "\n".join(
        [
            "# Importing and exporting: what they take",
            "",
            "Written by `python benchmarks/importing.py`. Memory is the largest of the process and of those before it.",
            "",
            f"{os.cpu_count()} cores, shared with other work at the time.",
            "",
            "| what | time | CPU time | memory |",
            "| --- | --- | --- | --- |",
            *lines,
            "",
        ]
    )
    RECORD.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
