"""A hyperparameter's values: one value, a list, or an interval on a log or linear scale.

In a grid design, an interval yields `points` values including its ends. In a random or Sobol design, configurations are
drawn from intervals and, uniformly, from lists.
Values are rounded to six significant digits, so that a cell has the same id on every platform.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    TypeAdapter,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from sensitivity.study.section import MOST_POINTS, AsList, Count, Section


def round_significant(value: float) -> float:
    """Round to six significant digits; -0 becomes 0, so that both are the same cell."""
    return float(f"{value:.6g}") + 0.0


class Axis(Section):
    """The values of one hyperparameter."""

    scale: Literal["values", "log", "linear"]
    values: tuple[float, ...] = ()
    low: float = 0.0
    high: float = 0.0
    points: int | None = None
    whole: bool = False
    """Whether values are whole numbers; draws from an interval are rounded to the nearest."""

    @model_serializer
    def as_written(self) -> Any:
        """Return the axis as written in a study file."""
        if self.scale == "values":
            values = [int(value) if self.whole else value for value in self.values]
            return values if len(values) > 1 else values[0]
        ends = [int(end) if self.whole else end for end in (self.low, self.high)]
        interval: dict[str, Any] = {self.scale: ends}
        return interval if self.points is None else {**interval, "points": self.points}

    @property
    def varies(self) -> bool:
        """Whether the axis has more than one value."""
        return self.scale != "values" or len(self.values) > 1

    def bounds(self) -> tuple[float, float]:
        """Return the smallest and the largest value."""
        return (min(self.values), max(self.values)) if self.scale == "values" else (self.low, self.high)

    def holds(self, value: float) -> bool:
        """Whether `value` is in the list or the interval."""
        return value in self.values if self.scale == "values" else self.low <= value <= self.high

    def grid(self) -> tuple[float, ...]:
        """Return the values of a grid design in the order of the study file.

        Raises:
            ValueError: the axis is an interval without `points`.
        """
        if self.scale == "values":
            return self.values
        if self.points is None:
            raise ValueError("an interval in a grid needs points")
        return tuple(dict.fromkeys(self.quantile(i / (self.points - 1)) for i in range(self.points)))

    def quantile(self, u: float) -> float:
        """Return the value at fraction `u` in [0, 1] of the interval (or of the list)."""
        if self.scale == "values":
            return self.values[min(int(u * len(self.values)), len(self.values) - 1)]
        if self.scale == "log":
            low, high = math.log(self.low), math.log(self.high)
            return self.rounded(math.exp(low + u * (high - low)))
        return self.rounded(self.low + u * (self.high - self.low))

    def rounded(self, value: float) -> float:
        """Round a value like those of configurations: to six significant digits, or to a whole number."""
        return float(round(value)) if self.whole else round_significant(value)


_End = Annotated[float, AfterValidator(round_significant)]
_Ends = Annotated[tuple[_End, _End], AsList]


class _Interval(Section):
    """An interval in a study file."""

    log: _Ends | None = None
    linear: _Ends | None = None
    points: Annotated[int, Field(ge=2, le=MOST_POINTS)] | None = None

    @model_validator(mode="after")
    def _one_interval(self) -> _Interval:
        if (self.log is None) == (self.linear is None):
            raise PydanticCustomError("axis", "give exactly one of log = [low, high] and linear = [low, high]")
        axis = self.axis()
        context = {"low": f"{axis.low:g}", "high": f"{axis.high:g}", "points": self.points}
        if self.log is not None and axis.low <= 0:
            raise PydanticCustomError(
                "axis", "a log interval starts above 0; got {low}. Use linear, or a list", context
            )
        if axis.low >= axis.high:
            raise PydanticCustomError(
                "axis", "the interval [{low}, {high}] is empty: low must be below high (to six digits)", context
            )
        if axis.points is not None and len(set(axis.grid())) < axis.points:
            raise PydanticCustomError(
                "axis",
                "[{low}, {high}] is too narrow for {points} points: values have six significant digits",
                context,
            )
        return self

    def axis(self) -> Axis:
        """Return the axis."""
        low, high = self.log or self.linear or (0.0, 0.0)
        return Axis(scale="linear" if self.log is None else "log", low=low, high=high, points=self.points)


def _value(raw: Any) -> float:
    # Rejects booleans, NaN, and integers too large for a float.
    if isinstance(raw, bool) or not isinstance(raw, (int, float)) or not abs(raw) <= sys.float_info.max:
        raise PydanticCustomError("axis", "{value} is not a finite number", {"value": repr(raw)[:40]})
    return round_significant(raw)


def parse_axis(raw: Any) -> Axis:
    """Parse an axis from a number, a list or a table."""
    if isinstance(raw, Axis):
        return raw
    if isinstance(raw, dict):
        return _Interval.model_validate(raw).axis()
    if isinstance(raw, (list, tuple)):
        if not raw:
            raise PydanticCustomError("axis", "the list is empty: give at least one value")
        values = tuple(_value(item) for item in raw)
        repeated = sorted(value for value, times in Counter(values).items() if times > 1)
        if repeated:
            raise PydanticCustomError(
                "axis",
                "repeated in the list: {repeated}. Each cell runs once; for repeats add seeds",
                {"repeated": ", ".join(f"{value:g}" for value in repeated)},
            )
        return Axis(scale="values", values=values)
    if isinstance(raw, (int, float)) and not isinstance(raw, bool):
        return Axis(scale="values", values=(_value(raw),))
    raise PydanticCustomError(
        "axis",
        "give a number, a list of numbers, or a table such as "
        "{ log = [1e-3, 1.0], points = 8 } or { linear = [0.0, 0.9], points = 4 }",
    )


AxisField = Annotated[Axis, BeforeValidator(parse_axis)]
"""Pydantic field type that parses an axis from a number, a list or a table."""


def fixed(value: float) -> Axis:
    """Return the axis with a single value."""
    return Axis(scale="values", values=(value,))


def _value_or_axis(kind: Any) -> PlainValidator:
    """Return a validator that keeps a number of `kind` and parses a list or an interval as an axis."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))

    def read(raw: Any) -> Any:
        return parse_axis(raw) if isinstance(raw, (Axis, dict, list, tuple)) else adapter.validate_python(raw)

    return PlainValidator(read)


_AS_WRITTEN = PlainSerializer(lambda value: value.model_dump(mode="json") if isinstance(value, Axis) else value)
CountOrAxis = Annotated[int | Axis, _value_or_axis(Count), _AS_WRITTEN]
"""A number of steps: a setting if it has one value, a hyperparameter if it has an axis."""
ShareOrAxis = Annotated[float | Axis, _value_or_axis(Annotated[float, Field(ge=0, lt=1)]), _AS_WRITTEN]
"""Likewise, a number >= 0 and < 1."""
LimitOrAxis = Annotated[float | Axis | None, _value_or_axis(Annotated[float, Field(gt=0)] | None), _AS_WRITTEN]
"""Likewise, a number > 0, or None."""


def _own_value(raw: Any) -> Any:
    """Parse an argument of a user's optimizer: a number, list or interval as an axis, anything else unchanged."""
    if isinstance(raw, (bool, str)) or (isinstance(raw, dict) and raw.keys() == {"fixed"}):
        return raw
    return parse_axis(raw)


OwnField = Annotated[Any, PlainValidator(_own_value)]
"""An argument of a user's optimizer: an axis, a string, a boolean, or { fixed = ... }, which is passed unchanged."""
