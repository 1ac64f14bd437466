"""The output of ``plan --json``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from sensitivity.cli.json_output.base import Count, Output, Part

if TYPE_CHECKING:
    from sensitivity.execution.costs import Price


class CostPart(Part):
    """Cost of one run in a pack of the chosen size, as measured on this machine."""

    steps: Count = Field(description="Optimizer steps of a run.")
    flops: float = Field(description="Floating-point operations of a run's training, gradients and optimizer.")
    step_seconds: float = Field(description="Device-seconds of a step: the run's share of its pack's step.")
    evaluation_seconds: float = Field(description="Device-seconds of all evaluations of a run.")
    pack_size: Count = Field(description="Runs in the fastest pack that was measured.")
    most: Count = Field(description="Runs in the largest pack that fits in memory.")
    gain: float = Field(description="Throughput of the pack over that of one run at a time.")
    member_bytes: float = Field(description="Peak memory in bytes of a run's tensors in a pack.")


class PriceLinePart(Part):
    """The price of one optimizer at one batch size."""

    optimizer: str = Field(description="Name of the optimizer in the study file.")
    batch_size: Count = Field(description="Batch size in examples.")
    planned: Count = Field(description="Runs in the plan.")
    missing: Count = Field(description="Runs in the plan without a result; the price covers these.")
    cost: CostPart = Field(description="Cost of one run in a pack of the fastest size.")
    limit: float | None = Field(
        description="Device-seconds after which a search with a time limit ends, its last round included; else null."
    )
    estimated: bool = Field(description="Whether `planned` and `missing` are estimates for a search with a time limit.")
    device_seconds: float = Field(description="Device-seconds of the missing runs.")
    pack_size: Count = Field(description="Runs in a pack as `run` trains them.")


class PlanOutput(Output):
    """The missing runs of a study, and their cost on this machine."""

    study: str = Field(description="Name of the study.")
    workers: Count = Field(description="Packs trained in parallel.")
    device_seconds: float = Field(description="Device-seconds of all missing runs.")
    wall_seconds: float = Field(
        description="Seconds that `run` takes at most with these workers, without the start of Ray."
    )
    lines: tuple[PriceLinePart, ...] = Field(description="The price by optimizer and batch size.")


def plan_output(study: str, price: Price) -> PlanOutput:
    """Return the output of ``plan --json`` for a priced study."""
    return PlanOutput(
        study=study,
        workers=price.workers,
        device_seconds=price.device_seconds,
        wall_seconds=price.wall_seconds,
        lines=tuple(PriceLinePart.model_validate(line) for line in price.lines),
    )
