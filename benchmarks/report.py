"""Time and memory of a full report, from a study directory to the HTML file, at 10,000 and 100,000 runs.

    python benchmarks/report.py [--runs 10000 100000] [--epochs 100] [--record]

The study is synthetic, and written with the store's schema in parts of about a million rows of curves: two grids of two
hyperparameters at several batch sizes, ten seeds, one evaluation per epoch; its creation is not timed. Each report is
made in a fresh process. Goals: 10,000 runs in 20 s; 100,000 in 90 s and 4 GB on two cores; about linear.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from record import circumstances

from sensitivity.analysis.evaluations import read_tables
from sensitivity.store.directory import place
from sensitivity.store.manifest import write_manifest
from sensitivity.store.schema import CURVES, RUNS, curves_schema, runs_schema
from sensitivity.store.writer import plan_table, write_plan
from sensitivity.study.spec import StudySpec
from sensitivity.study.trials import expand

RECORD = Path(__file__).parent / "results" / "report.md"
GOALS = {10_000: "20 s", 100_000: "90 s, 4 GB"}
_SEEDS = 10
_ROWS_A_PART = 1_000_000
_STEPS_AN_EPOCH = 100


def make_spec(runs: int, epochs: int) -> StudySpec:
    """Return a study of about `runs` runs: two square grids at four or eight batch sizes."""
    batch_sizes = [2**k for k in range(5, 9 if runs < 50_000 else 13)]
    side = max(round(math.sqrt(runs / (2 * _SEEDS * len(batch_sizes)))), 2)
    momentum = [round(1 - 10**-x, 6) for x in np.linspace(0, 2.5, side)]
    axis = {"log": [1e-4, 10.0], "points": side}
    return StudySpec.model_validate(
        {
            "name": f"runs-{runs}",
            "batch_sizes": batch_sizes,
            "seeds": _SEEDS,
            "budget": {"epochs": epochs},
            "optimizers": {
                "kfac": {"kind": "kfac", "lr": axis, "damping": axis},
                "sgd": {"kind": "sgd", "lr": axis, "momentum": momentum},
            },
            "targets": {"train_loss": [0.3, 0.2], "test_accuracy": [0.9]},
        }
    )


def write_study(folder: Path, spec: StudySpec, epochs: int, *, runs_a_part: int | None = None) -> int:
    """Write a finished study and return its number of runs. About a tenth of the runs diverge.

    Parts have `runs_a_part` runs; by default, about a million rows of curves.
    """
    directory = place(str(folder))
    trials = expand(spec)
    manifest = write_manifest(directory, spec, source="")
    write_plan(directory, trials)
    plan = plan_table(trials).to_pandas()
    for name in (RUNS, CURVES):
        (folder / name).mkdir()
    rng = np.random.default_rng(0)
    size = runs_a_part or max(_ROWS_A_PART // (epochs + 1), 1)
    for part, first in enumerate(range(0, len(plan), size)):
        rows = plan.iloc[first : first + size]
        curves, runs = made_up(rows, epochs, rng)
        runs["pack_id"] = [f"pack{(first + k) // 64}" for k in range(len(rows))]
        runs["spec_hash"] = manifest.spec_hash
        schema = runs_schema([n.removeprefix("param.") for n in plan if n.startswith("param.")])
        for name, table, as_schema in ((RUNS, runs, schema), (CURVES, curves, curves_schema())):
            complete = table.reindex(columns=as_schema.names)
            written = pa.Table.from_pandas(complete, schema=as_schema, preserve_index=False)
            pq.write_table(
                written, folder / name / f"part{part:06}.parquet", compression="zstd", write_page_checksum=True
            )
    return len(plan)


def made_up(plan: pd.DataFrame, epochs: int, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return curves and runs of planned trials: exponential decays to a bowl over the hyperparameters."""
    n = len(plan)
    kfac = (plan["optimizer"] == "kfac").to_numpy()
    lr = np.log10(plan["param.lr"].to_numpy(dtype=float))
    damping = np.log10(plan["param.damping"].to_numpy(dtype=float))
    amplified = lr - np.log10(1 - np.nan_to_num(plan["param.momentum"].to_numpy(dtype=float)))
    batch = np.log2(plan["batch_size"].to_numpy(dtype=float) / 32)
    off = np.where(kfac, lr - 0.5 * np.nan_to_num(damping) + 1, amplified - 0.4 * batch)
    floor = (0.05 + 0.1 * off**2 + 0.01 * batch) * np.exp(0.1 * rng.standard_normal(n))
    rate = 0.6 / (1 + 2.0**batch / 8)
    epoch = np.arange(epochs + 1)
    loss = np.minimum(2.3, floor[:, None] + 2.25 * np.exp(-rate[:, None] * epoch))
    accuracy = np.clip(1 - 0.4 * loss, 0.1, 0.995)
    diverged = off > 2.2
    steps = epochs * _STEPS_AN_EPOCH
    flat = {"train_loss": loss, "test_loss": loss + 0.05, "train_accuracy": accuracy, "test_accuracy": accuracy - 0.01}
    curves = pd.DataFrame(
        {
            "trial_id": np.repeat(plan["trial_id"].to_numpy(), epochs + 1),
            "step": np.tile(epoch * _STEPS_AN_EPOCH, n),
            "epoch": np.tile(epoch.astype(float), n),
            "lr": np.repeat(plan["param.lr"].to_numpy(dtype=float), epochs + 1),
            "train_seconds": np.tile(0.1 * epoch, n),
            "flops": np.tile(1e9 * epoch, n),
            **{name: values.ravel() for name, values in flat.items()},
        }
    )
    curves = curves[~np.repeat(diverged, epochs + 1) | (curves["epoch"] <= 1)]
    now = datetime.datetime.now(tz=datetime.UTC)
    last = {name: values[:, -1] for name, values in flat.items()}
    seconds = {f"seconds.{phase}": np.full(n, 0.02 * epochs) for phase in ("gradients", "inverses")}
    runs = plan.assign(
        status=np.where(diverged, "diverged", "completed"), message="", traceback="",
        steps=np.where(diverged, _STEPS_AN_EPOCH, steps), epochs=np.where(diverged, 1.0, float(epochs)),
        initial_train_loss=2.3, **last, train_seconds=0.1 * epochs, eval_seconds=0.01, flops=1e9 * epochs, **seconds,
        pack_size=64, host="made-up", device="cpu", started_at=now, finished_at=now, code_version="benchmark",
    )  # fmt: skip
    return curves, runs


