"""The error of an exhibit that has nothing to show, and the sentences that say why."""

from __future__ import annotations

from collections.abc import Iterable

from sensitivity.analysis.estimates import Caution
from sensitivity.analysis.names import merged

NO_RESULT = "No run has a result yet."
NO_TARGET = (
    "The study declares no target, so this can't be shown. Add one to the study file, such as [targets]"
    " test_accuracy = [0.95], and run the study again: nothing is trained anew, the learning curves that are there"
    " suffice."
)


class NothingToShowError(ValueError):
    """What was computed holds nothing to show; the message says why, in a sentence for the reader."""


def refusals(cautions: Iterable[Caution | None]) -> tuple[str, ...]:
    """Return why estimates were refused, each reason once."""
    return merged(caution.text for caution in cautions if caution is not None)


def nothing(cautions: Iterable[Caution | None], otherwise: str = NO_RESULT) -> NothingToShowError:
    """Return the error that says why estimates were refused, or `otherwise` where none was."""
    return NothingToShowError(" ".join(refusals(cautions)) or otherwise)
