"""The box of an arm in the coordinates of its search, and its extension.

A coordinate is in decades, or for a linear side in half-widths of the declared side, so that one unit is a large step
in both cases. Sides that are limited to their declared values have no coordinate: their values are the box's levels.

Arrays: points are [points, dimensions], over the searched sides in the order of the arm's hyperparameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sensitivity.analysis.estimates import Floats
from sensitivity.study.amendments import DeclaredArm, ExtendedBox, Hyperparameters, Side
from sensitivity.study.axes import round_significant
from sensitivity.study.hyperparameters import hyperparameter

_TOLERANCE = 1e-6
"""Coordinates closer than this are equal: values are rounded to six digits."""


@dataclass(frozen=True, eq=False)
class Box:
    """The current search region of an arm."""

    arm: DeclaredArm
    low: Floats
    """[dimensions]"""
    high: Floats
    levels: tuple[tuple[str, float], ...] = ()
    """Values chosen for the sides without a coordinate; empty before the choice."""

    @classmethod
    def declared(cls, arm: DeclaredArm) -> Box:
        """Return the declared box."""
        sides = [side for side in arm.sides if side.searched]
        return cls(arm, _ends(sides, "low"), _ends(sides, "high"))

    @cached_property
    def sides(self) -> tuple[Side, ...]:
        """The searched sides."""
        return tuple(side for side in self.arm.sides if side.searched)

    @property
    def dimensions(self) -> int:
        """Number of searched sides."""
        return len(self.sides)

    @cached_property
    def least(self) -> Floats:
        """Lower extension limits [dimensions]."""
        return _ends(self.sides, "least")

    @cached_property
    def most(self) -> Floats:
        """Upper extension limits [dimensions]."""
        return _ends(self.sides, "most")

    @cached_property
    def closed(self) -> NDArray[np.bool_]:
        """Whether the lower and upper limits are ends of the hyperparameter's range, and allowed: [2, dimensions].

        An optimum at such a limit, for instance a momentum of 0, is a valid optimum. Upper limits are never closed.
        """
        numbers = [hyperparameter(side.name) for side in self.sides]
        lower = [
            side.least <= number.low and number.low_allowed for side, number in zip(self.sides, numbers, strict=True)
        ]
        return np.array([lower, [False] * len(lower)])

    @property
    def width(self) -> Floats:
        """Width of each side [dimensions], in coordinates."""
        return self.high - self.low

    @cached_property
    def open_levels(self) -> tuple[Side, ...]:
        """Sides without a coordinate that have several values, of which none has been chosen yet."""
        chosen = dict(self.levels)
        return tuple(s for s in self.arm.sides if not s.searched and s.axis.varies and s.name not in chosen)

    def with_levels(self, levels: Mapping[str, float]) -> Box:
        """Return the box with these values chosen."""
        return replace(self, levels=tuple(levels.items()))

    def extended(self, lower: Floats, upper: Floats) -> Box:
        """Return the box with its sides extended by `lower` and `upper` [dimensions], within the limits."""
        return replace(
            self, low=np.maximum(self.low - lower, self.least), high=np.minimum(self.high + upper, self.most)
        )

    def can_grow(self) -> NDArray[np.bool_]:
        """Return which sides are below their extension limit: [2, dimensions]."""
        return np.array([self.low > self.least + _TOLERANCE, self.high < self.most - _TOLERANCE])

    def configuration(self, x: Floats, levels: Mapping[str, float] | None = None) -> Hyperparameters:
        """Return the configuration at a point [dimensions]; `levels` override the chosen levels."""
        chosen = {**dict(self.levels), **(levels or {})}
        place, found = 0, []
        for side in self.arm.sides:
            if side.searched:
                found.append((side.name, _value(side, float(x[place]))))
                place += 1
            else:
                found.append((side.name, chosen.get(side.name, side.low)))
        return tuple(found)

    def point(self, configuration: Hyperparameters) -> Floats:
        """Return the coordinates of a configuration [dimensions]."""
        values = dict(configuration)
        return np.array([_coordinate(side, values[side.name]) for side in self.sides])

    def has_levels(self, configuration: Hyperparameters) -> bool:
        """Return whether a configuration has the chosen levels."""
        values = dict(configuration)
        return all(values[name] == value for name, value in self.levels)

    def record(self) -> ExtendedBox:
        """Return the box in values of the hyperparameters."""
        ends = [
            (side.name, _value(side, float(low)), _value(side, float(high)))
            for side, low, high in zip(self.sides, self.low, self.high, strict=True)
        ]
        return ExtendedBox(arm=self.arm.name, sides=(*ends, *((name, value, value) for name, value in self.levels)))


def _ends(sides: Sequence[Side], which: str) -> Floats:
    return np.array([_coordinate(side, getattr(side, which)) for side in sides])


def _coordinate(side: Side, value: float) -> float:
    if side.scale == "decades":
        return float(hyperparameter(side.name).decades(value))
    return 2 * (value - side.low) / (side.high - side.low)


def _value(side: Side, coordinate: float) -> float:
    if side.scale == "decades":
        value = hyperparameter(side.name).from_decades(coordinate)
    else:
        value = side.low + coordinate * (side.high - side.low) / 2
    return round_significant(min(max(value, side.least), side.most))
