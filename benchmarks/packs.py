"""Trial-steps a second of packs against one trial at a time, and a whole study against plain Ray Tune.

    python benchmarks/packs.py [--rounds N] [--record]        packs against pack size 1
    python benchmarks/packs.py --study [--record]             64 cells against a plain Ray Tune function trainable

Steps of all pack sizes are interleaved in one process with one math thread; a figure is the median over rounds of the
ratio to the one-trial step of the same round. The plain trainable is written as Ray's documentation writes one:
a process a trial, tensors in memory, ``torch.optim.SGD``, a report an epoch.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import statistics
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import torch

from sensitivity.execution.environment import ray_environment
from sensitivity.execution.launch import launch
from sensitivity.execution.prepare import prepare
from sensitivity.store.directory import place
from sensitivity.study.load import parse_study
from sensitivity.study.provenance import machine, package_versions
from sensitivity.study.trials import Pack, expand
from sensitivity.training.memory import keep_freed_memory
from sensitivity.training.order import PackOrder
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.problems import load_problem
from sensitivity.training.step import make_optimizer, take_step

SIZES = (1, 4, 16, 64)
RESULTS = Path(__file__).parent / "results"
ARMS = {
    "sgd": {"kind": "sgd", "lr": {"log": [1e-4, 1e-3], "points": 64}, "momentum": 0.9},
    "kfac": {"kind": "kfac", "lr": {"log": [1e-4, 1e-3], "points": 64}, "damping": 1.0},
}


def stepper(model_name: str, arm: str, batch_size: int, size: int) -> Callable[[], None]:
    """Return a function that takes ten steps of a pack: one period of K-FAC's inverses."""
    raw = {
        "name": "benchmark",
        "batch_sizes": [batch_size],
        "seeds": 1,
        "problem": {"model": model_name},
        "budget": {"steps": 1},
        "optimizers": {arm: ARMS[arm]},
    }
    spec = parse_study(raw, source="benchmark")
    problem = load_problem(spec.problem)
    pack = Pack(expand(spec)[:size])
    model = PackedModel(problem.build_model, [trial.seed for trial in pack.trials])
    optimizer = make_optimizer(pack, model)
    order = PackOrder([trial.seed for trial in pack.trials], train_size=1437, batch_size=batch_size)
    step = iter(range(10**9))

    def ten() -> None:
        for _ in range(10):
            take_step(model, problem, optimizer, order.draw(), step=next(step), lr_scale=1.0)

    return ten


def packs(rounds: int) -> list[str]:
    """Measure packs of each size against packs of one."""
    lines = ["| model | optimizer | batch | ms a step alone | " + " | ".join(f"pack of {n}" for n in SIZES[1:]) + " |"]
    lines.append("| --- | --- | ---: | ---: |" + " ---: |" * (len(SIZES) - 1))
    for model_name in ("perceptron", "small_cnn"):
        for arm in ARMS:
            for batch_size in (32, 128):
                steps = {size: stepper(model_name, arm, batch_size, size) for size in SIZES}
                seconds: dict[int, list[float]] = {size: [] for size in SIZES}
                for k in range(rounds + 1):
                    for size, step in steps.items():
                        began = time.perf_counter()
                        step()
                        if k:  # the first round warms up
                            seconds[size].append((time.perf_counter() - began) / 10 / size)
                alone = seconds[1]
                gains = [
                    statistics.median(a / b for a, b in zip(alone, seconds[size], strict=True)) for size in SIZES[1:]
                ]
                cells = " | ".join(f"{gain:.2f}×" for gain in gains)
                lines.append(
                    f"| {model_name} | {arm} | {batch_size} | {statistics.median(alone) * 1e3:.2f} | {cells} |"
                )
                print(lines[-1], flush=True)
    return lines


STUDY = """
name = "cells"
batch_sizes = [128]
seeds = 1
[budget]
epochs = 5
[optimizers.sgd]
kind = "sgd"
lr = { log = [1e-3, 0.3], points = 8 }
momentum = [0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98]
"""


def plain_trainable(config: dict[str, float]) -> None:
    """One trial as Ray Tune's documentation writes it."""
    from ray import tune

    problem = load_problem(parse_study(tomllib.loads(STUDY), source="benchmark").problem)
    data = problem.dataset
    torch.manual_seed(0)
    model = problem.build_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=config["lr"], momentum=config["momentum"])
    for _ in range(5):
        order = torch.randperm(data.train_size)
        for start in range(0, data.train_size, 128):
            rows = order[start : start + 128]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(data.train_inputs[rows]), data.train_targets[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            outputs = model(data.test_inputs)
            train = torch.nn.functional.cross_entropy(model(data.train_inputs), data.train_targets).item()
        tune.report({"train_loss": train, "accuracy": (outputs.argmax(1) == data.test_targets).float().mean().item()})


def study() -> list[str]:
    """Time the same 64 trials through this product and through plain Ray Tune, Ray running already."""
    with ray_environment(local=True), tempfile.TemporaryDirectory() as folder:
        import ray
        from ray import tune

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        path = Path(folder) / "cells.toml"
        path.write_text(STUDY)
        plan = prepare(str(path))
        began = time.perf_counter()
        show = contextlib.nullcontext(lambda: None)
        launch(plan, place(folder).child("ours"), address=None, workers=2, show=lambda progress: show)
        ours = time.perf_counter() - began
        grid = {name: tune.grid_search(list(axis.grid())) for name, axis in plan.spec.optimizers["sgd"].axes().items()}
        began = time.perf_counter()
        tune.Tuner(
            tune.with_resources(plain_trainable, {"cpu": 1}),
            param_space=grid,
            run_config=tune.RunConfig(storage_path=folder, name="plain", verbose=0),
        ).fit()
        plain = time.perf_counter() - began
        ray.shutdown()
    return [
        "64 SGD cells of the perceptron, batch 128, 5 epochs; Ray running already; n = 1 each.",
        "",
        f"- this product, from plan to study directory: {ours:.1f} s",
        f"- plain Ray Tune, a process a trial: {plain:.1f} s",
        f"- ratio: {plain / ours:.1f}",
    ]


def main() -> None:
    """Measure, print, and record if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--study", action="store_true", help="a whole study against plain Ray Tune")
    parser.add_argument("--default-allocator", action="store_true", help="without the workers' setting of malloc")
    parser.add_argument("--record", action="store_true", help="keep the result in benchmarks/results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.default_allocator:
        keep_freed_memory()
    name = "packs_study" if arguments.study else "packs"
    where = f"{machine()['cpu']}, {machine()['cores']} cores, Python {platform.python_version()}"
    versions = ", ".join(f"{k} {v}" for k, v in package_versions().items() if k in ("torch", "ray", "numpy"))
    command = f"`python benchmarks/packs.py{' --study' if arguments.study else ''}`"
    title = f"Ratios of trial-steps a second to one trial alone; medians of {arguments.rounds} rounds."
    body = study() if arguments.study else [title, "", *packs(arguments.rounds)]
    text = "\n".join([f"# {name}", "", f"{command}; {where}; {versions}", "", *body, ""])
    print(text)
    if arguments.record:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.md").write_text(text)


if __name__ == "__main__":
    main()
