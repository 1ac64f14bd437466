"""The optimizers of a study ("arms"), each with its design over its hyperparameters.

A hyperparameter is a number with an axis: one value, a list, or an interval. Everything else about an optimizer is a
setting: it has one value an arm; to compare two, declare two arms. Numbers that decide which code runs, such as
intervals in steps, are settings as long as they have one value, and hyperparameters where they have an axis.

Each optimizer declares its arm in its own file in `sensitivity.optimizers.kinds`. Those files are looked up by name
when a kind is first asked for. They import no torch before they train, so that reading a study needs none.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from sensitivity.study.axes import Axis, AxisField, LimitOrAxis, NumberOrAxis
from sensitivity.study.hyperparameters import hyperparameter
from sensitivity.study.observed import OBSERVED
from sensitivity.study.protocol import Decay, ScheduleSpec
from sensitivity.study.schedule import own_schedule
from sensitivity.study.section import MOST_SAMPLES, AsList, Section, Seed
from sensitivity.study.user_functions import IMPORT_PATH

SEARCHES = ("tpe", "gp", "cmaes", "nsga2")
"""The designs whose next configurations depend on the results of earlier ones."""


SCHEDULE_NUMBERS = ("warmup_epochs", "decay_factor", "decay_fraction")
"""Fields of an arm's schedule that may have axes; each is a hyperparameter of that name."""


class ArmSchedule(Section):
    """What an optimizer's schedule has other than the study's: fields of ``[schedule]``; its numbers may have axes."""

    warmup_epochs: NumberOrAxis = None
    decay: Decay | None = None
    decay_at: Annotated[tuple[float, ...] | None, AsList] = None
    decay_factor: NumberOrAxis = None
    decay_fraction: NumberOrAxis = None

    def axes(self) -> dict[str, Axis]:
        """Return the axis of each number that has one, by name."""
        return {name: value for name in SCHEDULE_NUMBERS if isinstance(value := getattr(self, name), Axis)}


class Arm(Section):
    """What every optimizer of a study declares.

    Fields are checked against those above them, not once all are valid, so that one reading of a study file
    finds every mistake.
    """

    label: ClassVar[str] = ""
    """The optimizer's name as it is read."""
    reference: ClassVar[str] = ""
    """The paper or the code that defines the update."""
    later: ClassVar[Collection[str]] = ("prune", "clip_norm", "schedule")
    """Fields that were added after runs existed. At their default they are left out of the trials' ids."""
    note: ClassVar[str] = ""
    """What a plan has to say of it: what costs more than elsewhere, or isn't counted."""

    kind: str
    design: Literal["grid", "random", "sobol", "tpe", "gp", "cmaes", "nsga2", "observed"] = "grid"
    """The full factorial, independent or quasi-random draws, or an adaptive search by Optuna's sampler of that name;
    observed: settings of runs that were trained elsewhere, chosen nobody has said how."""
    device_hours: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """A search asks for no more at a batch size once its runs there have taken so long."""
    samples: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] | None = Field(default=None, validate_default=True)
    """Configurations that each seed draws for itself; of a search, those at each batch size, and None where
    `device_hours` alone end it."""
    design_seed: Seed = 0
    prune: Literal["none", "median"] = "none"
    """Whether members of a pack that are worse than its median at an evaluation are stopped."""
    clip_norm: LimitOrAxis = None
    """Scale the gradient of all parameters to this norm where it is larger, as torch's clip_grad_norm_ does."""
    schedule: ArmSchedule | None = None

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
        if info.data.get("kind") == OBSERVED:  # there are as many as ran
            return value
        if design == "grid" and value is not None:
            raise PydanticCustomError("design", "belongs to draws and searches; a grid takes points on each interval")
        timed = design in SEARCHES and info.data.get("device_hours", 0.0) is not None  # or it has its own mistake
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

    @field_validator("schedule")
    @classmethod
    def _schedule_fits(cls, value: ArmSchedule | None, info: ValidationInfo) -> ArmSchedule | None:
        if value is None:
            return None
        fitted = {name: fitting(axis, name, info.data.get("design")) for name, axis in value.axes().items()}
        return value.model_copy(update=fitted)

    @model_validator(mode="after")
    def _something_to_draw(self) -> Arm:
        if self.design not in ("grid", OBSERVED) and not any(axis.varies for axis in self.axes().values()):
            raise PydanticCustomError("design", "there is nothing to draw: no hyperparameter has a list or an interval")
        if self.design == "cmaes" and sum(axis.varies for axis in self.axes().values()) < 2:
            raise PydanticCustomError("design", 'CMA-ES needs two hyperparameters that vary; take design = "tpe"')
        return self

    @property
    def adaptive(self) -> bool:
        """Whether its configurations depend on results, so that they are known only as the study runs."""
        return self.design in SEARCHES

    @property
    def open_ended(self) -> bool:
        """Whether it is a search of as many configurations as its `device_hours` allow."""
        return self.adaptive and self.samples is None

    def most_cells(self) -> int:
        """Return the number of configurations, before repeated draws are dropped; 0 where only time decides it."""
        if self.samples is not None:
            return self.samples
        if self.kind == OBSERVED:
            return 0
        return math.prod(axis.points or len(axis.values) for axis in self.axes().values())

    def axes(self) -> dict[str, Axis]:
        """Return the axis of each hyperparameter, by name."""
        given = {**{name: getattr(self, name) for name in type(self).model_fields}, **(self.model_extra or {})}
        own = {name: value for name, value in given.items() if isinstance(value, Axis)}
        return {**own, **(self.schedule.axes() if self.schedule else {})}

    @classmethod
    def number_fields(cls) -> tuple[str, ...]:
        """Names of the declared fields that have an axis, or may have one."""
        annotations = {name: field.annotation for name, field in cls.model_fields.items()}
        return tuple(name for name, each in annotations.items() if Axis in (each, *get_args(each)))

    @property
    def hyperparameter_names(self) -> tuple[str, ...]:
        """Names of the numbers that have an axis."""
        return tuple(self.axes())

    def settings(self) -> dict[str, Any]:
        """Return what is equal for all trials of the arm and determines their results."""
        fields = type(self).model_fields
        skipped = {*self.axes(), "design", "samples", "device_hours", "design_seed"}
        skipped |= {name for name in self.later if getattr(self, name) == fields[name].default}
        content = {name: value for name, value in self.model_dump(mode="json").items() if name not in skipped}
        if self.schedule is not None:
            dumped = content.pop("schedule").items()
            if same := {name: value for name, value in dumped if value is not None and name not in skipped}:
                content["schedule"] = same
        return content


