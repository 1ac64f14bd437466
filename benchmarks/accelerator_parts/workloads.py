"""Workloads of the parts: data with fixed seeds on the device, models, arms, and packs that take steps."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.study.load import parse_study
from sensitivity.study.trials import Pack, Trial, expand
from sensitivity.training.batches import PackBatches
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.losses import cross_entropy
from sensitivity.training.models.perceptron import perceptron
from sensitivity.training.models.resnet import resnet20
from sensitivity.training.models.small_cnn import small_cnn
from sensitivity.training.models.transformer import transformer
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.problems import Problem
from sensitivity.training.recorded_steps import CudaGraphs, Steps
from sensitivity.training.step import make_optimizer

CLASSES, WORDS, LENGTH = 10, 256, 64
ARMS: dict[str, dict[str, Any]] = {
    "sgd": {"kind": "sgd", "momentum": 0.9},
    "adamw": {"kind": "adamw"},
    "kfac 1/10": {"kind": "kfac", "damping": 0.1},
    "kfac 10/100": {"kind": "kfac", "damping": 0.1, "factor_interval": 10, "inverse_interval": 100},
    "kfac 1/1": {"kind": "kfac", "damping": 0.1, "inverse_interval": 1},
}
"""Arms by name; for K-FAC the name gives the steps between factor updates and between inversions."""


@dataclass(frozen=True)
class Workloads:
    """Problems on a device; `tiny` ones are for a test on the host."""

    device: torch.device
    tiny: bool

    def problem(self, name: str, dtype: torch.dtype = torch.float32, *, on: torch.device | None = None) -> Problem:
        """Return a problem by name."""
        device, examples = on or self.device, 256 if self.tiny else 20_000
        small = self.tiny
        builds: dict[str, Callable[[], nn.Module]] = {
            "perceptron": lambda: perceptron((64,), CLASSES),
            "wide perceptron": lambda: perceptron((64 if small else 1024,), CLASSES, width=16 if small else 2048),
            "small_cnn": lambda: small_cnn((1, 8, 8), CLASSES),
            "resnet20": _little if small else resnet20((3, 32, 32), CLASSES),
            "resnet20 of 8x8": _little if small else resnet20((3, 8, 8), CLASSES),
            "transformer": lambda: transformer((LENGTH,), WORDS, width=16 if small else 256, depth=1 if small else 4),
        }
        data = self._data(name, examples).to(device, dtype)
        return Problem(
            dataset=data,
            build_model=lambda: builds[name]().to(device, dtype),
            loss=cross_entropy,
            has_classes=True,
            outputs=WORDS if name == "transformer" else CLASSES,
            shipped=True,  # each does the same in every pass, without random numbers
        )

    def _data(self, name: str, examples: int) -> Dataset:
        generator = torch.Generator().manual_seed(0)
        classes = torch.randint(0, CLASSES, (examples,), generator=generator)
        mean = deviation = None
        if name == "transformer":
            ids = (torch.randint(0, WORDS, (examples, 1), generator=generator) * torch.arange(1, LENGTH + 2)) % WORDS
            inputs, classes = ids[:, :-1], ids[:, 1:]
        elif name.startswith("resnet20"):
            side = 8 if self.tiny or "of 8x8" in name else 32
            shown = torch.randint(0, 200, (CLASSES, 3, side, side), generator=generator)
            noise = torch.randint(0, 56, (examples, 3, side, side), generator=generator, dtype=torch.uint8)
            inputs = noise + shown.to(torch.uint8)[classes]
            mean, deviation = torch.full((3, 1, 1), 127.0), torch.full((3, 1, 1), 60.0)
        else:
            shape = {"small_cnn": (1, 8, 8), "perceptron": (64,)}.get(name, (64 if self.tiny else 1024,))
            inputs = torch.randn(CLASSES, *shape, generator=generator)[classes]
            inputs = inputs + torch.randn(examples, *shape, generator=generator)
        few = max(examples // 10, 32)
        return Dataset(
            train_inputs=inputs[few:], train_targets=classes[few:], test_inputs=inputs[:few],
            test_targets=classes[:few], mean=mean, deviation=deviation,
        )  # fmt: skip

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _little() -> nn.Module:
    """Return a replacement of ResNet-20 for a test: convolutions and normalisation that vmap computes together."""
    layers = (nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, CLASSES))
    return nn.Sequential(*layers)


def trials_of(arm: dict[str, Any], members: int, batch_size: int, **changes: Any) -> tuple[Trial, ...]:
    """Return `members` trials of an arm that differ in their learning rate."""
    lr: Any = {"log": [1e-3, 1e-2], "points": members} if members > 1 else 1e-3
    raw = {
        "name": "accelerator",
        "batch_sizes": [batch_size],
        "seeds": 1,
        "budget": {"steps": 10_000},
        "optimizers": {"a": {"lr": lr, **arm}},
        **changes,
    }
    return tuple(expand(parse_study(raw, source="benchmark"))[:members])


class Bench:
    """A pack that takes steps."""

    def __init__(
        self,
        problem: Problem,
        trials: Sequence[Trial],
        *,
        micro_batch: int | None = None,
        augment: bool = False,
        lr_scale: float = 0.0,
    ) -> None:
        """Prepare steps at `lr_scale` times the trials' learning rates; at 0 they change no parameter."""
        seeds = [trial.seed for trial in trials]
        self.model = PackedModel(problem.build_model, seeds, products=problem.products, shipped=True)
        self.optimizer = make_optimizer(Pack(tuple(trials)), self.model, problem)
        batch_size = trials[0].batch_size
        self.batches = PackBatches(seeds, problem, batch_size=batch_size, micro_batch=micro_batch, augment=augment)
        self.steps = Steps(self.model, problem, self.optimizer, self.batches)
        self._scale, self._count = lr_scale, iter(range(10**9))

    def step(self) -> Tensor:
        """Take a step, and return the losses before it; they are valid until the next step."""
        return self.steps.take(step=next(self._count), lr_scale=self._scale)[0]

    def losses(self, steps: int) -> Tensor:
        """Return the losses ``[steps, trials]`` of `steps` steps."""
        return torch.stack([self.step().double().clone() for _ in range(steps)]).cpu()

    def warm(self, seconds: float) -> None:
        """Take steps until all kinds of them are recorded, or the time is over."""
        kinds = {self.optimizer.repeated_kind(step) for step in range(self.optimizer.period)} - {None}
        self.step(), self.step()
        began = time.perf_counter()
        while not self.steps.has_recorded(kinds) and time.perf_counter() - began < seconds:
            self.step()


def step_seconds(bench: Bench, wait: Callable[[], None], *, least_s: float) -> float:
    """Return the mean time of a step: the fastest of several whole periods of the optimizer's updates."""
    period, taken = max(bench.optimizer.period, 10), list[float]()
    bench.warm(10 * least_s)
    wait()
    while not taken or (sum(taken) < least_s and len(taken) < 20):
        began = time.perf_counter()
        for _ in range(period):
            bench.step()
        wait()
        taken.append((time.perf_counter() - began) / period)
    return min(taken)


@contextlib.contextmanager
def eager() -> Iterator[None]:
    """Disable recording for packs that are created inside the block."""
    before, CudaGraphs.failed = CudaGraphs.failed, True
    try:
        yield
    finally:
        CudaGraphs.failed = before
