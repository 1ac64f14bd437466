"""The `[search]` table of a study file: the objective of adaptive searches, and how winners are confirmed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from sensitivity.study.metrics import METRICS, Metric, MetricName, named
from sensitivity.study.section import AsList, OneOrMore, Section

Cost = Literal["steps_to_target", "seconds_to_target", "device_seconds", "flops"]
COSTS: tuple[Cost, ...] = get_args(Cost)
"""Objectives that are a time to a target or a cost of a run."""
Objective = MetricName
"""A metric at the end of a run, or one of `COSTS`."""

TO_TARGET = ("steps_to_target", "seconds_to_target")


def lower_is_better(objective: Objective) -> bool:
    """Whether an objective is minimised: costs always, metrics according to their declaration."""
    return objective in COSTS or METRICS[objective].lower_is_better


class SearchSpec(Section):
    """Objective of all searches of a study, and of the choice of winners to confirm."""

    objective: Annotated[tuple[Objective, ...], AsList, OneOrMore]
    """One objective, or several whose Pareto front is searched. The first one determines the winners to confirm."""
    target: dict[MetricName, float] = Field(default_factory=dict, validate_default=True)
    """One metric and its level; only for objectives that are a time to a target."""
    over_seeds: Literal["mean", "median"] = "mean"
    """How the objective is aggregated over a configuration's seeds."""
    round: Annotated[int, Field(ge=1, le=1024)] = 16
    """Number of configurations that a search requests at once. Each round uses the results of all previous ones."""
    confirm: Annotated[int, Field(ge=0, le=1000)] = 0
    """Number of new seeds on which each optimizer's best configuration at each batch size is run again."""

    @field_validator("objective")
    @classmethod
    def _some_objective(cls, value: tuple[Objective, ...]) -> tuple[Objective, ...]:
        if not value:
            raise PydanticCustomError("empty", "the list is empty: give at least one objective")
        if len(set(value)) < len(value):
            raise PydanticCustomError("repeated", "an objective is repeated")
        return value

    @field_validator("target")
    @classmethod
    def _target_of_time(cls, value: dict[MetricName, float], info: ValidationInfo) -> dict[MetricName, float]:
        timed = [name for name in info.data.get("objective", ()) if name in TO_TARGET]
        if timed and len(value) != 1:
            raise PydanticCustomError(
                "target", 'objective "{name}" needs one target, as in { test_accuracy = 0.95 }', {"name": timed[0]}
            )
        if value and not timed and "objective" in info.data:
            raise PydanticCustomError("target", 'belongs to objective = "steps_to_target" or "seconds_to_target"')
        return value

    def metrics(self) -> tuple[str, ...]:
        """Return the metrics that the objective needs."""
        return tuple(name for name in (*self.objective, *self.target) if name not in COSTS)

    def with_metrics(self, measured: Iterable[Metric]) -> SearchSpec:
        """Return a copy whose metrics are replaced by those of the same name in `measured`, with their declarations."""
        known = tuple(measured)
        return self.model_copy(
            update={
                "objective": tuple(named(name, known) or name for name in self.objective),
                "target": {named(name, known) or name: level for name, level in self.target.items()},
            }
        )
