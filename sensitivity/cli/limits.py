"""The limits and questions of ``settle`` from command-line options, parsed without loading what runs a study."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from sensitivity.study.errors import UserError
from sensitivity.study.primary import Question

QUESTIONS: dict[str, tuple[Question, ...]] = {
    "both": ("scaling", "sensitivity"),
    "scaling": ("scaling",),
    "sensitivity": ("sensitivity",),
}
_UNITS = {"d": 86_400.0, "h": 3_600.0, "min": 60.0, "m": 60.0, "s": 1.0}
_PART = r"(\d+(?:\.\d*)?|\.\d+)\s*(d|h|min|m|s)\s*"
_LONGEST_S = 1e9


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits and questions of a settlement; None means no limit."""

    seconds: float | None
    runs: int | None
    flops: float | None
    questions: tuple[Question, ...]
    """If empty, those of a settlement that has begun, otherwise both."""


def limits(*, within: str | None, runs: int | None, flops: float | None, question: str | None) -> Limits:
    """Return the limits given by options.

    Raises:
        UserError: a duration, an amount or a question is invalid.
    """
    if flops is not None and not 0 < flops < math.inf:
        raise UserError(f"--flops: give a number above 0, such as 1e15; got {flops:g}")
    if question is not None and question not in QUESTIONS:
        raise UserError(f"--question: allowed are {', '.join(QUESTIONS)}; got {question!r}")
    return Limits(
        seconds=None if within is None else seconds_of(within, "--within"),
        runs=runs,
        flops=flops,
        questions=() if question is None else QUESTIONS[question],
    )


def seconds_of(text: str, option: str) -> float:
    """Return a duration such as 1h30min in seconds.

    Raises:
        UserError: it is invalid; the message names `option`.
    """
    given = text.strip()
    parts = re.findall(_PART, given) if re.fullmatch(f"(?:{_PART})+", given) else []
    seconds = sum(float(amount) * _UNITS[unit] for amount, unit in parts)
    if not 0 < seconds <= _LONGEST_S:
        raise UserError(f"{option}: give a duration above 0, such as 90s, 30min, 1h30min or 2d; got {text!r}")
    return seconds
