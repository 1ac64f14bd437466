"""Trial-steps per second of packs compared with one trial at a time, and a whole study compared with plain Ray Tune.

    python benchmarks/packs.py [--seconds S] [--models perceptron small_cnn resnet20] [--record]
    python benchmarks/packs.py --study [--rounds N] [--record]      64 cells against a plain Ray Tune function trainable

Steps of all pack sizes are interleaved in one process with one math thread, for the given seconds per table row and at
least three rounds; each number is the median over rounds of the ratio to the one-trial step of the same round. A round
is a whole interval of K-FAC's inversions. The whole table takes 6 minutes; a table of some models is recorded under
their names. "Plain PyTorch" is the same step in a bare loop: a module, cross-entropy, ``backward``,
``torch.optim.SGD``, batches indexed from the same tensors. "Floor" is the ratio of a pack whose products run at the
rate of one large product here while everything else is free. The plain trainable is written as in Ray's documentation:
one process per trial, tensors in memory, ``torch.optim.SGD``, one report per epoch.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import os
import statistics
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from record import circumstances

from sensitivity.execution.environment import ray_environment
from sensitivity.execution.launch import launch
from sensitivity.execution.prepare import prepare
from sensitivity.execution.study_run import Machines
from sensitivity.store.directory import place
from sensitivity.study.load import parse_study
from sensitivity.study.spec import StudySpec
from sensitivity.study.trials import Pack, expand
from sensitivity.training.batches import PackBatches
from sensitivity.training.calibration import calibrate, member_bytes
from sensitivity.training.cost import step_flops
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.memory import keep_freed_memory
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.problems import Problem, load_problem
from sensitivity.training.recorded_steps import Steps
from sensitivity.training.step import make_optimizer

RESULTS = Path(__file__).parent / "results"
ARMS = {
    "sgd": {"kind": "sgd", "lr": {"log": [1e-4, 1e-3], "points": 64}, "momentum": 0.9},
    "kfac": {"kind": "kfac", "lr": {"log": [1e-4, 1e-3], "points": 64}, "damping": 1.0},
}
WORKLOADS = {"perceptron": (8, 32, 128), "small_cnn": (32, 128), "resnet20": (32,)}
"""Batch sizes by model."""
SIZES = (1, 4, 16, 64)
RESNET_SIZES = {"sgd": (1, 4, 16), "kfac": (1, 4)}
"""Larger packs would take minutes per round and show the same."""


def problem_of(model: str, arm: str, batch_size: int) -> tuple[StudySpec, Problem]:
    """Return a study of 64 cells and its problem; ResNet-20 trains on noise in CIFAR's shape."""
    raw = {
        "name": "benchmark",
        "batch_sizes": [batch_size],
        "seeds": 1,
        "problem": {"model": model},
        "budget": {"steps": 1},
        "evaluation": {"train_examples": 128},
        "optimizers": {arm: ARMS[arm]},
    }
    spec = parse_study(raw, source="benchmark")
    problem = load_problem(spec.required_problem)
    if model == "resnet20":
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(512, 3, 32, 32, generator=generator)
        classes = torch.randint(0, 10, (512,), generator=generator)
        data = Dataset(train_inputs=images, train_targets=classes, test_inputs=images[:64], test_targets=classes[:64])
        from sensitivity.training.models.resnet import resnet20

        problem = Problem(
            dataset=data,
            build_model=lambda: resnet20((3, 32, 32), 10),
            loss=problem.loss,
            has_classes=True,
            outputs=10,
        )
    return spec, problem


def stepper(spec: StudySpec, problem: Problem, size: int) -> Callable[[], None]:
    """Return a function that takes one step of a pack of `size`."""
    pack = Pack(expand(spec)[:size])
    seeds = [trial.seed for trial in pack.trials]
    model = PackedModel(problem.build_model, seeds)
    optimizer = make_optimizer(pack, model, problem)
    batches = PackBatches(seeds, problem, batch_size=spec.batch_sizes[0], micro_batch=None, augment=False)
    count = iter(range(10**9))
    steps = Steps(model, problem, optimizer, batches)
    return lambda: void(steps.take(step=next(count), lr_scale=1.0))


