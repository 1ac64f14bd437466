"""What the sections of the report say in the same words."""

from __future__ import annotations

from collections.abc import Iterable

from sensitivity.analysis.estimates import Caution
from sensitivity.analysis.names import merged
from sensitivity.figures.labels import target_label
from sensitivity.report.results import Verdicts
from sensitivity.study.metrics import METRICS


def target_in_words(verdicts: Verdicts) -> str:
    """Return the primary target in words; empty without one."""
    return "" if verdicts.target is None else target_label(METRICS[verdicts.target[0]], verdicts.target[1])


def refusals(cautions: Iterable[Caution | None]) -> tuple[str, ...]:
    """Return why estimates were refused, each reason once."""
    return merged(caution.text for caution in cautions if caution is not None)
