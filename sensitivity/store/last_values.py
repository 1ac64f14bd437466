"""Final value of each metric of a run, from its evaluations."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from sensitivity.store.schema import further_metrics
from sensitivity.study.metrics import SPLITS, USUAL


def by_split(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the standard metrics and those among the columns `names`, by split, with the loss of each split first."""
    every = [*map(str, USUAL), *further_metrics(names)]
    found = {split: [name for name in dict.fromkeys(every) if name.startswith(f"{split}_")] for split in SPLITS}
    return {split: sorted(own, key=lambda name: name != f"{split}_loss") for split, own in found.items()}


def last_values(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return each metric at the last evaluation at which the loss of its split is finite.

    If no evaluation has a finite loss, the next metric of the split decides. The loss comes first because accuracies
    are finite even if the outputs of the network are not.
    """
    last: dict[str, float] = {}
    for names in _by_split(tuple(dict.fromkeys(name for each in evaluations for name in each))):
        found = (e for name in names for e in reversed(evaluations) if math.isfinite(e.get(name, math.nan)))
        finite: Mapping[str, Any] = next(found, {})
        last |= {name: float(finite.get(name, math.nan)) for name in names}
    return last


@functools.lru_cache(maxsize=64)
def _by_split(names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Return `by_split` without the splits; the runs of a study have the same few sets of columns."""
    return tuple(map(tuple, by_split(names).values()))
