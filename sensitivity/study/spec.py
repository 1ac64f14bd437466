"""``StudySpec``: a validated study file, with the checks across its tables.

Every field is defined once, with its default and range, here or in another module: optimizers in `arms`, the training
protocol in `protocol`, searches in `search`, claims in `primary`, use of the hardware in `execution`, and experiment
trackers in `trackers`. `search_spaces/template.toml` shows each field in use.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from sensitivity.study.arms import TABLES, ArmField, with_tables
from sensitivity.study.axes import Axis
from sensitivity.study.editable import Editable
from sensitivity.study.execution import ExecutionSpec
from sensitivity.study.metrics import METRICS, Metric, MetricName, named
from sensitivity.study.observed import OBSERVED, TRAINED_HERE, ObservedSpec, trained_elsewhere
from sensitivity.study.primary import Pair, PairField, PrimarySpec, default_pairs, require_pair
from sensitivity.study.problem import ProblemSpec
from sensitivity.study.protocol import BudgetSpec, EvaluationSpec, ScheduleSpec
from sensitivity.study.search import SearchSpec
from sensitivity.study.section import CONFIRMATION_SEEDS, MOST_RUNS, AsList, Count, OneOrMore, Section, Seed
from sensitivity.study.spec_checks import repeated, seed_list, target_mistakes, unmeasured
from sensitivity.study.trackers import LogSpec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class MarginsSpec(Section):
    """Margins of equivalence for the verdict's tests (docs/statistics.md, section 8)."""

    scaling_ratio: Annotated[float, Field(gt=1, le=1000)] = 1.25
    """Factor within which critical batch sizes count as equivalent."""
    tuning_ratio: Annotated[float, Field(gt=1, le=1000)] = 1.5
    """Factor within which expected numbers of trials until a drawn configuration works count as equivalent."""


