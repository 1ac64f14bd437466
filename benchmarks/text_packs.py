"""Steps of packs of transformers compared with one member at a time, by tokens per step and form of the pack.

    python benchmarks/text_packs.py [--widths 32 64] [--tokens 32 128 512 2048] [--sizes 4 16] [--record]

A step is a complete step of SGD with momentum on sequences of 32 tokens (78 symbols, two blocks, two heads): batch,
forward and backward pass, update. "Alone" is that step in a bare PyTorch loop, for one network. Packs are computed
together (batched products, one attention call over members and examples) and apart (member by member), regardless of
the choice of ``packed_composed``, which is marked with a star. The forms alternate in one process with one math thread;
each number is the least CPU time of the thread over the rounds, which other work on the machine disturbs less than
wall-clock time. The table takes a few minutes.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from sensitivity.study.load import parse_study
from sensitivity.study.provenance import machine, package_versions
from sensitivity.study.trials import Pack, expand
from sensitivity.training import packed_composed
from sensitivity.training.batches import PackBatches
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.losses import cross_entropy
from sensitivity.training.memory import keep_freed_memory
from sensitivity.training.models.transformer import transformer
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.problems import Problem
from sensitivity.training.step import make_optimizer, take_step

RESULTS = Path(__file__).parent / "results" / "text_packs.md"
TIME, SYMBOLS, ROUNDS = 32, 78, 5
Step = Callable[[], None]


def problem_of(width: int) -> Problem:
    """Return a transformer on noise."""
    stream = torch.randint(0, SYMBOLS, (2048 * TIME + 1,), generator=torch.Generator().manual_seed(0))
    x, y = stream[:-1].view(-1, TIME), stream[1:].view(-1, TIME)
    return Problem(
        dataset=Dataset(train_inputs=x, train_targets=y, test_inputs=x[:8], test_targets=y[:8]),
        build_model=lambda: transformer((TIME,), SYMBOLS, width=width),
        loss=cross_entropy,
        has_classes=True,
        outputs=SYMBOLS,
        shipped=True,
    )


def packed(problem: Problem, batch: int, size: int, *, apart: bool | None) -> Step:
    """Return a step of a pack of `size`; `apart` sets the form, None leaves the choice to the product."""
    raw = {
        "name": "benchmark",
        "batch_sizes": [batch],
        "seeds": size,
        "budget": {"steps": 1},
        "optimizers": {"sgd": {"kind": "sgd", "lr": 1e-4, "momentum": 0.9}},
    }
    pack = Pack(expand(parse_study(raw, source="benchmark")))
    seeds = [trial.seed for trial in pack.trials]
    model = PackedModel(problem.build_model, seeds)
    optimizer = make_optimizer(pack, model, problem)
    batches = PackBatches(seeds, problem, batch_size=batch, micro_batch=None, augment=False)
    chosen = packed_composed._SEPARATE_FROM
    count = iter(range(10**9))

    def step() -> None:
        packed_composed._SEPARATE_FROM = chosen if apart is None else 0 if apart else 2**62
        take_step(model, problem, optimizer, batches, step=next(count), lr_scale=1.0)
        packed_composed._SEPARATE_FROM = chosen

    return step


def plain(problem: Problem, batch: int) -> Step:
    """Return a step of one network in a bare PyTorch loop."""
    network, data = problem.build_model(), problem.dataset
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        rows = torch.randperm(data.train_size, generator=generator)[:batch]
        optimizer.zero_grad()
        logits = network(data.train_inputs[rows])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), data.train_targets[rows].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def least(steps: dict[str, tuple[Step, int]]) -> dict[str, float]:
    """Return the least CPU time of each step in milliseconds per member, over `ROUNDS` alternating rounds."""
    found = dict.fromkeys(steps, float("inf"))
    for step, _ in steps.values():
        step()
    for _ in range(ROUNDS):
        for name, (step, size) in steps.items():
            began, many = time.thread_time(), 0
            while many == 0 or time.thread_time() - began < 0.03:
                step()
                many += 1
            found[name] = min(found[name], (time.thread_time() - began) / many / size * 1e3)
    return found


def rows(widths: list[int], tokens: list[int], sizes: list[int]) -> list[str]:
    """Return the table, one row for each width, number of tokens and pack size."""
    lines = ["| width | tokens a step | pack | alone, ms | pack of one | together | apart | gain of the choice |"]
    lines.append("|" + " ---: |" * 8)
    for width in widths:
        problem = problem_of(width)
        for count in tokens:
            batch = count // TIME
            for size in sizes:
                forms = {
                    "alone": (plain(problem, batch), 1),
                    "one": (packed(problem, batch, 1, apart=None), 1),
                    "together": (packed(problem, batch, size, apart=False), size),
                    "apart": (packed(problem, batch, size, apart=True), size),
                }
                ms = least(forms)
                choice = "apart" if count * width >= packed_composed._SEPARATE_FROM else "together"
                marked = {name: f"{ms[name]:.2f}" + " *" * (name == choice) for name in ("together", "apart")}
                gain = ms["alone"] / ms[choice]
                lines.append(
                    f"| {width} | {count:,} | {size} | {ms['alone']:.2f} | {ms['one']:.2f} | {marked['together']} | "
                    f"{marked['apart']} | {gain:.2f}x |"
                )
                print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Print the table, and record it on request."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--tokens", type=int, nargs="+", default=[32, 128, 512, 2048])
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/text_packs.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    lines = rows(options.widths, options.tokens, options.sizes)
    if options.record:
        host = machine()
        where = (
            f"{host['cpu']}, {host['cores']} cores, load {os.getloadavg()[0]:.0f} at the end; Python {host['python']}, "
            f"torch {package_versions()['torch']}."
        )
        head = [
            "# Packs of transformers",
            "",
            "`python benchmarks/text_packs.py --record`: processor milliseconds a step and member, the least of",
            f"{ROUNDS} rounds in turns, one thread; a star marks the form that is chosen, and the gain is its own over",
            "one network at a time in a bare PyTorch loop.",
            "",
            where,
            "",
        ]
        RESULTS.write_text("\n".join([*head, *lines]) + "\n")


if __name__ == "__main__":
    main()
