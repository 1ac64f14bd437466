"""Whether the device trains as the host does, recorded or eager, in packs or alone, and returns its memory."""

from __future__ import annotations

import gc
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from accelerator_parts.record import Record
from accelerator_parts.workloads import ARMS, Bench, Workloads, eager, trials_of
from sensitivity.study.trials import Pack
from sensitivity.training.pack_training import PackTraining
from sensitivity.training.recorded_steps import CudaGraphs

HOST = torch.device("cpu")
CONFORMING: dict[str, dict[str, Any]] = {
    **{kind: {} for kind in ("sgd", "adam", "adamw", "nadam", "rmsprop", "adagrad", "lion", "muon")},
    "sophia": {"hessian_interval": 4},
    "shampoo": {"precondition_interval": 5},
    "soap": {"precondition_interval": 5},
    "schedule_free_sgd": {},
    "schedule_free_adamw": {},
    "kfac": {"damping": 0.1, "inverse_interval": 5},
    "kfac exact": {"damping": 0.1, "inverse_interval": 5, "damping_form": "exact"},
    "kfac ekfac": {"damping": 0.1, "inverse_interval": 5, "damping_form": "exact", "ekfac": True},
    "kfac clipped": {"damping": 0.1, "kl_clip": 1e-3, "weight_decay": 1e-3},
}
"""Arms with losses that are compared between the device and the host."""


def run(record: Record, on: Workloads) -> None:
    """Compare losses over some steps, in float64 where only rounding may differ."""
    steps, arms = (2, ("kfac 1/10",)) if on.tiny else (20, ("sgd", "kfac 1/10"))
    for arm in arms:
        for model, batch in (("perceptron", 32), ("small_cnn", 32), ("resnet20 of 8x8", 16)):
            for members in (2,) if on.tiny else (1, 4):
                name = f"float64 against the host: {model}, {arm}, pack of {members}"
                record.case(name, partial(_against_host, on, model, ARMS[arm], batch, members, steps))
    for kind, settings in list(CONFORMING.items())[:: 5 if on.tiny else 1]:
        own = {"kind": kind.partition(" ")[0], **settings}
        record.case(f"conformance: {kind}", partial(_against_host, on, "perceptron", own, 32, 2, steps))
    record.case("packs against singles", partial(_against_singles, on, steps, arms))
    for arm in arms if on.tiny else ("sgd", "kfac 1/10", "kfac 10/100", "adamw"):
        record.case(f"recorded against eager: {arm}", partial(_recorded, on, ARMS[arm]))
    for precision, tolerance in (("tf32", 1e-2), ("bfloat16", 5e-2)):
        record.case(f"{precision} against float32", partial(_lower, on, precision, tolerance, steps, arms))
    record.case("a member dropped, saved and resumed", partial(_resumed, on))
    record.case("memory returned", partial(_returned, on))


def _against_host(
    on: Workloads, model: str, arm: dict[str, Any], batch: int, members: int, steps: int
) -> Mapping[str, Any]:
    trials, augment, found, taken = trials_of(arm, members, batch), model.startswith("resnet20"), [], []
    for device in (HOST, on.device):
        problem = on.problem(model, torch.float64, on=device)
        began = time.perf_counter()
        found.append(Bench(problem, trials, augment=augment, lr_scale=1.0).losses(steps))
        taken.append(time.perf_counter() - began)
    error = _difference(*found)
    return {"ok": error < 1e-6, "difference": error, "host s": taken[0], "device s": taken[1]}


def _against_singles(on: Workloads, steps: int, arms: Sequence[str]) -> Mapping[str, Any]:
    error, problem = 0.0, on.problem("resnet20", torch.float64)
    for arm in arms:
        trials = trials_of(ARMS[arm], 4, 8)
        together = Bench(problem, trials, lr_scale=1.0).losses(steps)
        for place in (0, 3):
            alone = Bench(problem, trials[place : place + 1], lr_scale=1.0).losses(steps)
            error = max(error, _difference(alone[:, 0], together[:, place]))
    return {"ok": error < 1e-6, "difference": error}