class StudySpec(Editable):
    """A study: a problem, its optimizers with their designs, batch sizes, seeds, and a budget."""

    name: str
    description: str = ""
    batch_sizes: Annotated[tuple[Count, ...], AsList, OneOrMore]
    seeds: Annotated[tuple[Seed, ...], AsList, BeforeValidator(seed_list)]
    observed: ObservedSpec | None = None
    problem: Annotated[ProblemSpec | None, Field(validate_default=True)] = None
    """None for an observed study, as is `budget`."""
    budget: Annotated[BudgetSpec | None, Field(validate_default=True)] = None
    schedule: ScheduleSpec = ScheduleSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    optimizers: dict[str, ArmField]
    targets: dict[MetricName, Annotated[tuple[float, ...], AsList, OneOrMore]] = Field(default_factory=dict)
    pairs: Annotated[tuple[PairField, ...], AsList] = ()
    primary: PrimarySpec | None = None
    search: Annotated[SearchSpec | None, Field(validate_default=True)] = None
    margins: MarginsSpec = MarginsSpec()
    execution: Annotated[ExecutionSpec, Field(validate_default=True)] = ExecutionSpec()
    log: LogSpec = LogSpec()

    def __init__(self, /, **fields: Any) -> None:  # Any: lists and tables may be given for tuples and sections
        super().__init__(**fields)

    @property
    def required_problem(self) -> ProblemSpec:
        """The problem of a study that is trained by this package.

        Raises:
            UserError: the runs are trained elsewhere.
        """
        if self.problem is None:
            raise trained_elsewhere(self.name)
        return self.problem

    @property
    def required_budget(self) -> BudgetSpec:
        """The budget of a study that is trained by this package."""
        if self.budget is None:
            raise trained_elsewhere(self.name)
        return self.budget

    def measured(self) -> tuple[Metric, ...]:
        """Return the metrics that runs of this study may have, including their declarations."""
        return self.observed.measured() if self.observed else self.required_problem.measured()

    def metric(self, name: str) -> Metric:
        """Return the metric of that name; KeyError if it is not measured."""
        found = named(name, self.measured())
        if found is None:
            raise KeyError(name)
        return found

    def choice_caution(self, *others: MetricName) -> str:
        """Return a warning if targets, or other metrics used to choose settings, are measured on the test split.

        Empty if they aren't, or if there are no validation data to choose by.
        """
        chosen = dict.fromkeys(map(self.metric, (*self.targets, *others)))
        tested = [metric for metric in chosen if metric.on == "test"]
        if not tested or not any(metric.on == "validation" for metric in self.measured()):
            return ""
        names, instead = (
            " and ".join(each) for each in ([m.name for m in tested], [f"validation_{m.quantity.name}" for m in tested])
        )
        return (
            f"Settings are chosen by {names} although there are validation data; choosing on the test split biases test"
            f" results upwards. Use {instead} instead, and report the test results of the chosen settings."
        )

    def problem_in_words(self) -> str:
        """Return what was trained, as in "perceptron on digits"."""
        if self.problem is None:
            return "trained " + (self.observed or ObservedSpec()).where()
        return f"{self.problem.model} on {self.problem.dataset}"

    def budget_in_words(self) -> str:
        """Return how long runs train, as in "5 epochs"."""
        return "whatever each run had" if self.budget is None else self.budget.words()

    @property
    def designs(self) -> dict[str, str]:
        """Each optimizer's design."""
        return {name: arm.design for name, arm in self.optimizers.items()}

    @property
    def axes(self) -> dict[str, dict[str, Axis]]:
        """Each optimizer's axes."""
        return {name: arm.axes() for name, arm in self.optimizers.items()}

    @property
    def comparisons(self) -> tuple[Pair, ...]:
        """The (candidate, reference) pairs of the verdict, the primary claim's first."""
        pairs = self.pairs or default_pairs(tuple(self.optimizers))
        if self.primary is None or self.primary.pair is None:
            return pairs
        return (self.primary.pair, *(pair for pair in pairs if set(pair) != set(self.primary.pair)))

    @property
    def primary_target(self) -> tuple[Metric, float] | None:
        """The target of the verdict: the primary claim's, or else the first one declared."""
        if self.primary is not None and self.primary.target is not None:
            return next((self.metric(name), level) for name, level in self.primary.target.items())
        return next(((self.metric(name), levels[0]) for name, levels in self.targets.items()), None)

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """Names of the hyperparameters of all optimizers; each is a column of the study's tables."""
        return tuple(sorted({name for arm in self.optimizers.values() for name in arm.hyperparameter_names}))

    @property
    def asks_for_training(self) -> bool:
        """Whether a target is a metric of the training split."""
        timed = (*self.targets, *(self.search.target if self.search else ()))
        return any(self.metric(name).of_training for name in timed)

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise PydanticCustomError(
                "name",
                "the name becomes a folder: a letter or digit, then up to 63 letters, digits, . _ -",
            )
        return value

    @field_validator("batch_sizes", "seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value:
            raise PydanticCustomError("empty", "the list is empty: give at least one")
        if twice := repeated(value):
            raise PydanticCustomError("repeated", "repeated: {items}", {"items": ", ".join(map(str, twice))})
        return value

    @field_validator("problem")
    @classmethod
    def _default_problem(cls, value: ProblemSpec | None, info: ValidationInfo) -> ProblemSpec | None:
        return ProblemSpec() if value is None and info.data.get("observed") is None else value

    @field_validator("problem")
    @classmethod
    def _ghost_batch_divides(cls, value: ProblemSpec | None, info: ValidationInfo) -> ProblemSpec | None:
        ghost, batches = value.ghost_batch if value else None, info.data.get("batch_sizes", ())
        uneven = [batch for batch in batches if ghost is not None and batch % ghost]
        if uneven:
            raise PydanticCustomError(
                "problem",
                "ghost_batch = {ghost} must divide every batch size, so that all are normalised alike; got {uneven}",
                {"ghost": ghost, "uneven": ", ".join(map(str, uneven))},
            )
        return value

    @field_validator("budget")
    @classmethod
    def _budget_covers_batches(cls, value: BudgetSpec | None, info: ValidationInfo) -> BudgetSpec | None:
        if value is None:
            if info.data.get("observed") is None:
                raise PydanticCustomError("missing", "missing")
            return None
        base = value.base_batch_size
        below = [batch for batch in info.data.get("batch_sizes", ()) if base is not None and batch < base]
        if below:
            raise PydanticCustomError(
                "budget",
                "base_batch_size = {base} must not be above any batch size, as smaller ones would get fewer epochs "
                "than adjusted_epochs; it is above {below}",
                {"base": base, "below": ", ".join(map(str, below))},
            )
        return value

    @field_validator("optimizers")
    @classmethod
    def _has_optimizers(cls, value: dict[str, ArmField], info: ValidationInfo) -> dict[str, ArmField]:
        if not value:
            raise PydanticCustomError("empty", "no optimizer: add a table such as [optimizers.sgd] with kind and lr")
        bad = [name for name in value if not _NAME.fullmatch(name)]
        if bad:
            raise PydanticCustomError(
                "name",
                "an optimizer's name is letters, digits, '.', '_' or '-'; got {names}",
                {"names": ", ".join(map(repr, bad))},
            )
        elsewhere = [name for name, arm in value.items() if OBSERVED in (arm.kind, arm.design)]
        if elsewhere and info.data.get("observed") is None:
            raise PydanticCustomError(
                "observed",
                "{name}: observed is only for studies that are trained elsewhere, which have a table [observed]",
                {"name": elsewhere[0]},
            )
        return with_tables(value, [info.data[name] for name in TABLES if info.data.get(name) is not None])

    @field_validator("targets")
    @classmethod
    def _targets_apply(
        cls, value: dict[MetricName, tuple[float, ...]], info: ValidationInfo
    ) -> dict[MetricName, tuple[float, ...]]:
        measured = _measured(info)
        mistakes = [mistake for name, levels in value.items() for mistake in target_mistakes(name, levels, measured)]
        if mistakes:
            raise PydanticCustomError("target", "{mistakes}", {"mistakes": "; ".join(mistakes)})
        return {named(name, measured) or name: levels for name, levels in value.items()}

    @field_validator("pairs")
    @classmethod
    def _pairs_of_optimizers(cls, value: tuple[Pair, ...], info: ValidationInfo) -> tuple[Pair, ...]:
        for pair in value:
            require_pair(pair, info.data.get("optimizers"))
        if repeated := [pair for pair, times in Counter(value).items() if times > 1]:
            raise PydanticCustomError("pair", "repeated: {pair}", {"pair": list(repeated[0])})
        return value

    @field_validator("primary")
    @classmethod
    def _primary_declared(cls, value: PrimarySpec | None, info: ValidationInfo) -> PrimarySpec | None:
        if value is None:
            return value
        if value.pair is not None:
            require_pair(value.pair, info.data.get("optimizers"))
        targets: dict[MetricName, tuple[float, ...]] = info.data.get("targets", {})
        for name, level in (value.target or {}).items():
            if level not in targets.get(name, ()):
                declared = ", ".join(f"{metric} = {at:g}" for metric, levels in targets.items() for at in levels)
                raise PydanticCustomError(
                    "target",
                    "{name} = {level} is not among the targets of this study; declared: {declared}",
                    {"name": name, "level": f"{level:g}", "declared": declared or "none"},
                )
        return value

    @field_validator("seeds")
    @classmethod
    def _seeds_below_confirmations(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if max(value, default=0) >= CONFIRMATION_SEEDS:
            raise PydanticCustomError(
                "seeds", "seeds from {first} on are reserved for confirmations", {"first": CONFIRMATION_SEEDS}
            )
        return value

    @field_validator("search")
    @classmethod
    def _objective_applies(cls, value: SearchSpec | None, info: ValidationInfo) -> SearchSpec | None:
        arms: dict[str, ArmField] = info.data.get("optimizers", {})
        searches = {name: arm.design for name, arm in arms.items() if arm.adaptive}
        if value is None:
            if searches and info.data.get("observed") is None:
                raise PydanticCustomError(
                    "search",
                    'optimizers.{name} has design = "{design}", which needs a table [search] with an objective',
                    {"name": next(iter(searches)), "design": next(iter(searches.values()))},
                )
            return None
        measured = _measured(info)
        for name in value.metrics():
            if (mistake := unmeasured(name, measured)) is not None:
                raise PydanticCustomError("search", "{mistake}", {"mistake": mistake})
            choice = named(name, measured)
            if choice is not None and choice.on == "test" and any(each.on == "validation" for each in measured):
                raise PydanticCustomError(
                    "search",
                    "{name}: a search chooses settings, so use the validation data of this study: {better}",
                    {"name": name, "better": f"validation_{choice.quantity.name}"},
                )
        value = value.with_metrics(measured)
        if "cmaes" in searches.values() and len(value.objective) > 1:
            raise PydanticCustomError("search", 'design = "cmaes" takes one objective; use "nsga2" or "tpe"')
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
    def _observed_alone(self) -> StudySpec:
        if self.observed is not None and (given := [name for name in TRAINED_HERE if name in self.model_fields_set]):
            raise PydanticCustomError(
                "observed",
                "runs of a study with [observed] are trained elsewhere: remove {tables}",
                {"tables": ", ".join(given)},
            )
        return self

    @model_serializer(mode="wrap")
    def _omit_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit fields that an observed study lacks, or the ``[observed]`` table of others, to keep hashes stable."""
        content: dict[str, Any] = handler(self)
        if not self.log.to:
            content.pop("log", None)
        for name in ("observed",) if self.observed is None else TRAINED_HERE:
            content.pop(name, None)
        return content

    @model_validator(mode="after")
    def _feasible(self) -> StudySpec:
        cells = sum(arm.most_cells() for arm in self.optimizers.values())
        runs = cells * len(self.batch_sizes) * len(self.seeds)
        if runs > MOST_RUNS:
            raise PydanticCustomError(
                "size",
                "{cells} configurations x {batches} batch sizes x {seeds} seeds are {runs} runs; at most {most}. "
                "Use fewer points, or several studies",
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
        """Return the study's identity, which excludes designs, seeds and targets because these may be extended."""
        if self.observed is not None:
            return {"name": self.name, "observed": True}
        tables = {
            "problem": self.required_problem.fixed(),
            "budget": self.required_budget,
            "schedule": self.schedule.fixed(),
            "evaluation": self.evaluation.fixed(),
        }
        return {"name": self.name, **{name: table.model_dump(mode="json") for name, table in tables.items()}}


def _measured(info: ValidationInfo) -> tuple[Metric, ...]:
    """Return the metrics of a study whose problem has been validated; all metrics if the problem is invalid."""
    source: ObservedSpec | ProblemSpec | None = info.data.get("observed") or info.data.get("problem")
    return tuple(METRICS.values()) if source is None else source.measured()
