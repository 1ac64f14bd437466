"""Checks of a study file's lists: seeds, and levels of targets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic_core import PydanticCustomError

from sensitivity.study.metrics import METRICS, MetricName
from sensitivity.study.section import MOST_SEEDS


def repeated(values: Iterable[float]) -> list[float]:
    """Return the repeated values, sorted."""
    return sorted(value for value, times in Counter(values).items() if times > 1)


def seed_list(raw: Any) -> Any:
    """Expand a number of seeds to a list; a list is unchanged."""
    if isinstance(raw, int) and not isinstance(raw, bool):
        if not 1 <= raw <= MOST_SEEDS:
            raise PydanticCustomError(
                "seeds", "give a number of seeds from 1 to {most}, or a list of seeds", {"most": MOST_SEEDS}
            )
        return tuple(range(raw))
    if not isinstance(raw, (list, tuple)):
        raise PydanticCustomError("seeds", "give a number of seeds, or a list of seeds")
    return raw


def target_mistakes(name: MetricName, levels: tuple[float, ...], measured: tuple[str, ...]) -> Iterator[str]:
    """Yield the mistakes in a metric's target levels, given the `measured` metrics."""
    if name not in measured:
        yield f"{name} can't apply: this loss has no classes. Measured are: {', '.join(measured)}"
    if not levels:
        yield f"{name}: the list is empty; give at least one level, or leave it out"
    if twice := repeated(levels):
        yield f"{name}: repeated: {', '.join(f'{level:g}' for level in twice)}"
    for level in levels:
        if METRICS[name].is_fraction and not 0 < level <= 1:
            yield f"{name} is a fraction: a target lies in (0, 1]; got {level:g}. For 95% write 0.95"
        if not METRICS[name].is_fraction and level <= 0:
            yield f"{name}: a target loss is above 0; got {level:g}"
