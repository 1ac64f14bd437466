"""Base class of all tables of a study file, with limits that protect against accidental memory exhaustion."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sensitivity.study.plain import plain

MOST_RUNS = 2_000_000
MOST_SEEDS = 10_000
CONFIRMATION_SEEDS = 10**9
"""First seed used to confirm winners; larger than any seed of a study file."""
MOST_POINTS = 1_000
MOST_SAMPLES = 1_000_000
MOST_ITEMS = 10_000
"""Maximum number of values in a list or entries in a table."""
MOST_CHARACTERS = 10_000
"""Maximum length of a string or of a name in a table."""


class Section(BaseModel):
    """A table of a study file; unknown fields, NaN, infinity and values of other types are rejected.

    Types are strict, because ``batch_sizes = [true]`` or ``epochs = "5"`` is a mistake. Floats may be given as
    integers or as numbers of other types passed from Python, such as ``numpy.float32``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, raw: Any) -> Any:
        return plain(raw)


Seed = Annotated[int, Field(ge=0, lt=2**31)]
"""A seed in the range accepted by every random generator in use."""

Count = Annotated[int, Field(ge=1, le=10**9)]
"""A number of steps or examples, limited to avoid overflow."""

Epochs = Annotated[float, Field(gt=0, le=1e6)]


def _listed(raw: Any) -> Any:
    return [raw] if isinstance(raw, (str, int, float)) and not isinstance(raw, bool) else raw


OneOrMore = BeforeValidator(_listed)
"""Accepts a single number or text in place of a list of one."""

AsList = Field(strict=False)
"""Accepts a list for a tuple field, as TOML and JSON have no tuples; the items stay strict."""
