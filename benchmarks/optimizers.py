"""Steps of every optimizer in packs of several sizes, compared with torch's own optimizer on one network at a time.

    python benchmarks/optimizers.py [--only ...] [--rounds N] [--write]

The perceptron on the digits (64-128-128-10), batches of 32, float32, one thread. A step is a batch, a gradient and an
update. "alone" is a loop over plain PyTorch: module, loss.backward(), optimizer.step(), zero_grad(). A pack's time is
that of a training step, divided by its members. Each round times every contender of a row once, one after the other;
gains are the medians over rounds of the round's ratios, with their quartiles for the largest pack. Times are CPU time.
Peers are torch.optim where it has the optimizer, and pytorch_optimizer, heavyball, schedulefree or sophia-opt where
they are installed.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import nn

from sensitivity.optimizers.pack import PackOptimizer
from sensitivity.study.load import parse_study
from sensitivity.study.trials import Pack, expand
from sensitivity.training.batches import PackBatches
from sensitivity.training.memory import keep_freed_memory
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.precision import denormals_flushed
from sensitivity.training.problems import Problem, load_problem
from sensitivity.training.step import make_optimizer, take_step

BATCH, SIZES, STEPS, ROUNDS = 32, (1, 4, 16, 64), 64, 15
"""Batch size, pack sizes, timed steps in a row of one network, rounds."""
RESULT = Path(__file__).parent / "results" / "optimizers.md"
Peer = Callable[[nn.Module], Any]


def _muon(network: nn.Module) -> Any:
    hidden = [network[1].weight, network[3].weight]  # type: ignore[index]
    others = [p for p in network.parameters() if all(p is not h for h in hidden)]
    pair = torch.optim.Muon(hidden, lr=1e-3, weight_decay=0.0), torch.optim.AdamW(others, lr=1e-3, weight_decay=0.0)

    class Both:
        def step(self) -> None:
            for each in pair:
                each.step()  # type: ignore[no-untyped-call]

        def zero_grad(self) -> None:
            for each in pair:
                each.zero_grad()

    return Both()


def _package(name: str, optimizer: str, **options: Any) -> Peer | None:
    try:
        module = __import__(name)
    except ImportError:
        return None
    found = getattr(module, optimizer)
    if name == "heavyball":
        module.utils.compile_mode = None

    def build(network: nn.Module) -> Any:
        built = found(network.parameters(), **options)
        if hasattr(built, "train"):
            built.train()
        return built

    return build


def _torch(optimizer: str, **options: Any) -> Peer:
    return lambda network: getattr(torch.optim, optimizer)(network.parameters(), **options)


CASES: dict[str, tuple[dict[str, Any], str, Peer | None]] = {
    "sgd": ({"momentum": 0.9}, "torch", _torch("SGD", lr=1e-3, momentum=0.9)),
    "adam": ({}, "torch", _torch("Adam", lr=1e-3)),
    "adamw": ({}, "torch", _torch("AdamW", lr=1e-3)),
    "adamw, fused": ({}, "torch, fused", _torch("AdamW", lr=1e-3, fused=True)),
    "nadam": ({}, "torch", _torch("NAdam", lr=1e-3)),
    "rmsprop": ({}, "torch", _torch("RMSprop", lr=1e-3)),
    "adagrad": ({}, "torch", _torch("Adagrad", lr=1e-3)),
    "lion": ({}, "pytorch_optimizer", _package("pytorch_optimizer", "Lion", lr=1e-3)),
    "sophia": ({}, "sophia_opt", _package("sophia_opt", "SophiaG", lr=1e-3)),
    "schedule_free_sgd": ({}, "schedulefree", _package("schedulefree", "SGDScheduleFree", lr=1e-3)),
    "schedule_free_adamw": ({}, "schedulefree", _package("schedulefree", "AdamWScheduleFree", lr=1e-3)),
    "muon": ({}, "torch", _muon),
    "muon, heavyball": ({}, "heavyball", _package("heavyball", "Muon", lr=1e-3)),
    "shampoo": (
        {"precondition_interval": 10, "graft": "none"},
        "pytorch_optimizer",
        _package("pytorch_optimizer", "Shampoo", lr=1e-3, preconditioning_compute_steps=10),
    ),
    "soap": ({}, "pytorch_optimizer", _package("pytorch_optimizer", "SOAP", lr=1e-3, precondition_frequency=10)),
    "soap, heavyball": ({}, "heavyball", _package("heavyball", "SOAP", lr=1e-3, precondition_frequency=10)),
    "kfac": ({"damping": 1.0}, "", None),
    "torch.optim:AdamW": ({}, "torch", _torch("AdamW", lr=1e-3)),
    "torch.optim:AdamW, fused": ({"fused": True}, "torch, fused", _torch("AdamW", lr=1e-3, fused=True)),
    "torch.optim:SGD": ({"momentum": 0.9}, "torch", _torch("SGD", lr=1e-3, momentum=0.9)),
}


Step = Callable[[], object]


def alone(problem: Problem, build: Peer) -> Step:
    """Return a step of one network."""
    torch.manual_seed(0)
    network = problem.build_model()
    optimizer = build(network)
    batches = PackBatches([0], problem, batch_size=BATCH, micro_batch=None, augment=False)

    def step() -> None:
        (part,) = batches.draw()
        loss = nn.functional.cross_entropy(network(part.inputs[0]), part.targets[0])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


def packed(problem: Problem, kind: str, arm: dict[str, Any], members: int) -> tuple[Step, PackOptimizer]:
    """Return a step of a pack, and its optimizer."""
    raw = {
        "name": "b",
        "batch_sizes": [BATCH],
        "seeds": 1,
        "budget": {"steps": 10},
        "optimizers": {"a": {"kind": kind, "lr": {"log": [1e-4, 1e-3], "points": max(SIZES)}, **arm}},
    }
    trials = expand(parse_study(raw, source="b"))[:members]
    model = PackedModel(problem.build_model, [trial.seed for trial in trials])
    optimizer = make_optimizer(Pack(trials), model, problem)
    batches = PackBatches([t.seed for t in trials], problem, batch_size=BATCH, micro_batch=None, augment=False)
    steps = itertools.count()

    def step() -> None:
        take_step(model, problem, optimizer, batches, step=next(steps), lr_scale=1.0)

    return step, optimizer


def milliseconds(step: Step, steps: int) -> float:
    """Return the CPU time of a step, after an untimed one."""
    with denormals_flushed():
        step()
        began = time.process_time()
        for _ in range(steps):
            step()
        return 1e3 * (time.process_time() - began) / steps


def row(problem: Problem, name: str, rounds: int) -> str:
    """Measure one optimizer, and return its table row."""
    arm, peer, build = CASES[name]
    packs = {size: packed(problem, name.partition(",")[0], arm, size) for size in SIZES}
    single = alone(problem, build) if build else None
    times: dict[int, list[float]] = {size: [] for size in (0, *SIZES)}
    for _ in range(rounds):
        times[0].append(milliseconds(single, STEPS) if single else math.nan)
        for size, (step, _) in packs.items():
            times[size].append(milliseconds(step, max(2, STEPS // size)) / size)
    gains = {size: [a / b for a, b in zip(times[0], times[size], strict=True)] for size in SIZES}
    words = peer if build else f"{peer}, not installed" if peer else "none"
    cells = [name, words, f"{median(times[0]):.3f}" if build else "–"]
    cells += [f"{median(times[size]):.3f}" for size in SIZES]
    cells += [f"{median(gains[size]):.2f}" if build else "–" for size in SIZES[:-1]]
    low, middle, high = quantiles(gains[SIZES[-1]], n=4, method="inclusive") if build else (0, 0, 0)
    cells += [f"**{middle:.2f}** ({low:.2f}–{high:.2f})" if build else "–"]
    state = packs[SIZES[-1]][1].state_bytes / SIZES[-1]
    return f"| {' | '.join(cells)} | {state / 1e3:,.0f} kB |"


def main() -> None:
    """Measure, print, and write the table on request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", nargs="*", default=list(CASES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    problem = load_problem(parse_study({"name": "b", "batch_sizes": [BATCH], "seeds": 1, "budget": {"steps": 1},
        "optimizers": {"a": {"kind": "sgd", "lr": 0.1}}}, source="b").required_problem)  # fmt: skip
    sizes = [f"pack of {size}" for size in SIZES]
    heads = ["optimizer", "peer", "alone, ms", *(f"{s}, ms" for s in sizes), *(f"gain, {s}" for s in sizes)]
    lines = [f"| {' | '.join(heads)} | state a member |", "|---" * (len(heads) + 1) + "|"]
    print("\n".join(lines))
    loads = [os.getloadavg()[0]]
    for name in arguments.only:
        lines.append(row(problem, name, arguments.rounds))
        loads.append(os.getloadavg()[0])
        print(lines[-1], flush=True)
        if arguments.write:
            about = f"torch {torch.__version__}, {platform.processor() or platform.machine()}, one thread."
            head = f"# Optimizers in packs\n\n`python benchmarks/optimizers.py --write`: {about}\n"
            load = f"a load of {min(loads):.0f} to {max(loads):.0f}"
            under = f"{arguments.rounds} rounds, on {os.cpu_count()} cores under {load}."
            text = f"{head}{(__doc__ or '').partition('--write]')[2]}\n{under}\n\n"
            RESULT.write_text(text + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
