"""Tables of a study file with numbers that can be axes, for all optimizers or for one.

``schedule.warmup_epochs = [0, 1, 5]`` gives every optimizer that axis, ``optimizers.sgd.schedule.warmup_epochs`` only
one of them. Such numbers are declared as hyperparameters with a ``table``. If a table of the study has an axis, its
field keeps the default and each trial has its own value; hence a trial has the same identity whether the axis is
declared for the whole study or for its optimizer.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    InstanceOf,
    ModelWrapValidatorHandler,
    PlainSerializer,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError, PydanticKnownError, to_jsonable_python

from sensitivity.study.axes import Axis, parse_axis
from sensitivity.study.hyperparameters import MODEL_ARGUMENTS, hyperparameter, of_table
from sensitivity.study.plain import plain
from sensitivity.study.section import Section


class Varying(Section):
    """A table of a study file in which some numbers can be axes."""

    table: ClassVar[str]
    """Name of the table in the study file."""
    own: ClassVar[Collection[str]]
    """Fields that an optimizer may override."""
    _axes: dict[str, Axis] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _split(cls, raw: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Extract the axes; the table must be valid with either end of each axis."""
        if not isinstance(raw, Mapping):
            return handler(raw)
        values, axes = _split(plain(dict(raw)), (cls.table,))
        for end in (0, 1) if axes else ():
            handler(_put(values, {name: axis.bounds()[end] for name, axis in axes.items()}))
        found = handler(values)
        found._axes = axes
        return found

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content = {name: value for name, value in handler(self).items() if name not in self._unused()}
        return _put(content, {name: axis.as_written() for name, axis in self._axes.items()})

    def _unused(self) -> Collection[str]:
        """Return the unused fields, which are omitted from the serialised form so that trial ids do not change."""
        return ()

    def _kept(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields that are kept when those in `own` are overridden."""
        return self.model_dump()

    @property
    def axes(self) -> Mapping[str, Axis]:
        """The axes common to all optimizers, by hyperparameter."""
        return self._axes

    def fixed(self) -> Self:
        """Return the table without axes, as the values shared by all trials."""
        found = self.model_copy()
        found._axes = {}
        return found

    def having(self, own: Mapping[str, Any], numbers: Mapping[str, float]) -> Self:
        """Return the table overridden by `own` and by hyperparameter values.

        Raises:
            ValidationError: the resulting table is invalid.
        """
        if not own and not numbers:
            return self
        return type(self).model_validate(_put(_merged(self._kept(own), own), numbers))


@dataclass(frozen=True)
class OwnTable:
    """Values of one optimizer that override a table of the study."""

    values: Mapping[str, Any]
    axes: Mapping[str, Axis]

    def has(self, name: str) -> bool:
        """Whether the table contains a hyperparameter."""
        inside: Any = self.values
        for part in hyperparameter(name).path[1:]:
            inside = inside.get(part) if isinstance(inside, Mapping) else None
        return inside is not None

    def as_written(self) -> dict[str, Any]:
        """Return the table as written in a study file."""
        written = {name: axis.as_written() for name, axis in self.axes.items()}
        content: dict[str, Any] = to_jsonable_python(_put(self.values, written))
        return content

    @property
    def content(self) -> dict[str, Any]:
        """The values, as JSON-like data."""
        content: dict[str, Any] = to_jsonable_python(dict(self.values))
        return content


def own_table(section: type[Varying]) -> Any:
    """Return the pydantic field type for an optimizer's own form of a table."""

    def read(raw: Any, info: ValidationInfo) -> Any:
        if raw is None or isinstance(raw, OwnTable):
            return raw
        if not isinstance(raw, Mapping):
            raise PydanticCustomError("dict_type", "give a table")
        values, axes = _split(plain(dict(raw)), (section.table,))
        errors: list[InitErrorDetails] = []
        for name, value in values.items():
            if name not in section.own:
                errors.append(InitErrorDetails(type="extra_forbidden", loc=(name,), input=value))
                continue
            try:
                values[name] = _reader(section, name).validate_python(value)
            except ValidationError as error:
                errors += moved(error, name)
        for name, axis in axes.items():
            try:
                axes[name] = fitting(axis, name, info.data.get("design"))
            except PydanticCustomError as error:
                errors.append(InitErrorDetails(type=error, loc=hyperparameter(name).path[1:], input=axis))
        if errors:
            raise ValidationError.from_exception_data(section.table, errors)
        return OwnTable(values, axes)

    written = PlainSerializer(lambda found: found and found.as_written())
    return Annotated[InstanceOf[OwnTable] | None, BeforeValidator(read), written]


@cache
def _reader(section: type[Varying], name: str) -> TypeAdapter[Any]:
    config = ConfigDict(strict=True, allow_inf_nan=False)
    annotation: Any = section.model_fields[name].rebuild_annotation()
    return TypeAdapter(annotation, config=config)


def moved(error: ValidationError, *where: str) -> list[InitErrorDetails]:
    """Return the errors of a nested table, relocated to `where` in its parent."""
    found: list[InitErrorDetails] = []
    for each in error.errors(include_url=False):
        place, context = (*where, *each["loc"]), each.get("ctx", {})
        try:
            PydanticKnownError(each["type"], context)  # type: ignore[arg-type]
            found.append(InitErrorDetails(type=each["type"], loc=place, input=each["input"], ctx=context))
        except KeyError:  # a custom error type, whose text may contain braces
            values = {**context, "message": each["msg"]}
            kind = PydanticCustomError(each["type"], "{message}", values)
            found.append(InitErrorDetails(type=kind, loc=place, input=each["input"]))
    return found


def fitting(axis: Axis, name: str, design: str | None) -> Axis:
    """Convert an axis to its hyperparameter's type (whole or real) and reject values out of range."""
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
        raise PydanticCustomError("design", "a grid needs points on each interval: add, for example, points = 8")
    if axis.points is not None and design not in (None, "grid"):
        raise PydanticCustomError("design", 'points belongs to design = "grid"; remove it')
    return axis.model_copy(update={"whole": True}) if number.whole else axis


def _split(raw: Mapping[str, Any], at: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Axis]]:
    """Split the table at path `at` of a study file into plain values and axes by hyperparameter."""
    values: dict[str, Any] = {}
    axes: dict[str, Axis] = {}
    errors: list[InitErrorDetails] = []
    for key, value in raw.items():
        path = (*at, str(key))
        if path == MODEL_ARGUMENTS and isinstance(value, Mapping):
            try:
                plain_ones, inside = _split(value, path)
                values |= {key: plain_ones} if plain_ones or not inside else {}
                axes |= inside
            except ValidationError as error:
                errors += moved(error, key)
            continue
        found = of_table(path) if _may_be_axis(value) else None
        if found is None:
            values[key] = value
            continue
        try:
            axis = parse_axis(value)
        except PydanticCustomError as error:
            errors.append(InitErrorDetails(type=error, loc=(key,), input=value))
        except ValidationError as error:
            errors += moved(error, key)
        else:
            whole = axis.whole or found.whole or (at == MODEL_ARGUMENTS and _counts(value))
            axes[found.name] = axis.model_copy(update={"whole": whole})
    if errors:
        raise ValidationError.from_exception_data(at[-1], errors)
    return values, axes


def _may_be_axis(value: Any) -> bool:
    if isinstance(value, Mapping):
        return value.keys() != {"fixed"}
    return isinstance(value, (Axis, list, tuple))


def _counts(raw: Any) -> bool:
    """Whether a list, or the ends of an interval, are written as whole numbers."""
    numbers = next((raw[scale] for scale in ("log", "linear") if scale in raw), ()) if isinstance(raw, dict) else raw
    return isinstance(numbers, (list, tuple)) and all(isinstance(each, int) for each in numbers)


def _put(values: Mapping[str, Any], numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table with the values of its hyperparameters inserted."""
    found = copy.deepcopy(dict(values))
    for name, number in numbers.items():
        _, *tables, leaf = hyperparameter(name).path
        inside = found
        for table in tables:
            inside = inside.setdefault(table, {})
        inside[leaf] = number
    return found


def _merged(values: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` overridden by `own`, merging tables recursively."""
    merged = dict(values)
    for name, value in own.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merged(merged[name], value) if both else value
    return merged
