"""``StudySpec``: a study file, validated. Every field, its default and its range stand here once.

`search_spaces/template.toml` shows each field in use.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sensitivity.study.arms import ArmField
from sensitivity.study.metrics import METRICS, MetricName
from sensitivity.study.section import MOST_RUNS, MOST_SEEDS, AsList, Count, Epochs, Section, Seed

DATASETS = ("digits",)
MODELS = ("perceptron", "small_cnn")
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _known_or_import_path(value: str, known: tuple[str, ...], what: str) -> str:
    if value in known or _IMPORT_PATH.fullmatch(value):
        return value
    raise PydanticCustomError(
        "unknown_name",
        'unknown {what} {value}. Allowed: {allowed}, or your own as "module:function"',
        {"what": what, "value": repr(value), "allowed": ", ".join(known), "known": known, "name": value},
    )


class ProblemSpec(Section):
    """What is trained: data set, model and loss."""

    dataset: str = "digits"
    model: str = "perceptron"
    loss: Literal["cross_entropy", "squared_error"] = "cross_entropy"
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    split_seed: Seed = 0

    @field_validator("dataset")
    @classmethod
    def _dataset_known(cls, value: str) -> str:
        return _known_or_import_path(value, DATASETS, "data set")

    @field_validator("model")
    @classmethod
    def _model_known(cls, value: str) -> str:
        return _known_or_import_path(value, MODELS, "model")

    def metrics(self) -> tuple[MetricName, ...]:
        """Return the names of the metrics that this problem has (accuracy needs classes)."""
        return tuple(m.name for m in METRICS.values() if self.loss == "cross_entropy" or not m.is_fraction)


class BudgetSpec(Section):
    """How long every run trains: the same number of epochs, or of steps, for every optimizer."""

    epochs: Epochs | None = None
    steps: Count | None = None

    @model_validator(mode="after")
    def _one_rule(self) -> BudgetSpec:
        if (self.epochs is None) == (self.steps is None):
            raise PydanticCustomError("budget", "give exactly one of epochs and steps")
        return self


class ScheduleSpec(Section):
    """The learning rate's multiplier: linear warm-up, then divisions at fractions of the budget."""

    warmup_epochs: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    decay_at: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], AsList] = ()
    decay_factor: Annotated[float, Field(gt=0, le=1)] = 0.1

    @field_validator("decay_at")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)):
            raise PydanticCustomError("schedule", "decay_at must rise, each fraction once")
        return value


class EvaluationSpec(Section):
    """When a run is measured, on how much, and when it counts as diverged."""

    every_epochs: Epochs | None = None
    every_steps: Count | None = None
    train_examples: Count | None = None
    divergence_bound: Annotated[float, Field(gt=1)] = 10.0

    @model_validator(mode="after")
    def _one_interval(self) -> EvaluationSpec:
        if self.every_epochs is not None and self.every_steps is not None:
            raise PydanticCustomError("evaluation", "give at most one of every_epochs and every_steps")
        return self


class ExecutionSpec(Section):
    """How the machine is used. No result depends on it, beyond rounding."""

    pack_size: Annotated[int, Field(ge=1, le=1024)] | None = None
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    device: Literal["cpu", "cuda"] = "cpu"


def _repeated(values: Iterable[float]) -> list[float]:
    return sorted(value for value, times in Counter(values).items() if times > 1)


def _seed_list(raw: Any) -> Any:
    if isinstance(raw, int) and not isinstance(raw, bool):
        if not 1 <= raw <= MOST_SEEDS:
            raise PydanticCustomError(
                "seeds", "give a number of seeds from 1 to {most}, or a list of seeds", {"most": MOST_SEEDS}
            )
        return tuple(range(raw))
    if not isinstance(raw, (list, tuple)):
        raise PydanticCustomError("seeds", "give a number of seeds, or a list of seeds")
    return raw


