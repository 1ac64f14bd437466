"""Choices that were made without a device, each compared with its alternatives: solves and convolutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from accelerator_parts.machine import seconds
from accelerator_parts.record import Record
from accelerator_parts.workloads import ARMS, Bench, Workloads, step_seconds, trials_of
from sensitivity.kfac import solves
from sensitivity.training import evaluation, packed_layers
from sensitivity.training.evaluation import evaluate


def run(record: Record, on: Workloads) -> None:
    """Time four forms of inverses, grouped and separate convolutions, and chunk sizes of an evaluation."""
    for side, count in ((9, 2),) if on.tiny else ((65, 16), (65, 384), (129, 64), (289, 96), (577, 16), (577, 96)):
        record.case(f"inverses: {count} of side {side}", partial(_inverses, on, side, count))
    for size, batch in ((0, 8),) if on.tiny else ((0, 128), (2**15, 128), (2**40, 128), (0, 1024), (2**40, 1024)):
        chosen = {0: "one by one", 2**40: "grouped"}.get(size, "as the product chooses")
        record.case(f"convolutions of a pack of 16, batch {batch}: {chosen}", partial(_convolutions, on, size, batch))
    for numbers in (2**10,) if on.tiny else (2**19, 2**23, 2**25, 2**27):
        record.case(f"evaluation, {numbers:,} numbers at once", partial(_evaluation, on, numbers))


def _inverses(on: Workloads, side: int, count: int) -> Mapping[str, Any]:
    rows = torch.randn(count, 2 * side, side, device=on.device)
    matrices = rows.mT @ rows / (2 * side) + 0.01 * torch.eye(side, device=on.device)
    truth = torch.linalg.inv(matrices.double())

    def library(m: Tensor) -> Tensor:
        return torch.cholesky_inverse(torch.linalg.cholesky_ex(m)[0])

    forms: dict[str, Callable[[Tensor], Tensor]] = {
        "triangles": lambda m: solves._by_triangular_solve(m)[0],
        "the library's": library,
        "by blocks": lambda m: solves._spd_inverse(m)[0],
        "LU": torch.linalg.inv,
    }
    found: dict[str, Any] = {}
    for name, form in forms.items():
        found[f"{name} ms"] = 1e3 * seconds(partial(form, matrices), on, rounds=3)
        error = torch.linalg.matrix_norm(form(matrices).double() - truth) / torch.linalg.matrix_norm(truth)
        found[f"{name} error"] = float(error.max())
    found["eigenvectors ms"] = 1e3 * seconds(lambda: torch.linalg.eigh(matrices), on, rounds=1)
    return {"ok": found["triangles error"] < 1e-3, **found}


def _convolutions(on: Workloads, size: int, batch: int) -> Mapping[str, Any]:
    before, packed_layers._FILLS = packed_layers._FILLS, size
    try:
        bench = Bench(on.problem("resnet20"), trials_of(ARMS["sgd"], 2 if on.tiny else 16, batch))
        return {"ms a step": 1e3 * step_seconds(bench, on.wait, least_s=0.0 if on.tiny else 0.3)}
    finally:
        packed_layers._FILLS = before


def _evaluation(on: Workloads, numbers: int) -> Mapping[str, Any]:
    kept = dict(evaluation._AT_ONCE)
    evaluation._AT_ONCE[on.device.type] = (2**20, numbers, 2**20)
    try:
        problem = on.problem("resnet20")
        bench = Bench(problem, trials_of(ARMS["sgd"], 2 if on.tiny else 16, 8))
        work = lambda: evaluate(bench.model, problem, train_examples=None, chunk=8)  # noqa: E731
        return {"s": seconds(work, on, rounds=1)}
    finally:
        evaluation._AT_ONCE.update(kept)