def plain(spec: StudySpec, problem: Problem) -> Callable[[], None]:
    """Return a function that takes one SGD step as a bare PyTorch loop does."""
    model, data = problem.build_model(), problem.dataset
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    rows = torch.randperm(data.train_size)[: spec.batch_sizes[0]]

    def step() -> None:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(data.train_inputs[rows]), data.train_targets[rows])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def void(_: object) -> None:
    """Return nothing."""


def period_seconds(steps: Callable[[], None], period: int) -> float:
    """Time `period` steps, and return seconds per step."""
    began = time.perf_counter()
    for _ in range(period):
        steps()
    return (time.perf_counter() - began) / period


def product_rate() -> float:
    """Return FLOPs per second of one large matrix product here, the best of five."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    best = min(period_seconds(lambda: void(a @ b), 3) for _ in range(5))
    return 2 * 1024**3 / best


def packs(models: list[str], seconds: float) -> Iterator[str]:
    """Measure packs of each size against packs of one, for `seconds` per table row."""
    measured = ("ms alone", "plain PyTorch", "pack of 4", "16", "64")
    columns = ("model", "optimizer", "batch", "n", *measured, "floor", "chosen")
    yield "| " + " | ".join(columns) + " |"
    yield "| --- | --- |" + " ---: |" * (len(columns) - 2)
    for model in models:
        for arm in ARMS:
            for batch_size in WORKLOADS[model]:
                yield packs_line(model, arm, batch_size, seconds)


def packs_line(model: str, arm: str, batch_size: int, budget: float) -> str:
    """Measure one workload."""
    spec, problem = problem_of(model, arm, batch_size)
    sizes = RESNET_SIZES[arm] if model == "resnet20" else SIZES
    period = 10 if arm == "kfac" or model != "resnet20" else 1
    steps = {size: stepper(spec, problem, size) for size in sizes}
    if arm == "sgd":
        steps[0] = plain(spec, problem)
    seconds: dict[int, list[float]] = {size: [] for size in steps}
    for step in steps.values():
        step()
        step()
    began = time.perf_counter()
    while len(seconds[1]) < 3 or time.perf_counter() - began < budget:
        for size, step in steps.items():
            seconds[size].append(period_seconds(step, period) / max(1, size))

    def gain(size: int) -> str:
        if size not in seconds:
            return ""
        return f"{statistics.median(a / b for a, b in zip(seconds[1], seconds[size], strict=True)):.2f}×"

    alone = statistics.median(seconds[1])
    pack = Pack(expand(spec)[:1])
    optimizer = make_optimizer(pack, PackedModel(problem.build_model, [0]), problem)
    floor = alone * product_rate() / step_flops(problem, optimizer, batch_size)
    cost = calibrate(expand(spec), problem, memory_bytes=4e9)
    chosen = f"{cost.pack_size} ({cost.gain:.2f}×)"
    cells = [str(len(seconds[1])), f"{alone * 1e3:.2f}", gain(0), gain(4), gain(16), gain(64), f"{floor:.1f}×", chosen]
    return f"| {model} | {arm} | {batch_size} | " + " | ".join(cells) + " |"


def memory(models: list[str]) -> Iterator[str]:
    """Show that the memory of a pack's tensors grows linearly with members and with the batch."""
    models = [model for model in models if model != "resnet20"]
    if not models:
        return
    yield ""
    yield "Peak memory of a pack's tensors, in MB a member (`sensitivity.training.calibration.member_bytes`):"
    yield ""
    yield "| model | optimizer | batch | pack of 1 | 4 | 16 |"
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    for model in models:
        for arm in ARMS:
            for batch_size in (128, 512):
                spec, problem = problem_of(model, arm, batch_size)
                sizes = (1, 4, 16)
                cells = [f"{member_bytes(expand(spec), problem, members=size) / 1e6:.2f}" for size in sizes]
                yield f"| {model} | {arm} | {batch_size} | " + " | ".join(cells) + " |"


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