class StudySpec(Section):
    """A study: a problem, its optimizers with their designs, batch sizes, seeds, and a budget."""

    name: str
    description: str = ""
    batch_sizes: Annotated[tuple[Count, ...], AsList]
    seeds: Annotated[tuple[Seed, ...], AsList, BeforeValidator(_seed_list)]
    problem: ProblemSpec = ProblemSpec()
    optimizers: dict[str, ArmField]
    budget: BudgetSpec
    schedule: ScheduleSpec = ScheduleSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    targets: dict[MetricName, Annotated[tuple[float, ...], AsList]] = Field(default_factory=dict)
    execution: ExecutionSpec = ExecutionSpec()

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise PydanticCustomError(
                "name",
                "the name becomes a folder: a letter or digit, then up to 63 of letters, digits, . _ -",
            )
        return value

    @field_validator("batch_sizes", "seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        repeated = _repeated(value)
        if not value:
            raise PydanticCustomError("empty", "the list is empty: give at least one")
        if repeated:
            raise PydanticCustomError("repeated", "repeated: {items}", {"items": ", ".join(map(str, repeated))})
        return value

    @field_validator("optimizers")
    @classmethod
    def _some_arm(cls, value: dict[str, ArmField]) -> dict[str, ArmField]:
        if not value:
            raise PydanticCustomError("empty", "no optimizer: add a table such as [optimizers.sgd] with kind and lr")
        bad = [name for name in value if not _NAME.fullmatch(name)]
        if bad:
            raise PydanticCustomError(
                "name",
                "an optimizer's name is letters, digits, '.', '_' or '-'; got {names}",
                {"names": ", ".join(map(repr, bad))},
            )
        return value

    @field_validator("targets")
    @classmethod
    def _targets_apply(
        cls, value: dict[MetricName, tuple[float, ...]], info: ValidationInfo
    ) -> dict[MetricName, tuple[float, ...]]:
        problem: ProblemSpec | None = info.data.get("problem")
        mistakes = [
            mistake
            for name, levels in value.items()
            for mistake in _target_mistakes(name, levels, problem.metrics() if problem else tuple(METRICS))
        ]
        if mistakes:
            raise PydanticCustomError("target", "{mistakes}", {"mistakes": "; ".join(mistakes)})
        return value

    @model_validator(mode="after")
    def _feasible(self) -> StudySpec:
        cells = sum(arm.most_cells() for arm in self.optimizers.values())
        runs = cells * len(self.batch_sizes) * len(self.seeds)
        if runs > MOST_RUNS:
            raise PydanticCustomError(
                "size",
                "{cells} configurations x {batches} batch sizes x {seeds} seeds are {runs} runs; at most {most}. "
                "Take fewer points, or several studies",
                {
                    "cells": cells,
                    "batches": len(self.batch_sizes),
                    "seeds": len(self.seeds),
                    "runs": runs,
                    "most": MOST_RUNS,
                },
            )
        return self

    def identity(self) -> dict[str, Any]:
        """Return what makes this study the one it is; designs, seeds and targets may be extended."""
        return self.model_dump(mode="json", include={"name", "problem", "budget", "schedule", "evaluation"})


def _target_mistakes(name: MetricName, levels: tuple[float, ...], measured: tuple[str, ...]) -> Iterator[str]:
    if name not in measured:
        yield f"{name} can't apply: this loss has no classes. Measured are: {', '.join(measured)}"
    if not levels:
        yield f"{name}: the list is empty; give at least one level, or leave it out"
    if repeated := _repeated(levels):
        yield f"{name}: repeated: {', '.join(f'{level:g}' for level in repeated)}"
    for level in levels:
        if METRICS[name].is_fraction and not 0 < level <= 1:
            yield f"{name} is a fraction: a target lies in (0, 1]; got {level:g}. For 95% write 0.95"
        if not METRICS[name].is_fraction and level <= 0:
            yield f"{name}: a target loss is above 0; got {level:g}"
