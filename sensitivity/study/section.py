"""The base of all tables of a study file, with limits that keep a slip from filling memory."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sensitivity.study.plain import plain

MOST_RUNS = 2_000_000
MOST_SEEDS = 10_000
CONFIRMATION_SEEDS = 10**9
"""The first of the seeds on which winners are confirmed: far above those of a study file, however it is extended."""
MOST_POINTS = 1_000
MOST_SAMPLES = 1_000_000
MOST_ITEMS = 10_000
"""Values in a list, entries of a table."""
MOST_CHARACTERS = 10_000
"""Of a text, or of a name in a table."""


class Section(BaseModel):
    """A table of a study file: unknown fields, NaN, infinity and values of other types are refused.

    Strict types, because ``batch_sizes = [true]`` or ``epochs = "5"`` is a mistake. An integer is a fine float, and so
    is a number of any type that Python callers have, such as ``numpy.float32``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, raw: Any) -> Any:
        return plain(raw)


Seed = Annotated[int, Field(ge=0, lt=2**31)]
"""What every random generator that may meet it accepts."""

Count = Annotated[int, Field(ge=1, le=10**9)]
"""Steps, examples: far above what can be trained, far below what overflows."""

Epochs = Annotated[float, Field(gt=0, le=1e6)]

AsList = Field(strict=False)
"""Marks a tuple, which TOML and JSON give as a list; its items stay strict."""