def measure(folder: str) -> dict[str, float]:
    """Make the report of a study in this process and return seconds, megabytes and the number of figures."""
    from sensitivity.report import render_report

    start, cpu = time.perf_counter(), time.process_time()
    tables = read_tables(place(folder))
    read = time.perf_counter() - start
    report = render_report([tables])
    wall = time.perf_counter() - start
    return {
        "read_s": read,
        "wall_s": wall,
        "cpu_s": time.process_time() - cpu,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "html_mb": len(report.html.encode()) / 1e6,
        "figures": len(report.figures),
    }


def main() -> None:
    """Measure each size in a fresh process, print the table, and record it on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=list(GOALS))
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--measure", metavar="STUDY_DIR", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    begun = circumstances("numpy", "pandas", "pyarrow", "plotly")
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    lines = [
        "| runs | evaluations | wall s | of it reading runs | CPU s | peak GB | HTML MB | figures | goal |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for wanted in arguments.runs:
        with tempfile.TemporaryDirectory() as folder:
            runs = write_study(Path(folder), make_spec(wanted, arguments.epochs), arguments.epochs)
            command = [sys.executable, __file__, "--measure", folder]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = json.loads(answer)
        lines.append(
            f"| {runs:,} | {runs * (arguments.epochs + 1):,} | {found['wall_s']:.1f} | {found['read_s']:.1f} |"
            f" {found['cpu_s']:.1f} | {found['peak_gb']:.2f} | {found['html_mb']:.1f} | {found['figures']} |"
            f" {GOALS.get(wanted, '–')} |"
        )
        print(lines[-1], flush=True)
    load = f"Load when it ended: {os.getloadavg()[0]:.1f}; n = 1 each, in a fresh process."
    text = "\n".join(["# report", "", f"{begun}.", "", load, "", *lines, ""])
    print(text)
    if arguments.record:
        RECORD.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
