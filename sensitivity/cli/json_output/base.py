"""Conventions of all outputs: ``schema_version`` first, no undeclared key, null for NaN and infinity."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]
"""A number that may be missing; null for NaN and infinity, which JSON lacks."""
Count = Annotated[int, Field(ge=0)]


class Part(BaseModel):
    """An object within an output. Its numbers are finite, except those of type ``Number``."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        from_attributes=True,
        allow_inf_nan=False,
        json_schema_serialization_defaults_required=True,
    )


class Output(Part):
    """An object that a command prints.

    A new key leaves ``schema_version`` unchanged. It increases when a key is removed or renamed, or changes its meaning
    or its unit; the command's own model then declares the new number.
    """

    schema_version: Literal[1] = Field(
        default=1,
        description="Version of this format. It increases when a key is removed, renamed, or changes its meaning.",
    )


def json_text(output: Output | Sequence[Output], *, indent: int | None = None) -> str:
    """Return an output as JSON."""
    if isinstance(output, Output):
        return json.dumps(output.model_dump(mode="json"), indent=indent, allow_nan=False)
    return json.dumps([each.model_dump(mode="json") for each in output], indent=indent, allow_nan=False)
