"""The claims of a study: compared pairs, and the primary claim, which is fixed before the first run.

The primary claim is confirmatory: `[primary]` declares its question, target and pair before the first run, and it gets
the whole error rate. All other statements of a verdict are exploratory and labelled as such. Without `[primary]`, both
questions for every pair, on the first target, share the error rate (Holm's procedure).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import field_validator, model_validator
from pydantic_core import PydanticCustomError

from sensitivity.study.metrics import MetricName
from sensitivity.study.section import AsList, Count, OneOrMore, Section

Question = Literal["scaling", "sensitivity"]
Pair = tuple[str, str]
"""Candidate and reference; the verdict compares the candidate with the reference."""
PairField = Annotated[Pair, AsList]


class PrimarySpec(Section):
    """The confirmatory claim: its question, and by default the first target and the first pair."""

    question: Question
    target: dict[MetricName, float] | None = None
    """One metric and one of its levels in `targets`."""
    pair: Annotated[PairField | None, AsList] = None
    looks: Annotated[tuple[Count, ...], AsList, OneOrMore] = ()
    """Numbers of seeds at which the verdict may be read; empty for any (each further look then costs more)."""

    @field_validator("target")
    @classmethod
    def _one_level(cls, value: dict[MetricName, float] | None) -> dict[MetricName, float] | None:
        if value is not None and len(value) != 1:
            raise PydanticCustomError("target", "give one metric and its level, such as { test_accuracy = 0.95 }")
        return value

    @model_validator(mode="after")
    def _looks_rise(self) -> PrimarySpec:
        if any(later <= earlier for earlier, later in itertools.pairwise(self.looks)):
            raise PydanticCustomError("looks", "looks must increase: numbers of seeds such as [8, 11, 14, 20]")
        return self


def default_pairs(optimizers: tuple[str, ...]) -> tuple[Pair, ...]:
    """Pair each optimizer with the first one."""
    return tuple((name, optimizers[0]) for name in optimizers[1:])


def require_pair(pair: Pair, optimizers: Collection[str] | None) -> None:
    """Raise unless `pair` names two different `optimizers`; None, for invalid optimizers, skips the check."""
    if optimizers is not None and (pair[0] == pair[1] or not set(pair) <= set(optimizers)):
        raise PydanticCustomError(
            "pair",
            "{pair}: give the names of two different optimizers of this study, candidate first; there are {names}",
            {"pair": list(pair), "names": ", ".join(optimizers)},
        )
