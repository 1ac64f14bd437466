"""Memory predicted by a plan compared with what the allocator takes, for batches of 16,384 in ghost batches."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from accelerator_parts.record import Record
from accelerator_parts.workloads import ARMS, Bench, Workloads, trials_of
from sensitivity.study.trials import Pack
from sensitivity.training.calibration import member_bytes
from sensitivity.training.memory import release_unused
from sensitivity.training.pack_training import PackTraining


def run(record: Record, on: Workloads) -> None:
    """Compare for both arms and some packs; then check that too large a pack is refused and the next one trains."""
    for arm in ("sgd", "kfac 10/100"):
        for members in (2,) if on.tiny else (4, 16):
            record.case(
                f"resnet20, {64 if on.tiny else 16384} in ghost batches, {arm}, pack of {members}",
                partial(_planned, on, arm, members),
                takes=0.0 if on.tiny else 8.0,
            )
    if on.device.type == "cuda":
        record.case("out of memory, then a pack that fits", partial(_too_large, on))


def _planned(on: Workloads, arm: str, members: int) -> Mapping[str, Any]:
    batch, ghost, steps = (64, 16, 2) if on.tiny else (16_384, 128, 4)
    changes = {
        "budget": {"steps": steps},
        "problem": {"ghost_batch": ghost},
        "evaluation": {"every_steps": steps, "train_examples": 4 * ghost},
    }
    problem, trials = on.problem("resnet20"), trials_of(ARMS[arm], members, batch, **changes)
    planned = member_bytes(trials, problem) * members
    if on.device.type == "cpu":
        return {"planned MiB": planned / 2**20}
    release_unused()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    training = PackTraining(Pack(trials), problem, micro_batch=None)
    training.measure()
    training.advance(steps)
    training.measure()
    taken = torch.cuda.max_memory_reserved() - before
    live = torch.cuda.max_memory_allocated() - before
    ratio = planned / taken
    return {
        "ok": 0.8 < ratio < 2.0,
        "planned GiB": planned / 2**30,
        "reserved GiB": taken / 2**30,
        "allocated GiB": live / 2**30,
        "planned over reserved": ratio,
    }


def _too_large(on: Workloads) -> Mapping[str, Any]:
    """Leave the device little memory, so that it runs out of memory quickly."""
    problem, trials = on.problem("resnet20"), trials_of(ARMS["sgd"], 64, 512)
    whole = torch.cuda.get_device_properties(on.device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 4 * 2**30) / whole)
    said = ""
    try:
        Bench(problem, trials).step()
    except torch.OutOfMemoryError as error:
        said = str(error).splitlines()[0][:80]
    release_unused()
    bench = Bench(problem, trials[:2])
    for _ in range(6):
        loss = bench.step()
    torch.cuda.set_per_process_memory_fraction(1.0)
    return {"ok": bool(said) and bool(torch.isfinite(loss).all()), "said": said or "nothing"}
