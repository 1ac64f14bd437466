"""A hyperparameter's values: one, a list, or an interval of a log or linear scale.

In a grid design an interval gives `points` values, its ends included. In a random or Sobol design it
is one side of the box that configurations are drawn from, and a list is drawn from uniformly.
Values are rounded to six significant digits, so that a cell has one name on every platform.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_serializer, model_validator
from pydantic_core import PydanticCustomError


def round_significant(value: float) -> float:
    """Round to six significant digits."""
    return float(f"{value:.6g}")


class Axis(BaseModel):
    """The values of one hyperparameter."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    scale: Literal["values", "log", "linear"]
    values: tuple[float, ...] = ()
    low: float = 0.0
    high: float = 0.0
    points: int | None = None

    @model_serializer
    def as_written(self) -> Any:
        """Return the axis in the form that a study file has it in."""
        if self.scale == "values":
            return list(self.values) if len(self.values) > 1 else self.values[0]
        interval: dict[str, Any] = {self.scale: [self.low, self.high]}
        return interval if self.points is None else {**interval, "points": self.points}

    @property
    def varies(self) -> bool:
        """Whether more than one value can come out."""
        return self.scale != "values" or len(self.values) > 1

    def bounds(self) -> tuple[float, float]:
        """Smallest and largest value."""
        return (min(self.values), max(self.values)) if self.scale == "values" else (self.low, self.high)

    def grid(self) -> tuple[float, ...]:
        """Return the values of a grid design, in the order of the study file.

        Raises:
            ValueError: an interval without `points`.
        """
        if self.scale == "values":
            return self.values
        if self.points is None:
            raise ValueError("an interval in a grid needs points")
        return tuple(self.quantile(i / (self.points - 1)) for i in range(self.points))

    def quantile(self, u: float) -> float:
        """Return the value at fraction `u` in [0, 1] of the box's side (of the list, in a list)."""
        if self.scale == "values":
            return self.values[min(int(u * len(self.values)), len(self.values) - 1)]
        if self.scale == "log":
            low, high = math.log(self.low), math.log(self.high)
            return round_significant(math.exp(low + u * (high - low)))
        return round_significant(self.low + u * (self.high - self.low))


class _Interval(BaseModel):
    """An interval as it stands in a study file."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    log: tuple[float, float] | None = None
    linear: tuple[float, float] | None = None
    points: Annotated[int, Field(ge=2)] | None = None

    @model_validator(mode="after")
    def _one_interval(self) -> _Interval:
        if (self.log is None) == (self.linear is None):
            raise PydanticCustomError("axis", "give exactly one of log = [low, high] and linear = [low, high]")
        low, high = self.log or self.linear or (0.0, 0.0)
        if self.log is not None and low <= 0:
            raise PydanticCustomError(
                "axis", "a log interval starts above 0; got {low}. Use linear, or a list", {"low": low}
            )
        if low >= high:
            raise PydanticCustomError(
                "axis",
                "the interval [{low}, {high}] is empty: low must be below high",
                {"low": low, "high": high},
            )
        return self


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise PydanticCustomError("axis", "{value} is not a finite number", {"value": repr(value)})
    return float(value)


def _parse(raw: Any) -> Any:
    if isinstance(raw, Axis):
        return raw
    if isinstance(raw, dict):
        interval = _Interval.model_validate(raw)
        low, high = interval.log or interval.linear or (0.0, 0.0)
        scale = "log" if interval.log is not None else "linear"
        return {"scale": scale, "low": low, "high": high, "points": interval.points}
    if isinstance(raw, (list, tuple)):
        if not raw:
            raise PydanticCustomError("axis", "the list is empty: give at least one value")
        values = tuple(round_significant(_number(value)) for value in raw)
        repeated = sorted({value for value in values if values.count(value) > 1})
        if repeated:
            raise PydanticCustomError(
                "axis",
                "repeated in the list: {repeated}. Each cell runs once; for repeats add seeds",
                {"repeated": ", ".join(f"{value:g}" for value in repeated)},
            )
        return {"scale": "values", "values": values}
    if isinstance(raw, (int, float)) and not isinstance(raw, bool):
        return {"scale": "values", "values": (round_significant(_number(raw)),)}
    raise PydanticCustomError(
        "axis",
        "give a number, a list of numbers, or a table such as "
        "{{ log = [1e-3, 1.0], points = 8 }} or {{ linear = [0.0, 0.9], points = 4 }}",
    )


AxisField = Annotated[Axis, BeforeValidator(_parse)]
"""A pydantic field that reads an axis from a number, a list or a table."""