@contextlib.contextmanager
def silent(progress: object) -> Iterator[Callable[[], None]]:
    """Show nothing."""
    yield lambda: None


def plain_trainable(config: dict[str, float]) -> None:
    """Train one trial as in Ray Tune's documentation."""
    from ray import tune

    problem = load_problem(parse_study(tomllib.loads(STUDY), source="benchmark").required_problem)
    data = problem.dataset
    torch.manual_seed(0)
    model = problem.build_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=config["lr"], momentum=config["momentum"])
    for _ in range(5):
        order = torch.randperm(data.train_size)
        for start in range(0, data.train_size, 128):
            rows = order[start : start + 128]
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(data.train_inputs[rows]), data.train_targets[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            outputs = model(data.test_inputs)
            train = torch.nn.functional.cross_entropy(model(data.train_inputs), data.train_targets).item()
        tune.report({"train_loss": train, "accuracy": (outputs.argmax(1) == data.test_targets).float().mean().item()})


def study(rounds: int) -> Iterator[str]:
    """Time the same 64 trials with this product and with plain Ray Tune, alternating, on a running Ray."""
    with ray_environment(local=True), tempfile.TemporaryDirectory() as folder:
        import ray
        from ray import tune

        os.environ["XDG_CACHE_HOME"] = folder  # an empty cache: nothing is known about this machine
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        path = Path(folder) / "cells.toml"
        path.write_text(STUDY)
        yield f"64 SGD cells of the perceptron, batch 128, 5 epochs; Ray running already; n = {rounds} each, in turns."
        yield ""
        yield "| round | this product, from plan to study directory, s | plain Ray Tune, a process a trial, s | ratio |"
        yield "| ---: | ---: | ---: | ---: |"
        ratios = []
        for k in range(rounds):
            plan = prepare(str(path))
            began = time.perf_counter()
            launch(plan, place(folder).child(f"ours{k}"), Machines(workers=2), show=silent)
            ours = time.perf_counter() - began
            axes = plan.spec.optimizers["sgd"].axes()
            grid = {name: tune.grid_search(list(axis.grid())) for name, axis in axes.items()}
            began = time.perf_counter()
            tune.Tuner(
                tune.with_resources(plain_trainable, {"cpu": 1}),
                param_space=grid,
                run_config=tune.RunConfig(storage_path=folder, name=f"plain{k}", verbose=0),
            ).fit()
            theirs = time.perf_counter() - began
            ratios.append(theirs / ours)
            yield f"| {k + 1} | {ours:.1f} | {theirs:.1f} | {theirs / ours:.1f} |"
        ray.shutdown()
        yield ""
        yield f"Median ratio: {statistics.median(ratios):.1f}. The first round includes the choice of the pack size."


def main() -> None:
    """Measure, print, and record line by line on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, help="rounds of --study")
    parser.add_argument("--seconds", type=float, default=25, help="seconds of measurement per table row")
    parser.add_argument("--models", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--study", action="store_true", help="a whole study against plain Ray Tune")
    parser.add_argument("--default-allocator", action="store_true", help="without the workers' setting of malloc")
    parser.add_argument("--record", action="store_true", help="keep the result in benchmarks/results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.default_allocator:
        keep_freed_memory()
    name = "packs_study" if arguments.study else "packs"
    if not arguments.study and set(arguments.models) != set(WORKLOADS):
        name = "_".join(["packs", *arguments.models])
    lines = [f"# {name}", "", f"{circumstances('torch', 'ray', 'numpy')}.", ""]
    if not arguments.study:
        lines += [
            "Trial-steps a second over those of one trial alone; medians of n rounds, side by side. One large",
            f"product runs at {product_rate() / 1e9:.0f} GFLOP/s on a core here. *Chosen*: the calibrated size, gain.",
            "",
        ]
    print("\n".join(lines), flush=True)
    body = (
        study(arguments.rounds)
        if arguments.study
        else itertools.chain(packs(arguments.models, arguments.seconds), memory(arguments.models))
    )
    for line in body:
        lines.append(line)
        print(line, flush=True)
        if arguments.record:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{name}.md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
