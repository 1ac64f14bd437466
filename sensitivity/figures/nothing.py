"""The error of an exhibit that has nothing to show, and the sentences that explain it."""

from __future__ import annotations

from collections.abc import Iterable

from sensitivity.analysis.estimates import Caution
from sensitivity.analysis.names import merged

NO_RESULT = "No run has a result yet."
NO_TARGET = (
    "The study declares no target, so this can't be shown. Add one to the study file, such as [targets]"
    " test_accuracy = [0.95], and run the study again: nothing is retrained, the existing learning curves are enough."
)


class NothingToShowError(ValueError):
    """There is nothing to show; the message says why, in a sentence for the reader."""


def refusals(cautions: Iterable[Caution | None]) -> tuple[str, ...]:
    """Return the reasons for which estimates were refused, without repetitions."""
    return merged(caution.text for caution in cautions if caution is not None)


def nothing(cautions: Iterable[Caution | None], otherwise: str = NO_RESULT) -> NothingToShowError:
    """Return an error with the reasons for which estimates were refused, or with `otherwise` if there are none."""
    return NothingToShowError(" ".join(refusals(cautions)) or otherwise)
