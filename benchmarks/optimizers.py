"""Steps of every optimizer in a pack of 64 networks, beside one network at a time with torch's own optimizer.

    python benchmarks/optimizers.py [--write]

The perceptron on the digits (64-128-128-10), batches of 32, float32, one thread. A step is a batch, a gradient and an
update. "alone" is a loop over plain PyTorch: module, loss.backward(), optimizer.step(), zero_grad(). "pack" is a
training step of 64 members, and its time is divided by them. Times are CPU time, the least of several repetitions.
Peers are torch.optim where it has the optimizer, and pytorch_optimizer or schedulefree where they are installed.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sensitivity.study.load import parse_study
from sensitivity.study.trials import Pack, expand
from sensitivity.training.batches import PackBatches
from sensitivity.training.memory import keep_freed_memory
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.precision import denormals_flushed
from sensitivity.training.problems import Problem, load_problem
from sensitivity.training.step import make_optimizer, take_step

BATCH, MEMBERS = 32, 64
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
        found = getattr(__import__(name), optimizer)
    except ImportError:
        return None

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
    "shampoo": (
        {"precondition_interval": 10, "graft": "none"},
        "pytorch_optimizer",
        _package("pytorch_optimizer", "Shampoo", lr=1e-3, preconditioning_compute_steps=10),
    ),
    "soap": ({}, "pytorch_optimizer", _package("pytorch_optimizer", "SOAP", lr=1e-3, precondition_frequency=10)),
    "kfac": ({"damping": 1.0}, "", None),
    "torch.optim:AdamW": ({}, "torch", _torch("AdamW", lr=1e-3)),
    "torch.optim:AdamW, fused": ({"fused": True}, "torch, fused", _torch("AdamW", lr=1e-3, fused=True)),
    "torch.optim:SGD": ({"momentum": 0.9}, "torch", _torch("SGD", lr=1e-3, momentum=0.9)),
}


def alone_ms(problem: Problem, build: Peer, steps: int) -> float:
    """Milliseconds of a step of one network."""
    torch.manual_seed(0)
    network = problem.build_model()
    optimizer = build(network)
    batches = PackBatches([0], problem, batch_size=BATCH, micro_batch=None, augment=False)
    best = float("inf")
    for _ in range(4):
        began = time.process_time()
        for _ in range(steps):
            (part,) = batches.draw()
            loss = nn.functional.cross_entropy(network(part.inputs[0]), part.targets[0])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
        best = min(best, (time.process_time() - began) / steps)
    return 1e3 * best


def packed_ms(problem: Problem, kind: str, arm: dict[str, Any], members: int, steps: int) -> tuple[float, float]:
    """Milliseconds of a step a member, and bytes of optimizer state a member."""
    raw = {
        "name": "b",
        "batch_sizes": [BATCH],
        "seeds": 1,
        "budget": {"steps": 10},
        "optimizers": {"a": {"kind": kind, "lr": {"log": [1e-4, 1e-3], "points": 64}, **arm}},
    }
    trials = expand(parse_study(raw, source="b"))[:members]
    model = PackedModel(problem.build_model, [trial.seed for trial in trials])
    optimizer = make_optimizer(Pack(trials), model, problem)
    batches = PackBatches([t.seed for t in trials], problem, batch_size=BATCH, micro_batch=None, augment=False)
    best, step = float("inf"), 0
    with denormals_flushed():
        for _ in range(4):
            began = time.process_time()
            for _ in range(steps):
                take_step(model, problem, optimizer, batches, step=step, lr_scale=1.0)
                step += 1
            best = min(best, (time.process_time() - began) / steps)
    return 1e3 * best / members, optimizer.state_bytes / members


def main() -> None:
    """Measure, print, and write the table if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    parser.add_argument("--only", nargs="*", default=list(CASES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    problem = load_problem(parse_study({"name": "b", "batch_sizes": [BATCH], "seeds": 1, "budget": {"steps": 1},
        "optimizers": {"a": {"kind": "sgd", "lr": 0.1}}}, source="b").required_problem)  # fmt: skip
    lines = [
        "| optimizer | peer | alone, ms a step | pack of 1 | pack of 64, by member | gain | state a member |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    for name in arguments.only:
        arm, peer, build = CASES[name]
        kind = name.partition(",")[0]
        alone = alone_ms(problem, build, 200) if build else float("nan")
        one, _ = packed_ms(problem, kind, arm, 1, 200)
        many, state = packed_ms(problem, kind, arm, MEMBERS, 10)
        peer_words = peer if build else f"{peer}, not installed" if peer else "none"
        gain = f"{alone / many:.1f}x" if build else "–"
        shown = f"{alone:.3f}" if build else "–"
        lines.append(f"| {name} | {peer_words} | {shown} | {one:.3f} | {many:.3f} | {gain} | {state / 1e3:,.0f} kB |")
        print(lines[-1], flush=True)
    if arguments.write:
        about = f"torch {torch.__version__}, {platform.processor() or platform.machine()}, one thread."
        head = f"# Optimizers in packs\n\n`python benchmarks/optimizers.py --write`: {about}\n"
        text = f"{head}{__doc__.partition('--write]')[2]}\n"
        RESULT.write_text(text + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