def fitting(axis: Axis, name: str, design: str | None) -> Axis:
    """Return an axis as its hyperparameter has it (whole numbers or not); refuse it where it is out of range."""
    number = hyperparameter(name)
    bad = [value for value in axis.bounds() if not number.allows(value)]
    bad += [value for value in (*axis.bounds(), *axis.values) if number.whole and value != round(value)]
    if bad:
        raise PydanticCustomError(
            "range",
            "{name} must be {allowed}; got {bad}",
            {"name": name, "allowed": number.allowed, "bad": f"{bad[0]:g}"},
        )
    if axis.scale != "values" and design == "grid" and axis.points is None:
        raise PydanticCustomError("design", "a grid needs points on each interval: add points = 8, say")
    if axis.points is not None and design not in (None, "grid"):
        raise PydanticCustomError("design", 'points belongs to design = "grid"; remove it')
    return axis.model_copy(update={"whole": True}) if number.whole else axis


class ObservedArm(Arm):
    """An optimizer of runs that are trained elsewhere: all its other fields are hyperparameters of any name."""

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
"""Stands for the kinds that are import paths: optimizers of the user's own."""
ARMS: dict[str, type[Arm]] = {}
"""Every declared optimizer's arm, by kind. `arm_class` fills it."""
_KINDS = "sensitivity.optimizers.kinds"


def declare(kind: str, arm: type[Arm]) -> None:
    """Declare an optimizer by its arm."""
    ARMS[kind] = arm


def kinds() -> tuple[str, ...]:
    """Return the kinds of all declared optimizers."""
    importlib.import_module(_KINDS)
    return tuple(ARMS)


def declared_kind(kind: str) -> str:
    """Return the kind under which an optimizer is declared: its own, or `OWN` of an import path."""
    return OWN if IMPORT_PATH.fullmatch(kind) else kind


def arm_class(kind: object) -> type[Arm] | None:
    """Return the arm of a kind; None if no optimizer has that name."""
    if kind == OBSERVED:
        return ObservedArm
    kinds()
    return ARMS.get(declared_kind(kind)) if isinstance(kind, str) else None


def _arm(raw: Any) -> Any:
    """Read an arm by its kind."""
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


def check_schedules(optimizers: Mapping[str, Arm], schedule: ScheduleSpec) -> None:
    """Refuse an optimizer whose own schedule makes none with that of the study, at either end of its axes."""
    for name, arm in optimizers.items():
        axes = arm.schedule.axes() if arm.schedule else {}
        for end in (0, 1):
            own = {**arm.settings().get("schedule", {}), **{key: axis.bounds()[end] for key, axis in axes.items()}}
            try:
                own_schedule(schedule, own)
            except ValidationError as error:
                first = error.errors()[0]
                raise PydanticCustomError(
                    "schedule",
                    "optimizers.{name}.schedule.{field}: {message}",
                    {"name": name, "field": ".".join(map(str, first["loc"])), "message": first["msg"]},
                ) from None


ArmField = Annotated[SerializeAsAny[Arm], BeforeValidator(_arm)]
"""A pydantic field that reads an arm by its `kind`."""
