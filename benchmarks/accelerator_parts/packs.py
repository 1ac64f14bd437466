"""Packs of 1, 4, 16 and 64, eager and recorded, relative to one trial at a time and to the floor by bytes and FLOPs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from accelerator_parts.machine import floor_seconds
from accelerator_parts.record import Record
from accelerator_parts.workloads import ARMS, Bench, Workloads, eager, step_seconds, trials_of
from sensitivity.training.cost import step_flops
from sensitivity.training.dispatch_modes import ObserverMode

GHOST = 128
CASES = (
    *(("perceptron", 32, arm) for arm in ("sgd", "kfac 10/100")),
    *(("resnet20", 128, arm) for arm in ("sgd", "kfac 10/100")),
    *(("transformer", 32, arm) for arm in ("sgd", "kfac 10/100")),
    ("resnet20", 2048, "sgd"),
    *(("resnet20", 16_384, arm) for arm in ("sgd", "kfac 10/100")),
)
TINY = (("perceptron", 8, "kfac 1/10"), ("resnet20", 8, "sgd"), ("transformer", 8, "sgd"))
_WHOLE = 1024
"""Largest batch that is differentiated as a whole."""


def run(record: Record, on: Workloads) -> None:
    """Time each case in growing packs until they gain nothing more, or don't fit."""
    for model, batch, arm in TINY if on.tiny else CASES:
        ghost = GHOST if batch > _WHOLE else None
        rates: list[float] = []
        for members in (1, 4) if on.tiny else (1, 4, 16, 64):
            found = None
            for recorded in (False, True):
                if recorded and (ghost or on.device.type == "cpu"):
                    continue
                how = "recorded" if recorded else "in parts" if ghost else "eager"
                case = _Case(model, batch, arm, members, recorded, ghost)
                found = record.case(
                    f"{model}, {batch}, {arm}: {members}, {how}",
                    partial(_timed, record, on, case, rates[0] if rates else 0.0),
                    takes=0.0 if on.tiny else 3.0,
                )
                if found:
                    rates.append(found["trial-steps/s"])
            if found is None or rates[-1] < 0.8 * max(rates):
                break


@dataclass(frozen=True)
class _Case:
    model: str
    batch: int
    arm: str
    members: int
    recorded: bool
    ghost: int | None


def _timed(record: Record, on: Workloads, case: _Case, alone: float) -> Mapping[str, Any]:
    """Time the steps of a pack; `alone` is the number of steps per second of one trial at a time."""
    problem, trials = on.problem(case.model), trials_of(ARMS[case.arm], case.members, case.batch)
    if on.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with nullcontext() if case.recorded else eager():
        bench = Bench(problem, trials, micro_batch=case.ghost)
    taken = step_seconds(bench, on.wait, least_s=0.0 if on.tiny else 0.3)
    rate = case.members / taken
    flops = case.members * step_flops(problem, bench.optimizer, case.batch)
    values: dict[str, Any] = {
        "ms a step": 1e3 * taken,
        "trial-steps/s": rate,
        "over one at a time": rate / alone if alone else 1.0,
    }
    if not case.recorded:  # a recording does the same
        traffic = Traffic()
        with traffic:
            bench.step()
        floor = floor_seconds(record.folder, flops, traffic.bytes)
        values |= {"launches": traffic.launches, "GB moved": traffic.bytes / 1e9, "floor ms": 1e3 * floor}
    values["TFLOP/s"] = flops / taken / 1e12
    if on.device.type == "cuda":
        values["GiB reserved"] = torch.cuda.max_memory_reserved() / 2**30
    return values


class Traffic(ObserverMode):
    """Counts operations that are not views, and the bytes that they read and write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.launches, self.bytes = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        returned = [each.alias_info for each in func._schema.returns]
        if not any(alias is not None and not alias.is_write for alias in returned):
            self.launches += 1
            self.bytes += sum(each.nbytes for each in tree_leaves((args, kwargs, result)) if isinstance(each, Tensor))
        return result
