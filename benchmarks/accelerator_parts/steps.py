"""Cost of a K-FAC step relative to SGD, AdamW and a plain PyTorch loop, in packs of one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from accelerator_parts.machine import seconds
from accelerator_parts.record import Record
from accelerator_parts.workloads import ARMS, Bench, Workloads, step_seconds, trials_of
from sensitivity.training.cost import step_flops

BATCHES = {"resnet20": 128, "wide perceptron": 512, "transformer": 64}


def run(record: Record, on: Workloads) -> None:
    """Time the steps of every arm for three models."""
    for model, batch in BATCHES.items():
        batch = 8 if on.tiny else batch
        plain = record.case(f"{model}, {batch}: a plain loop with SGD", partial(_plain, on, model, batch))
        bases = {"a plain loop": plain["ms a step"]} if plain else {}
        for arm in ("sgd", "kfac 1/10") if on.tiny else ("sgd", "adamw", "kfac 10/100", "kfac 1/10", "kfac 1/1"):
            found = record.case(f"{model}, {batch}: {arm}", partial(_packed, on, model, batch, arm, dict(bases)))
            if arm == "sgd" and found:
                bases["SGD"] = found["ms a step"]


def _packed(on: Workloads, model: str, batch: int, arm: str, bases: Mapping[str, float]) -> Mapping[str, Any]:
    problem = on.problem(model)
    bench = Bench(problem, trials_of(ARMS[arm], 1, batch))
    taken = step_seconds(bench, on.wait, least_s=0.0 if on.tiny else 0.5)
    return {
        "ms a step": 1e3 * taken,
        **{f"over {name}": 1e3 * taken / base for name, base in bases.items()},
        "TFLOP/s": step_flops(problem, bench.optimizer, batch) / taken / 1e12,
        "kinds recorded": len(bench.steps._recorded),
    }


def _plain(on: Workloads, model: str, batch: int) -> Mapping[str, Any]:
    problem = on.problem(model)
    network, data = problem.build_model().train(), problem.dataset
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9)
    rows = torch.randint(0, data.train_size, (batch,), device=on.device)

    def steps() -> None:
        for _ in range(2 if on.tiny else 20):
            optimizer.zero_grad(set_to_none=True)
            outputs = network(data.standardised(data.train_inputs[rows]))
            functional.cross_entropy(outputs.flatten(0, -2), data.train_targets[rows].flatten()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return {"ms a step": seconds(steps, on, rounds=1 if on.tiny else 5) * 1e3 / (2 if on.tiny else 20)}