def _recorded(on: Workloads, arm: dict[str, Any]) -> Mapping[str, Any]:
    """Compare in float64, where only the order of sums may differ."""
    trials, steps, error, kinds = trials_of(arm, 4, 32), 4 if on.tiny else 60, 0.0, 0
    for model in ("perceptron", "resnet20 of 8x8"):
        problem, augment = on.problem(model, torch.float64), model.startswith("resnet20")
        bench = Bench(problem, trials, augment=augment, lr_scale=1.0)
        recorded = bench.losses(steps)
        kinds += len(bench.steps._recorded)
        with eager():
            plain = Bench(problem, trials, augment=augment, lr_scale=1.0).losses(steps)
        error = max(error, _difference(plain, recorded))
    ok = error < 1e-6 and not CudaGraphs.failed and (kinds > 0 or on.device.type == "cpu")
    return {"ok": ok, "difference": error, "kinds recorded": kinds}


def _lower(on: Workloads, precision: str, tolerance: float, steps: int, arms: Sequence[str]) -> Mapping[str, Any]:
    errors = {}
    for arm in arms:
        for model in ("wide perceptron", "resnet20", "transformer"):
            trials, problem = trials_of(ARMS[arm], 2, 32), on.problem(model)
            full = Bench(problem, trials, lr_scale=1.0).losses(steps)
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
            lower = replace(problem, products=torch.bfloat16 if precision == "bfloat16" else None, _variants={})
            try:
                errors[f"{model}, {arm}"] = _difference(full, Bench(lower, trials, lr_scale=1.0).losses(steps))
            finally:
                torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return {"ok": max(errors.values()) < tolerance, **errors}


def _resumed(on: Workloads) -> Mapping[str, Any]:
    """Train with a member that diverges; save halfway as a worker does, load on the host, and continue."""
    arm = {"kind": "kfac", "damping": 0.1, "lr": [1e-3, 1e9, 2e-3]}
    changes = {"budget": {"steps": 48}, "evaluation": {"every_steps": 16}}
    pack, problem = Pack(trials_of(arm, 3, 32, **changes)), on.problem("perceptron")
    training = PackTraining(pack, problem, micro_batch=None)
    training.measure()
    training.advance(32)
    training.measure()
    kept = io.BytesIO()
    torch.save(training.state(), kept)
    left = training.left
    again = PackTraining(pack, problem, micro_batch=None)
    again.restore(torch.load(io.BytesIO(kept.getvalue()), weights_only=True, map_location="cpu"))
    ends = []
    for each in (training, again):
        each.advance(48)
        each.measure()
        ends.append(torch.tensor([run.measurements[-1].train_loss for run in each.results()]).double())
    error = _difference(*ends)
    return {"ok": left == 2 and error < 1e-5, "members left": left, "difference": error}


def _returned(on: Workloads) -> Mapping[str, Any]:
    if on.device.type == "cpu":
        return {"not on a host": "its allocator tells nothing"}
    gc.collect()
    torch.cuda.empty_cache()
    problem = on.problem("resnet20")
    before = torch.cuda.memory_allocated()
    bench = Bench(problem, trials_of(ARMS["kfac 1/10"], 4, 32))
    for _ in range(12):
        bench.step()
    most = torch.cuda.memory_allocated()
    del bench
    gc.collect()
    torch.cuda.empty_cache()
    after = torch.cuda.memory_allocated()
    return {
        "ok": after - before < 64 * 2**20,
        "MiB held": (most - before) / 2**20,
        "MiB kept": (after - before) / 2**20,
    }


def _difference(one: Tensor, other: Tensor) -> float:
    """Return the largest difference, relative to the larger of 1 and the value; infinite if one is not finite."""
    error = float(((one - other).abs() / one.abs().clamp_min(1.0)).max())
    return error if torch.isfinite(one).all() and torch.isfinite(other).all() else float("inf")
