"""A graph recording that fails on purpose, and what the process can still do; runs in a process that may be lost."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from accelerator_parts.record import Record
from accelerator_parts.workloads import ARMS, Bench, Workloads, trials_of
from sensitivity.training.recorded_steps import CudaGraphs


def run(record: Record, on: Workloads) -> None:
    """Request a number during a recording; then train, empty the cache, and record again by hand."""
    if on.device.type == "cpu":
        record.case("a failed recording", lambda: {"not on a host": "it has no graphs"})
        return
    record.case("a failed recording", partial(_failed, on))
    record.case("training goes on", partial(_trains, on))
    record.case("memory can be given back", _emptied)
    record.case("a second recording, which the product no longer tries", partial(_again, on))


def _failed(on: Workloads) -> Mapping[str, Any]:
    x = torch.ones(8, device=on.device)
    before, said = torch.cuda.current_stream(), ""
    try:
        CudaGraphs(on.device).record(lambda: void((x + 1).sum().item()))
    except RuntimeError as error:
        said = str(error).splitlines()[0]
    same = torch.cuda.current_stream() == before
    return {"ok": bool(said) and same and CudaGraphs.failed, "said": said, "stream as before": same}


def _trains(on: Workloads) -> Mapping[str, Any]:
    bench = Bench(on.problem("perceptron"), trials_of(ARMS["kfac 1/10"], 4, 32), lr_scale=1.0)
    losses = bench.losses(30)
    return {"ok": bool(torch.isfinite(losses).all()) and not bench.steps._recorded, "loss": float(losses[-1, 0])}


def _emptied() -> Mapping[str, Any]:
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return {"ok": True, "MiB reserved": torch.cuda.memory_reserved() / 2**20}


def _again(on: Workloads) -> Mapping[str, Any]:
    x = torch.zeros(8, device=on.device)
    CudaGraphs(on.device).record(lambda: void(x.add_(1)))()
    return {"ok": True, "value": float(x[0])}


def void(_: object) -> None:
    """Return nothing."""
