"""Versions, and the peak performance of the device, from which other parts compute lower bounds on time."""

from __future__ import annotations

import importlib.util
import platform
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from accelerator_parts.record import Record, cases_in
from accelerator_parts.workloads import Workloads

OPTIONAL = ("numpy", "scipy", "pandas", "pyarrow", "sklearn", "torchvision", "pydantic", "ray", "optuna", "plotly")


def run(record: Record, on: Workloads) -> None:
    """Record versions, the rates of products and copies, and the time of a launch."""
    record.case("versions", partial(_versions, on))
    record.case("ceilings", partial(_ceilings, on))
    record.case("launch", partial(_launch, on))


def floor_seconds(folder: Path, flops: float, moved: float) -> float:
    """Return the least time for this much work, from the measured peak rates or, without them, from a data sheet's."""
    found = next((case for case in cases_in(folder) if case["case"] == "ceilings"), {})
    peak = 1e12 * float(found.get("float32 TFLOP/s", 50.0))
    return max(flops / peak, moved / (1e12 * float(found.get("copied TB/s", 3.0))))


def _versions(on: Workloads) -> Mapping[str, Any]:
    found = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda or "none"}
    found |= {"device": "cpu", "threads": str(torch.get_num_threads())}
    if on.device.type == "cuda":
        properties = torch.cuda.get_device_properties(on.device)
        found |= {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": str(properties.multi_processor_count),
            "GiB": f"{properties.total_memory / 2**30:.0f}",
            "linear algebra": str(torch.backends.cuda.preferred_linalg_library()),
        }
    found["packages"] = ", ".join(name for name in OPTIONAL if importlib.util.find_spec(name)) or "none"
    return found


def _ceilings(on: Workloads) -> Mapping[str, Any]:
    side = 128 if on.tiny else 8192
    found: dict[str, float] = {}
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bfloat16", torch.bfloat16, False),
        ("float64", torch.float64, False),
    ):
        a = torch.randn(side, side, device=on.device).to(dtype)
        torch.backends.cuda.matmul.allow_tf32 = tf32
        found[f"{name} TFLOP/s"] = 2 * side**3 / seconds(partial(torch.matmul, a, a), on) / 1e12
    torch.backends.cuda.matmul.allow_tf32 = False
    large = torch.empty(2**20 if on.tiny else 2**28, device=on.device)
    other = torch.empty_like(large)
    found["copied TB/s"] = 2 * large.nbytes / seconds(lambda: other.copy_(large), on) / 1e12
    return found


def _launch(on: Workloads) -> Mapping[str, Any]:
    small = torch.zeros(16, device=on.device)

    def many() -> None:
        for _ in range(1000):
            small.add_(1.0)

    return {"us a launch": seconds(many, on) * 1e3}


def seconds(work: Callable[[], object], on: Workloads, *, rounds: int = 5) -> float:
    """Return the time of some work on the device: the fastest of several rounds after a warm-up round."""
    taken = []
    for _ in range(rounds + 1):
        on.wait()
        began = time.perf_counter()
        work()
        on.wait()
        taken.append(time.perf_counter() - began)
    return min(taken[1:])
