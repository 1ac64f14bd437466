"""``StudySpec``: a study file, validated: its tables, and what they must have in common.

Every field, its default and its range stand once, here or beside: optimizers in `arms`, how runs train in `protocol`,
searches in `search`. `search_spaces/template.toml` shows each field in use.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sensitivity.study.arms import ArmField
from sensitivity.study.axes import Axis
from sensitivity.study.metrics import METRICS, MetricName
from sensitivity.study.protocol import BudgetSpec, EvaluationSpec, ScheduleSpec
from sensitivity.study.search import SearchSpec
from sensitivity.study.section import CONFIRMATION_SEEDS, MOST_RUNS, MOST_SEEDS, AsList, Count, Section, Seed

DATASETS = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "noisy_quadratic")
IMAGE_FOLDER = "imagefolder:"
"""What stands before the path of a folder of images, as a data set."""
MODELS = (
    "perceptron",
    "small_cnn",
    "lenet",
    "alexnet",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "quadratic",
)
_ORACLE = {"dataset": "noisy_quadratic", "model": "quadratic", "loss": "quadratic"}
"""The fields that make the noisy quadratic; none of them means anything without the others."""
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_RAYS_OWN = ("CPU", "GPU", "memory", "object_store_memory", "bundle")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _known_or_import_path(value: str, known: tuple[str, ...], what: str, other: str = "") -> str:
    if value in known or _IMPORT_PATH.fullmatch(value):
        return value
    raise PydanticCustomError(
        "unknown_name",
        'unknown {what} {value}. Allowed: {allowed}{other}, or your own as "module:function"',
        {
            "what": what,
            "value": repr(value),
            "allowed": ", ".join(known),
            "other": other,
            "known": known,
            "name": value,
        },
    )


class ProblemSpec(Section):
    """What is trained: data set, model and loss."""

    dataset: str = "digits"
    model: str = "perceptron"
    loss: Literal["cross_entropy", "squared_error", "quadratic"] = "cross_entropy"
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    split_seed: Seed = 0
    train_subset: Count | None = None
    test_subset: Count | None = None
    image_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    augment: Literal["none", "crop_flip"] = "none"
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Of products: TF32 on an accelerator's tensor cores, or autocast to bfloat16; parameters stay float32."""
    ghost_batch: Count | None = None
    """Every batch is normalised, and differentiated, in chunks of so many examples."""

    @field_validator("dataset")
    @classmethod
    def _dataset_known(cls, value: str) -> str:
        if value.startswith(IMAGE_FOLDER):
            if not value.removeprefix(IMAGE_FOLDER).strip():
                raise PydanticCustomError("path", "the path is empty: give imagefolder:PATH")
            return value
        return _known_or_import_path(value, DATASETS, "data set", ", imagefolder:PATH")

    @field_validator("model")
    @classmethod
    def _model_known(cls, value: str) -> str:
        return _known_or_import_path(value, MODELS, "model")

    @field_validator("image_size")
    @classmethod
    def _resizes_images(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and not info.data.get("dataset", IMAGE_FOLDER).startswith(IMAGE_FOLDER):
            raise PydanticCustomError("problem", 'belongs to dataset = "imagefolder:PATH"; remove it')
        return value

    @model_validator(mode="after")
    def _oracle_whole(self) -> ProblemSpec:
        if 0 < sum(getattr(self, name) == value for name, value in _ORACLE.items()) < len(_ORACLE):
            raise PydanticCustomError(
                "problem",
                "the noisy quadratic needs all of {fields}",
                {"fields": ", ".join(f'{name} = "{value}"' for name, value in _ORACLE.items())},
            )
        return self

    @property
    def is_oracle(self) -> bool:
        """Whether this is the noisy quadratic, whose outcome is known in closed form."""
        return self.dataset == _ORACLE["dataset"]

    def metrics(self) -> tuple[MetricName, ...]:
        """Return the names of the metrics that this problem has (accuracy needs classes)."""
        return tuple(m.name for m in METRICS.values() if self.loss == "cross_entropy" or not m.is_fraction)


class MarginsSpec(Section):
    """Differences that don't matter, for the verdict's tests of equivalence (STATISTICS.md, section 8)."""

    scaling_ratio: Annotated[float, Field(gt=1, le=1000)] = 1.25
    """Critical batch sizes within this factor are as good as equal."""
    tuning_ratio: Annotated[float, Field(gt=1, le=1000)] = 1.5
    """Expected trials until a drawn setting works, within this factor, are as good as equal."""


class ExecutionSpec(Section):
    """How the machine is used. No result depends on it, beyond rounding."""

    pack_size: Annotated[int, Field(ge=1, le=1024)] | None = None
    micro_batch: Count | None = None
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    device: Literal["cpu", "cuda"] = "cpu"
    accelerator_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of one accelerator, for each pack on "cuda"; so many packs train on it side by side."""
    checkpoint_minutes: Annotated[float, Field(gt=0, le=1e6)] = 10.0
    """A pack in training is put aside so often, and goes on from there when its worker or the command was lost."""

    accelerator_type: str | None = None
    """By Ray's name for it, such as A100 or H100."""
    max_concurrent: Count | None = None
    """Packs at a time, however large the cluster."""
    resources: dict[str, Annotated[float, Field(gt=0, le=1e6)]] = Field(default_factory=dict)
    """Of each custom resource of Ray, for each pack."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Of the nodes on which packs may run."""
    elastic: bool = False
    """The cluster grows when packs wait: what it has at the start does not limit them."""

    @field_validator("accelerator_type")
    @classmethod
    def _of_accelerators(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("device") == "cpu":
            raise PydanticCustomError("type", 'belongs to device = "cuda"; remove it')
        return value

    @field_validator("resources")
    @classmethod
    def _custom(cls, value: dict[str, float]) -> dict[str, float]:
        for name, amount in value.items():
            if name in _RAYS_OWN:
                raise PydanticCustomError(
                    "resources", "{name} is Ray's own; give threads, device and accelerator_share", {"name": name}
                )
            if amount > 1 and amount != round(amount):
                raise PydanticCustomError("resources", "{name}: above 1 give a whole number", {"name": name})
        return value

    @field_validator("elastic")
    @classmethod
    def _has_a_limit(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("max_concurrent", 1) is None:
            raise PydanticCustomError("elastic", "needs max_concurrent: how many packs the cluster may grow to hold")
        return value

    @field_validator("accelerator_share")
    @classmethod
    def _one_in_so_many(cls, value: float) -> float:
        # Ray places shares as they are given: with 0.3, a tenth of every accelerator would stay idle (RAY.md).
        if not math.isclose(1 / value, round(1 / value), rel_tol=1e-3):
            raise PydanticCustomError("share", "give one in so many: 1, 0.5, 0.3333, 0.25, 0.2")
        return 1 / round(1 / value)


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
    search: Annotated[SearchSpec | None, Field(validate_default=True)] = None
    margins: MarginsSpec = MarginsSpec()
    execution: Annotated[ExecutionSpec, Field(validate_default=True)] = ExecutionSpec()

    @property
    def designs(self) -> dict[str, str]:
        """Each optimizer's design."""
        return {name: arm.design for name, arm in self.optimizers.items()}

    @property
    def axes(self) -> dict[str, dict[str, Axis]]:
        """What each optimizer's hyperparameters are drawn from."""
        return {name: arm.axes() for name, arm in self.optimizers.items()}

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

    @field_validator("problem")
    @classmethod
    def _ghosts_fill_batches(cls, value: ProblemSpec, info: ValidationInfo) -> ProblemSpec:
        ghost, batches = value.ghost_batch, info.data.get("batch_sizes", ())
        uneven = [batch for batch in batches if ghost is not None and batch % ghost]
        if uneven:
            raise PydanticCustomError(
                "problem",
                "ghost_batch = {ghost} must divide every batch size, so that all are normalised alike; not {uneven}",
                {"ghost": ghost, "uneven": ", ".join(map(str, uneven))},
            )
        return value

    @field_validator("budget")
    @classmethod
    def _budget_covers_batches(cls, value: BudgetSpec, info: ValidationInfo) -> BudgetSpec:
        base = value.base_batch_size
        below = [batch for batch in info.data.get("batch_sizes", ()) if base is not None and batch < base]
        if below:
            raise PydanticCustomError(
                "budget",
                "base_batch_size = {base} must be the smallest batch size, or smaller ones would get fewer epochs "
                "than adjusted_epochs; not above {below}",
                {"base": base, "below": ", ".join(map(str, below))},
            )
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

    @field_validator("seeds")
    @classmethod
    def _seeds_are_no_confirmations(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if max(value, default=0) >= CONFIRMATION_SEEDS:
            raise PydanticCustomError(
                "seeds", "seeds from {first} on are those of confirmations", {"first": CONFIRMATION_SEEDS}
            )
        return value

    @field_validator("search")
    @classmethod
    def _objective_applies(cls, value: SearchSpec | None, info: ValidationInfo) -> SearchSpec | None:
        arms: dict[str, ArmField] = info.data.get("optimizers", {})
        searches = {name: arm.design for name, arm in arms.items() if arm.adaptive}
        if value is None:
            if searches:
                raise PydanticCustomError(
                    "search",
                    'optimizers.{name} has design = "{design}", which needs a table [search] with an objective',
                    {"name": next(iter(searches)), "design": next(iter(searches.values()))},
                )
            return None
        problem: ProblemSpec | None = info.data.get("problem")
        for name in value.metrics():
            if problem is not None and name not in problem.metrics():
                raise PydanticCustomError(
                    "search",
                    "{name} can't apply: this loss has no classes. Measured are: {measured}",
                    {"name": name, "measured": ", ".join(problem.metrics())},
                )
        if "cmaes" in searches.values() and len(value.objective) > 1:
            raise PydanticCustomError("search", 'design = "cmaes" takes one objective; take "nsga2" or "tpe"')
        return value

    @field_validator("execution")
    @classmethod
    def _one_chunk_size(cls, value: ExecutionSpec, info: ValidationInfo) -> ExecutionSpec:
        problem: ProblemSpec | None = info.data.get("problem")
        if value.micro_batch is not None and problem is not None and problem.ghost_batch is not None:
            raise PydanticCustomError("execution", "micro_batch: problem.ghost_batch is the micro-batch; remove one")
        if value.device == "cpu" and problem is not None and problem.precision == "tf32":
            raise PydanticCustomError("execution", 'problem.precision = "tf32" needs device = "cuda"')
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
