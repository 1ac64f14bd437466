"""A small study, planned and trained as the product does: scaling of two optimizers with batch size on digits."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from accelerator_parts.record import Record
from accelerator_parts.workloads import Workloads
from sensitivity.study.load import parse_study
from sensitivity.study.results import RunResult
from sensitivity.study.trials import expand, group
from sensitivity.training.calibration import calibrate
from sensitivity.training.loop import train_pack
from sensitivity.training.problems import load_problem


def run(record: Record, on: Workloads) -> None:
    """Train every cell of both arms at three batch sizes, in packs of the calibrated size."""
    points, seeds, epochs, batches = (2, 1, 1, [256]) if on.tiny else (8, 2, 20, [32, 128, 512])
    for name, arm in {
        "sgd": {"kind": "sgd", "momentum": 0.9, "lr": {"log": [1e-3, 1.0], "points": points}},
        "kfac": {"kind": "kfac", "damping": 0.03, "lr": {"log": [1e-4, 1e-1], "points": points}},
    }.items():
        for batch in batches:
            raw = {
                "name": "accelerator",
                "batch_sizes": [batch],
                "seeds": seeds,
                "budget": {"epochs": epochs},
                "targets": {"train_loss": [0.1]},
                "optimizers": {name: arm},
            }
            record.case(f"digits, {name}, batch {batch}", partial(_trained, on, raw), takes=0.0 if on.tiny else 5.0)


def _trained(on: Workloads, raw: dict[str, Any]) -> Mapping[str, Any]:
    spec = parse_study(raw, source="benchmark")
    problem, trials = load_problem(spec.required_problem, device=on.device), expand(spec)
    began = time.perf_counter()
    cost = calibrate(trials, problem, memory_bytes=2**33)
    planned, runs = time.perf_counter(), list[RunResult]()
    for pack in group(trials, cost.pack_size):
        runs += train_pack(pack, problem)
    ended = time.perf_counter()
    reached = [
        next((m.step for m in run.measurements if m.train_loss <= 0.1), None) for run in runs if run.measurements
    ]
    steps = [step for step in reached if step is not None]
    least = min(m.train_loss for run in runs for m in run.measurements)
    return {
        "ok": bool(steps) or on.tiny,
        "runs": len(runs),
        "diverged": sum(run.status.value == "diverged" for run in runs),
        "fewest steps to 0.1": min(steps, default=None),
        "least loss": least,
        "pack": cost.pack_size,
        "gain of the pack": cost.gain,
        "s planned": cost.seconds * len(trials),
        "s": ended - planned,
        "s of calibration": planned - began,
    }
