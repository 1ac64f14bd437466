"""Time of a step by kind, from torch's profiler: launches, copies, products, convolutions, solves, and waiting."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch.profiler import ProfilerActivity, profile

from accelerator_parts.record import Record
from accelerator_parts.workloads import ARMS, Bench, Workloads, eager, trials_of

KINDS = {
    "solves": r"potr|trsm|trsv|cholesky|syev|eigh|getr|geqrf|triangular",
    "convolutions": r"conv|cudnn|implicit|wgrad|dgrad|xmma_fprop",
    "products": r"gemm|gemv|cublas|cutlass|::b?a?d?d?b?mm|splitK",
    "copies": r"memcpy|memset|copy|fill|cat",
    "normalisation": r"batch_norm|bn_|layer_norm|norm",
}
CASES = (("perceptron", 32, "kfac 1/10", 16), ("resnet20", 128, "sgd", 4), ("resnet20", 128, "kfac 1/10", 4))


def run(record: Record, on: Workloads) -> None:
    """Profile one period of steps, eager and recorded."""
    for model, batch, arm, members in CASES[:1] if on.tiny else CASES:
        for recorded in (False,) if on.device.type == "cpu" else (False, True):
            name = f"{model}, {batch}, {arm}, pack of {members}, {'recorded' if recorded else 'eager'}"
            members = 2 if on.tiny else members
            record.case(name, partial(_profiled, on, model, batch, arm, members, recorded))


def _profiled(on: Workloads, model: str, batch: int, arm: str, members: int, recorded: bool) -> Mapping[str, Any]:
    problem, trials = on.problem(model), trials_of(ARMS[arm], members, batch)
    if recorded:
        bench = Bench(problem, trials)
    else:
        with eager():
            bench = Bench(problem, trials)
    bench.warm(5.0)
    on.wait()
    there = on.device.type == "cuda"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if there else [ProfilerActivity.CPU]
    period = bench.optimizer.period
    with profile(activities=activities, acc_events=True) as profiler:
        began = time.perf_counter()
        for _ in range(period):
            bench.step()
        on.wait()
        wall = (time.perf_counter() - began) * 1e6
    spent, launches, waits = dict.fromkeys((*KINDS, "other"), 0.0), 0, 0
    for event in profiler.key_averages():
        own = float(event.self_device_time_total if there else event.self_cpu_time_total)
        launches += event.count if event.key in ("cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchKernelExC") else 0
        waits += event.count if "Synchronize" in event.key else 0
        if own:
            kind = next((kind for kind, words in KINDS.items() if re.search(words, event.key, re.I)), "other")
            spent[kind] += own
    busy = sum(spent.values())
    shares = {f"{kind} %": round(100 * each / busy, 1) for kind, each in spent.items() if busy and each > 0.005 * busy}
    return {"busy %": round(100 * busy / wall, 1), "launches a step": launches / period, "waits": waits, **shares}
