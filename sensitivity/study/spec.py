"""``StudySpec``: a study file, validated. Every field, its default and its range stand here once.

`search_spaces/template.toml` shows each field in use.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sensitivity.study.arms import ArmField
from sensitivity.study.metrics import METRICS, MetricName

DATASETS = ("digits",)
MODELS = ("perceptron", "small_cnn")
_IMPORT_PATH = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _known_or_import_path(value: str, known: tuple[str, ...], what: str) -> str:
    if value in known or _IMPORT_PATH.match(value):
        return value
    raise PydanticCustomError(
        "unknown_name",
        'unknown {what} {value}. Allowed: {allowed}, or your own as "module:function"',
        {"what": what, "value": repr(value), "allowed": ", ".join(known), "known": known, "name": value},
    )


class ProblemSpec(_Section):
    """What is trained: data set, model and loss."""

    dataset: str = "digits"
    model: str = "perceptron"
    loss: Literal["cross_entropy", "squared_error"] = "cross_entropy"
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    split_seed: Annotated[int, Field(ge=0)] = 0

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


class BudgetSpec(_Section):
    """How long every run trains: the same number of epochs, or of steps, for every optimizer."""

    epochs: Annotated[float, Field(gt=0)] | None = None
    steps: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _one_rule(self) -> BudgetSpec:
        if (self.epochs is None) == (self.steps is None):
            raise PydanticCustomError("budget", "give exactly one of epochs and steps")
        return self


class ScheduleSpec(_Section):
    """The learning rate's multiplier: linear warm-up, then divisions at fractions of the budget."""

    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    decay_at: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    decay_factor: Annotated[float, Field(gt=0, le=1)] = 0.1

    @field_validator("decay_at")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)):
            raise PydanticCustomError("schedule", "decay_at must rise, each fraction once")
        return value


class EvaluationSpec(_Section):
    """When a run is measured, on how much, and when it counts as diverged."""

    every_epochs: Annotated[float, Field(gt=0)] | None = None
    every_steps: Annotated[int, Field(ge=1)] | None = None
    train_examples: Annotated[int, Field(ge=1)] | None = None
    divergence_bound: Annotated[float, Field(gt=1)] = 10.0

    @model_validator(mode="after")
    def _one_interval(self) -> EvaluationSpec:
        if self.every_epochs is not None and self.every_steps is not None:
            raise PydanticCustomError("evaluation", "give at most one of every_epochs and every_steps")
        return self


class ExecutionSpec(_Section):
    """How the machine is used. No result depends on it, beyond rounding."""

    pack_size: Annotated[int, Field(ge=1, le=1024)] | None = None
    threads: Annotated[int, Field(ge=1)] = 1
    device: Literal["cpu", "cuda"] = "cpu"


def _seed_list(raw: Any) -> Any:
    if isinstance(raw, int) and not isinstance(raw, bool):
        if raw < 1:
            raise PydanticCustomError("seeds", "seeds must be at least 1, or a list; got {raw}", {"raw": raw})
        return tuple(range(raw))
    return raw


class StudySpec(_Section):
    """A study: a problem, its optimizers with their designs, batch sizes, seeds, and a budget."""

    name: str
    description: str = ""
    batch_sizes: tuple[Annotated[int, Field(ge=1)], ...]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_seed_list)]
    problem: ProblemSpec = ProblemSpec()
    optimizers: dict[str, ArmField]
    budget: BudgetSpec
    schedule: ScheduleSpec = ScheduleSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    targets: dict[MetricName, tuple[float, ...]] = {}
    execution: ExecutionSpec = ExecutionSpec()

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, value: str) -> str:
        if not _NAME.match(value):
            raise PydanticCustomError(
                "name",
                "the name becomes a folder: a letter or digit, then up to 63 of letters, digits, . _ -",
            )
        return value

    @field_validator("batch_sizes", "seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        repeated = sorted({item for item in value if value.count(item) > 1})
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
        bad = [name for name in value if not _NAME.match(name)]
        if bad:
            raise PydanticCustomError(
                "name",
                "an optimizer's name is letters, digits, '.', '_' or '-'; got {names}",
                {"names": ", ".join(map(repr, bad))},
            )
        return value

    @field_validator("targets")
    @classmethod
    def _targets_in_range(cls, value: dict[MetricName, tuple[float, ...]]) -> dict[MetricName, tuple[float, ...]]:
        for name, levels in value.items():
            metric = METRICS[name]
            for level in levels:
                if metric.is_fraction and not 0 < level <= 1:
                    raise PydanticCustomError(
                        "target",
                        "{name} is a fraction: a target lies in (0, 1]; got {level}. For 95% write 0.95",
                        {"name": name, "level": f"{level:g}"},
                    )
                if not metric.is_fraction and level <= 0:
                    raise PydanticCustomError(
                        "target",
                        "{name}: a target loss is above 0; got {level}",
                        {"name": name, "level": f"{level:g}"},
                    )
        return value

    @model_validator(mode="after")
    def _targets_apply(self) -> StudySpec:
        absent = [name for name in self.targets if name not in self.problem.metrics()]
        if absent:
            raise PydanticCustomError(
                "target",
                'targets: {names} can\'t apply: loss = "{loss}" has no classes. Measured are: {metrics}',
                {
                    "names": ", ".join(absent),
                    "loss": self.problem.loss,
                    "metrics": ", ".join(self.problem.metrics()),
                },
            )
        return self

    def identity(self) -> dict[str, Any]:
        """Return what makes this study the one it is; designs, seeds and targets may be extended."""
        return self.model_dump(mode="json", include={"name", "problem", "budget", "schedule", "evaluation"})
