"""The optimizers of a study ("arms"), each with a design over its hyperparameters.

A hyperparameter is a number with an axis: one value, a list, or an interval. Every other field of an optimizer is a
setting, which has one value per arm; to compare two values, declare two arms. Numbers that determine which code runs,
such as intervals in steps, are settings if they have one value and hyperparameters if they have an axis.

Each optimizer declares its arm in its own file in `sensitivity.optimizers.kinds`. Those files are imported by
name when a kind is first used. They import torch only when training starts, so that reading a study does not need it.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from sensitivity.study.axes import Axis, AxisField, LimitOrAxis
from sensitivity.study.hyperparameters import hyperparameter
from sensitivity.study.observed import OBSERVED
from sensitivity.study.problem import ProblemSpec
from sensitivity.study.protocol import EvaluationSpec, ScheduleSpec
from sensitivity.study.section import MOST_SAMPLES, Section, Seed
from sensitivity.study.user_functions import IMPORT_PATH
from sensitivity.study.varying import OwnTable, Varying, fitting, moved, own_table

SEARCHES = ("tpe", "gp", "cmaes", "nsga2")
"""Designs whose next configurations depend on the results of earlier ones."""


WidthRule = Literal["sgd", "adam", "adamw", "alike"]
"""How steps depend on the gradient's size: proportionally ("sgd"); not at all, with coupled ("adam") or decoupled
("adamw") weight decay; or such that a layer's outputs change equally at any width ("alike"), as with orthogonalised
or naturally preconditioned gradients."""
TABLES: dict[str, type[Varying]] = {"schedule": ScheduleSpec, "problem": ProblemSpec, "evaluation": EvaluationSpec}
"""Tables of a study of which an optimizer may override some fields."""


class Arm(Section):
    """Fields common to every optimizer of a study.

    Each field is validated against the fields before it rather than after all fields are valid, so that reading a study
    file once reports every mistake.
    """

    label: ClassVar[str] = ""
    """Display name of the optimizer."""
    reference: ClassVar[str] = ""
    """Paper or code that defines the update."""
    width_rule: ClassVar[WidthRule | None] = None
    """How its learning rates depend on a network's width (``optimizers.width``); None if unknown."""
    later: ClassVar[Collection[str]] = ("prune", "clip_norm")
    """Fields added after the first release; left out of trial ids at their defaults, so that ids stay the same."""

    kind: str
    design: Literal["grid", "random", "sobol", "tpe", "gp", "cmaes", "nsga2", "observed"] = "grid"
    """A full factorial grid, independent or quasi-random draws, or an adaptive search with Optuna's sampler of that
    name; "observed" for runs trained elsewhere with an unknown design."""
    device_hours: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Limit of an adaptive search, per batch size: it requests no further runs once its runs have taken so many
    device-hours."""
    samples: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] | None = Field(default=None, validate_default=True)
    """Number of configurations that each seed draws, or that a search tries at each batch size; None for a search
    limited by `device_hours` only."""
    design_seed: Seed = 0
    prune: Literal["none", "median"] = "none"
    """Whether to stop members of a pack that are worse than the pack's median at an evaluation."""
    clip_norm: LimitOrAxis = None
    """Maximum norm of the gradient of all parameters, which is scaled down to it as by torch's clip_grad_norm_."""
    schedule: own_table(ScheduleSpec) = None  # type: ignore[valid-type]
    problem: own_table(ProblemSpec) = None  # type: ignore[valid-type]
    evaluation: own_table(EvaluationSpec) = None  # type: ignore[valid-type]
    _shared: dict[str, Axis] = PrivateAttr(default_factory=dict)
    """Axes of the study's own tables, which apply to every optimizer."""

    @field_validator("nesterov", check_fields=False)
    @classmethod
    def _nesterov_has_momentum(cls, value: bool, info: ValidationInfo) -> bool:
        if value and "momentum" in info.data and info.data["momentum"].bounds()[0] == 0:
            raise PydanticCustomError("design", "nesterov = true needs momentum > 0 everywhere; remove 0 from momentum")
        return value

    @field_validator("samples")
    @classmethod
    def _samples_fit_design(cls, value: int | None, info: ValidationInfo) -> int | None:
        design = info.data.get("design")
        if info.data.get("kind") == OBSERVED:  # the number is that of the runs
            return value
        if design == "grid" and value is not None:
            raise PydanticCustomError("design", "belongs to draws and searches; a grid takes points on each interval")
        timed = design in SEARCHES and info.data.get("device_hours", 0.0) is not None  # or the field is invalid itself
        if design not in (None, "grid") and value is None and not timed:
            wanted = "samples, or device_hours" if design in SEARCHES else "the number of configurations to draw"
            raise PydanticCustomError(
                "design", 'missing; design = "{design}" needs {wanted}', {"design": design, "wanted": wanted}
            )
        return value

    @field_validator("device_hours")
    @classmethod
    def _hours_of_a_search(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("design") not in (None, *SEARCHES):
            raise PydanticCustomError(
                "design", "belongs to a search: design = {searches}", {"searches": ", ".join(map(repr, SEARCHES))}
            )
        return value

    @field_validator("*")
    @classmethod
    def _axis_fits(cls, value: Any, info: ValidationInfo) -> Any:
        return fitting(value, str(info.field_name), info.data.get("design")) if isinstance(value, Axis) else value

    @property
    def adaptive(self) -> bool:
        """Whether configurations depend on results, and are therefore unknown before the study runs."""
        return self.design in SEARCHES

    @property
    def open_ended(self) -> bool:
        """Whether it is a search limited by `device_hours` rather than by a number of configurations."""
        return self.adaptive and self.samples is None

    def most_cells(self) -> int:
        """Return the number of configurations before repeated draws are dropped; 0 if only time limits the search."""
        if self.samples is not None:
            return self.samples
        if self.kind == OBSERVED:
            return 0
        return math.prod(axis.points or len(axis.values) for axis in self.axes().values())

    def axes(self) -> dict[str, Axis]:
        """Return each hyperparameter's axis, by name."""
        given = {**{name: getattr(self, name) for name in type(self).model_fields}, **(self.model_extra or {})}
        own = {name: value for name, value in given.items() if isinstance(value, Axis)}
        return {
            **own,
            **{name: axis for table in self._tables().values() for name, axis in table.axes.items()},
            **self._shared,
        }

    def _tables(self) -> dict[str, OwnTable]:
        """Return the arm's own values that override the study's, by table."""
        return {name: table for name in TABLES if (table := getattr(self, name)) is not None}

    @classmethod
    def number_fields(cls) -> tuple[str, ...]:
        """Names of the declared fields that can have an axis."""
        annotations = {name: field.annotation for name, field in cls.model_fields.items()}
        return tuple(name for name, each in annotations.items() if Axis in (each, *get_args(each)))

    @property
    def hyperparameter_names(self) -> tuple[str, ...]:
        """Names of the numbers that have an axis."""
        return tuple(self.axes())

    def settings(self) -> dict[str, Any]:
        """Return the values that all trials of the arm share and that determine their results."""
        fields = type(self).model_fields
        skipped = {*self.axes(), *TABLES, "design", "samples", "device_hours", "design_seed"}
        skipped |= {name for name in self.later if getattr(self, name) == fields[name].default}
        content = {name: value for name, value in self.model_dump(mode="json").items() if name not in skipped}
        return {**content, **{name: table.content for name, table in self._tables().items() if table.values}}

    def with_tables(self, tables: Iterable[Varying]) -> Arm:
        """Return the arm with the axes of its study's tables, except where it has values of its own.

        Raises:
            ValidationError: an axis doesn't fit its design, or the arm's own values do not result in a valid table.
            PydanticCustomError: no hyperparameter varies, so that there is nothing to draw.
        """
        errors: list[InitErrorDetails] = []
        shared: dict[str, Axis] = {}
        for table in tables:
            own = self._tables().get(table.table, OwnTable({}, {}))
            for name, axis in table.axes.items():
                if name in own.axes or own.has(name):
                    continue
                try:
                    points = axis.points if self.design == "grid" else None  # points only apply to grids
                    shared[name] = fitting(axis.model_copy(update={"points": points}), name, self.design)
                except PydanticCustomError as error:
                    place = ".".join(hyperparameter(name).path)
                    told = PydanticCustomError("design", "{place}: {told}", {"place": place, "told": error.message()})
                    errors.append(InitErrorDetails(type=told, loc=("design",), input=None))
            for end in (0, 1) if own.axes else (0,):
                try:
                    table.having(own.values, {name: axis.bounds()[end] for name, axis in own.axes.items()})
                except ValidationError as error:
                    errors += moved(error, table.table)
                    break
        if errors:
            raise ValidationError.from_exception_data("arm", errors)
        found = self.model_copy()
        found._shared = shared
        varying = sum(axis.varies for axis in found.axes().values())
        if self.design not in ("grid", OBSERVED) and not varying:
            raise PydanticCustomError("design", "there is nothing to draw: no hyperparameter has a list or an interval")
        if self.design == "cmaes" and varying < 2:
            raise PydanticCustomError("design", 'CMA-ES needs two hyperparameters that vary; take design = "tpe"')
        return found


class ObservedArm(Arm):
    """An optimizer whose runs are trained elsewhere; every further field is a hyperparameter, with any name."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, AxisField]

    @model_validator(mode="after")
    def _axes_fit(self) -> ObservedArm:
        fitted = {}
        for name, axis in (self.model_extra or {}).items():
            try:
                fitted[name] = fitting(axis, name, self.design)
            except PydanticCustomError as error:
                wrong = InitErrorDetails(type=error, loc=(name,), input=axis.as_written())
                raise ValidationError.from_exception_data("arm", [wrong]) from None
        (self.model_extra or {}).update(fitted)
        return self


OWN = "module:Optimizer"
"""Placeholder for kinds that are import paths, which are the user's own optimizers."""
ARMS: dict[str, type[Arm]] = {}
"""Arm class of every registered optimizer, by kind; filled by `arm_class`."""
_KINDS = "sensitivity.optimizers.kinds"


def declare(kind: str, arm: type[Arm]) -> None:
    """Register an optimizer by its arm class."""
    ARMS[kind] = arm


def kinds() -> tuple[str, ...]:
    """Return the kinds of all registered optimizers."""
    importlib.import_module(_KINDS)
    return tuple(sorted(ARMS, key=lambda kind: kind == OWN))  # listed last


def declared_kind(kind: str) -> str:
    """Return the kind under which an optimizer is registered: its own, or `OWN` for an import path."""
    return OWN if IMPORT_PATH.fullmatch(kind) else kind


def arm_class(kind: object) -> type[Arm] | None:
    """Return the arm class of a kind; None if there is no such optimizer."""
    if kind == OBSERVED:
        return ObservedArm
    kinds()
    return ARMS.get(declared_kind(kind)) if isinstance(kind, str) else None


def _arm(raw: Any) -> Any:
    """Validate an arm by its kind."""
    if isinstance(raw, Arm):
        return raw
    if not isinstance(raw, dict):
        raise PydanticCustomError("arm", "give a table")
    kind = raw.get("kind")
    found = arm_class(kind)
    if found is not None:
        return found.model_validate(raw)
    known = kinds()
    context = {"allowed": ", ".join(known), "known": known, "name": str(kind)}
    missing = PydanticCustomError("kind", 'missing; give kind = "sgd", say. Allowed: {allowed}', context)
    unknown = PydanticCustomError("unknown_kind", "unknown optimizer", context)
    error = InitErrorDetails(type=missing if kind is None else unknown, loc=("kind",), input=kind)
    raise ValidationError.from_exception_data("arm", [error])


def with_tables(arms: Mapping[str, Arm], tables: Iterable[Varying]) -> dict[str, Arm]:
    """Return the arms with the axes of their study's tables (`Arm.with_tables`).

    Raises:
        ValidationError: lists the mistakes of all arms.
    """
    found, errors, tables = dict(arms), list[InitErrorDetails](), tuple(tables)
    for name, arm in arms.items():
        try:
            found[name] = arm.with_tables(tables)
        except PydanticCustomError as error:
            errors.append(InitErrorDetails(type=error, loc=(name,), input=None))
        except ValidationError as error:
            errors += moved(error, name)
    if errors:
        raise ValidationError.from_exception_data("optimizers", errors)
    return found


ArmField = Annotated[SerializeAsAny[Arm], BeforeValidator(_arm)]
"""Pydantic field type that parses an arm according to its `kind`."""
