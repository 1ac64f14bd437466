"""What a plan costs on this machine: counted where it can be, measured for a moment where it can't."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sensitivity.execution.prepare import Plan
from sensitivity.study.errors import UserError, users_code
from sensitivity.study.trials import Pack
from sensitivity.training.calibration import Cost, calibrate
from sensitivity.training.memory import keep_freed_memory
from sensitivity.training.problems import load_problem


@dataclass(frozen=True, kw_only=True)
class PriceLine:
    """The price of one arm at one batch size."""

    optimizer: str
    batch_size: int
    planned: int
    """Runs of the study."""
    missing: int
    """Runs that have no result yet: the price is theirs."""
    cost: Cost

    @property
    def device_seconds(self) -> float:
        """Device-seconds of the missing runs."""
        return self.missing * self.cost.seconds


@dataclass(frozen=True, kw_only=True)
class Price:
    """The price of a plan, for `workers` packs at a time on this machine."""

    lines: tuple[PriceLine, ...]
    workers: int

    @property
    def device_seconds(self) -> float:
        """Device-seconds of all missing runs."""
        return sum(line.device_seconds for line in self.lines)

    @property
    def wall_seconds(self) -> float:
        """Time on this machine, Ray's start aside; an upper bound, since diverged runs end early."""
        return self.device_seconds / self.workers


def price(plan: Plan, packs: Sequence[Pack], *, workers: int) -> Price:
    """Measure one pack of each arm and batch size for a moment, and extrapolate to the whole plan.

    Raises:
        UserError: the device is not there, or the user's code raises in training.
    """
    execution = plan.spec.execution
    if execution.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            'execution.device = "cuda", but this machine has no accelerator to measure on\n'
            '  Plan on a machine that has one, or set device = "cpu"'
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(execution.threads)
    keep_freed_memory()  # as the workers do
    try:
        problem = plan.problem
        if execution.device != "cpu":
            problem = load_problem(plan.spec.problem, device=torch.device(execution.device))
        lines = []
        for arm in plan.spec.optimizers:
            for batch_size in plan.spec.batch_sizes:
                mine = [pack for pack in packs if (pack.arm, pack.batch_size) == (arm, batch_size)]
                planned = [t for t in plan.trials if (t.arm, t.batch_size) == (arm, batch_size)]
                sample = max(mine, key=lambda pack: len(pack.trials)) if mine else Pack(tuple(planned[:1]))
                with users_code(f"{sample.trials[0].label()}: training raises"):
                    cost = calibrate(sample, problem)
                lines.append(
                    PriceLine(
                        optimizer=arm,
                        batch_size=batch_size,
                        planned=len(planned),
                        missing=sum(len(pack.trials) for pack in mine),
                        cost=cost,
                    )
                )
    finally:
        torch.set_num_threads(threads)
    return Price(lines=tuple(lines), workers=workers)
