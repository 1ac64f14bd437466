"""Studies with known numbers, written by the store's own writer. Other tests load this file by its path."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sensitivity.store.directory import Place, place
from sensitivity.store.manifest import write_manifest
from sensitivity.store.writer import append, write_plan
from sensitivity.study.results import Measurement, PackResult, RunResult, Status
from sensitivity.study.spec import StudySpec
from sensitivity.study.trials import Trial, expand

STEPS_PER_EPOCH = 10
UNTRAINED = {"train_loss": 2.5, "train_accuracy": 0.1, "test_loss": 2.4, "test_accuracy": 0.12}


def make_spec(**changes: Any) -> StudySpec:
    base: dict[str, Any] = {
        "name": "synthetic",
        "description": "Known numbers.",
        "batch_sizes": [32, 128],
        "seeds": 3,
        "optimizers": {
            "kfac": {"kind": "kfac", "lr": [0.01, 0.1, 1.0], "damping": [0.001, 0.01, 0.1]},
            "sgd": {"kind": "sgd", "lr": [0.01, 0.1, 1.0], "momentum": [0.0, 0.5, 0.9]},
        },
        "budget": {"epochs": 4},
        "targets": {"test_accuracy": [0.9], "train_loss": [0.5]},
    }
    whole = {**base, **changes}
    if {"kfac", "sgd"} <= whole["optimizers"].keys():
        whole.setdefault("pairs", [("kfac", "sgd")])
    return StudySpec.model_validate(whole)


def run(
    trial: Trial, losses: list[float], status: Status = Status.COMPLETED, accuracies: list[float] | None = None
) -> RunResult:
    """A run with `losses` after each epoch; a diverged one is found out half an epoch after the last."""
    accuracies = accuracies or [1 / (1 + loss) for loss in losses]
    curve = [(UNTRAINED["train_loss"], UNTRAINED["test_loss"], 0.1, 0.12)]
    curve += [(loss, loss + 0.1, a, a - 0.01) for loss, a in zip(losses, accuracies, strict=True)]
    measurements = [
        Measurement(
            step=k * STEPS_PER_EPOCH,
            epoch=float(k),
            lr=dict(trial.hyperparameters)["lr"],
            train_seconds=0.5 * k,
            flops=1e9 * k,
            train_loss=train_loss,
            test_loss=test_loss,
            train_accuracy=train_accuracy,
            test_accuracy=test_accuracy,
        )
        for k, (train_loss, test_loss, train_accuracy, test_accuracy) in enumerate(curve)
    ]
    steps = len(losses) * STEPS_PER_EPOCH + (STEPS_PER_EPOCH // 2 if status is Status.DIVERGED else 0)
    return RunResult(
        trial=trial,
        status=status,
        measurements=() if status in (Status.FAILED, Status.INTERRUPTED) else tuple(measurements),
        steps=steps,
        epochs=steps / STEPS_PER_EPOCH,
        train_seconds=0.5 * len(losses),
        eval_seconds=0.1,
        flops=1e9 * len(losses),
        message="" if status is Status.COMPLETED else f"a message <script>alert('{status}')</script>",
    )


def write_study(folder: Path, spec: StudySpec, outcome: Callable[[Trial], RunResult | None], packs: int = 2) -> Place:
    """Write a study in which `outcome` gives each trial's result, None leaving it pending."""
    directory = place(str(folder))
    trials = expand(spec)
    manifest = write_manifest(directory, spec, source="")
    write_plan(directory, trials)
    results = [result for result in map(outcome, trials) if result is not None]
    for k in range(packs if results else 0):
        pack = PackResult(
            runs=tuple(results[k::packs]),
            pack_id=f"pack{k}",
            host="host",
            device="cpu",
            started_at=1.76e9,
            wall_seconds=60.0,
        )
        append(directory, pack, spec_hash=manifest.spec_hash, code_version="0.1.0")
    return directory


def quickstart_spec(**changes: Any) -> StudySpec:
    """The shape of the shipped quickstart: two 8 x 8 grids, three batch sizes, three seeds."""
    return make_spec(
        batch_sizes=[32, 128, 512],
        optimizers={
            "kfac": {
                "kind": "kfac",
                "lr": {"log": [1e-3, 3.0], "points": 8},
                "damping": {"log": [1e-5, 10.0], "points": 8},
            },
            "sgd": {
                "kind": "sgd",
                "lr": {"log": [1e-3, 3.0], "points": 8},
                "momentum": [0.0, 0.3, 0.6, 0.8, 0.9, 0.95, 0.98, 0.99],
            },
        },
        budget={"epochs": 20},
        **changes,
    )


def landscape(trial: Trial) -> RunResult:
    """A bowl in log coordinates with a cliff: K-FAC's on the ridge of lr and damping, SGD's in lr/(1 - m)."""
    values = dict(trial.hyperparameters)
    rng = np.random.default_rng([trial.seed, trial.batch_size, int(1e6 * values["lr"])])
    lr = math.log10(values["lr"])
    if trial.arm == "kfac":
        d = math.log10(values["damping"])
        floor = 0.08 * (lr + 1.0) ** 2 + 0.05 * (d + 2 - 0.5 * (lr + 1)) ** 2
        cliff = lr - 0.25 * d > 0.9 + 0.15 * rng.standard_normal()
    else:
        effective = lr - math.log10(1 - values["momentum"]) - 0.4 * math.log10(trial.batch_size / 32)
        floor = 0.2 * (effective - 0.2) ** 2
        cliff = effective > 1.5 + 0.2 * rng.standard_normal()
    floor = 0.04 + floor + 0.02 * math.log2(trial.batch_size / 32)
    noise = np.exp(0.08 * rng.standard_normal(20))
    losses = [min(2.4, (floor + 2.2 * math.exp(-0.7 * k)) * z) for k, z in enumerate(noise, start=1)]
    if cliff:
        return run(trial, [3.0 + k for k in range(1 + trial.seed)], Status.DIVERGED)
    return run(trial, losses, accuracies=[max(0.1, 0.985 - 0.12 * loss**1.2) for loss in losses])
