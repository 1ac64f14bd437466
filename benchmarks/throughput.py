"""Cost of a training step compared with a bare PyTorch loop over the same tensors: ResNet-20, batch 128, CIFAR shape.

    python benchmarks/throughput.py [--rounds N] [--record]

Both sides index the same bytes in memory, standardise them, and take an SGD step with momentum; there is no loader.
Steps are interleaved in one process with one math thread; the result is the median over rounds of the ratio of a round.
The following are measured separately, as shares of a step: gathering and standardising a batch, augmenting it, and
other work in a step (divergence monitor, learning-rate schedule). Evaluation is given relative to the 391 steps of an
epoch.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from record import circumstances
from torch import Tensor, nn

from sensitivity.study.load import parse_study
from sensitivity.study.schedule import lr_multiplier
from sensitivity.study.trials import Pack, expand
from sensitivity.training.augmentation import PackAugmentation, augmented
from sensitivity.training.batches import PackBatches
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.evaluation import evaluate
from sensitivity.training.losses import cross_entropy
from sensitivity.training.members import DivergenceMonitor
from sensitivity.training.memory import keep_freed_memory
from sensitivity.training.models.resnet import resnet20
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.problems import Problem
from sensitivity.training.recorded_steps import Steps
from sensitivity.training.step import make_optimizer

BATCH, TRAIN, TEST = 128, 50_000, 10_000
RESULT = Path(__file__).parent / "results" / "throughput.md"


def images(count: int) -> tuple[Tensor, Tensor]:
    """Return noise as bytes ``[count, 3, 32, 32]`` and classes."""
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return pixels, torch.randint(0, 10, (count,), generator=generator)


def seconds(work: Callable[[], object], times: int = 1) -> float:
    """Return the time of one call, as the mean of several in a row."""
    began = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - began) / times


def main() -> None:
    """Measure, print, and record on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--record", action="store_true", help="keep the result in benchmarks/results")
    arguments = parser.parse_args()
    begun = circumstances("torch")
    torch.set_num_threads(1)
    keep_freed_memory()
    (train, classes), (test, test_classes) = images(TRAIN), images(TEST)
    mean, deviation = torch.full((3, 1, 1), 127.5), torch.full((3, 1, 1), 74.0)
    data = Dataset(
        train_inputs=train,
        train_targets=classes,
        test_inputs=test,
        test_targets=test_classes,
        mean=mean,
        deviation=deviation,
    )
    problem = Problem(
        dataset=data,
        build_model=lambda: resnet20((3, 32, 32), 10),
        loss=cross_entropy,
        has_classes=True,
        outputs=10,
    )
    arm = {"kind": "sgd", "lr": 0.01, "momentum": 0.9}
    raw = {"name": "t", "batch_sizes": [BATCH], "seeds": 1, "budget": {"epochs": 100}, "optimizers": {"sgd": arm}}
    (trial,) = expand(parse_study(raw, source="benchmark"))

    torch.manual_seed(0)
    network = resnet20((3, 32, 32), 10).train()
    bare_optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    rows = iter(torch.randperm(TRAIN).split(BATCH) * 100)  # type: ignore[no-untyped-call]

    def bare() -> None:
        some = next(rows)
        inputs = train[some].float().sub_(mean).div_(deviation)
        bare_optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs), classes[some]).backward()  # type: ignore[no-untyped-call]
        bare_optimizer.step()

    model = PackedModel(problem.build_model, [0])
    optimizer = make_optimizer(Pack((trial,)), model, problem)
    batches = PackBatches([0], problem, batch_size=BATCH, micro_batch=None, augment=False)
    steps = Steps(model, problem, optimizer, batches)
    monitor, count = DivergenceMonitor(1), iter(range(10**9))

    def ours() -> None:
        step = next(count)
        scale = lr_multiplier(trial.workload.schedule, step=step, total=10**6, train_size=TRAIN, batch_size=BATCH)
        monitor.observe(step, *steps.take(step=step, lr_scale=scale))
        if step % 16 == 15:
            monitor.faults([math.inf])

    ratios, alone = [], []
    for k in range(arguments.rounds + 1):
        pair = [seconds(bare), seconds(ours)] if k % 2 else [seconds(ours), seconds(bare)][::-1]
        if k:  # the first round warms up
            ratios.append(pair[1] / pair[0])
            alone.append(pair[0])
    step_seconds = statistics.median(alone)
    drawn = PackBatches([0], problem, batch_size=BATCH, micro_batch=None, augment=False)
    augmentation, batch = PackAugmentation([0]), train[:BATCH][None]
    losses = torch.zeros(1)

    def book() -> None:
        for step in range(16):
            monitor.observe(step, losses, None)
            lr_multiplier(trial.workload.schedule, step=5, total=10**6, train_size=TRAIN, batch_size=BATCH)
        monitor.faults([math.inf])

    parts = {
        "gathering and standardising": seconds(lambda: list(drawn.draw()), 20),
        "augmentation (crop and flip)": seconds(lambda: augmented(batch, augmentation.draw(BATCH)), 20),
        "bookkeeping": seconds(book, 20) / 16,
    }
    evaluation = seconds(lambda: evaluate(model, problem, train_examples=5000, chunk=BATCH))
    quartiles = statistics.quantiles(ratios, n=4)
    lines = [
        "# throughput",
        "",
        f"{begun}; one math thread; n = {arguments.rounds} rounds.",
        "",
        f"ResNet-20, batch 128: a step here over a step of a bare loop, **{statistics.median(ratios):.3f}** "
        f"(quartiles {quartiles[0]:.3f} to {quartiles[2]:.3f}); the bare step takes {step_seconds * 1e3:.0f} ms.",
        "",
        "| part | ms | share of a bare step |",
        "| --- | ---: | ---: |",
        *(f"| {name} | {each * 1e3:.2f} | {each / step_seconds:.2%} |" for name, each in parts.items()),
        f"| evaluation on 5,000 training and 10,000 test images | {evaluation * 1e3:.0f} | "
        f"{evaluation / step_seconds / 391:.1%} of an epoch's steps |",
        "",
    ]
    print("\n".join(lines))
    if arguments.record:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
