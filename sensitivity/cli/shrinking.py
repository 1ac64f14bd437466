"""``plan --shrink-to``: what to leave out of a study so that it fits a time, and what it can still answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sensitivity.analysis.paired import ALPHA, fewest_seeds
from sensitivity.execution.costs import Price
from sensitivity.study.spec import StudySpec
from sensitivity.study.words import count, duration

MIN_SEEDS = fewest_seeds(ALPHA / 2)
"""Seeds needed to confirm one of two claims that share an error rate."""
_MIN_SIZES = 3
"""Batch sizes needed to estimate a critical batch size."""


def shrunk(spec: StudySpec, price: Price, seconds: float) -> Sequence[str]:
    """Return lines on how a study can fit into `seconds`: the edits, what they drop, and which answers survive."""
    if price.wall_seconds <= seconds:
        return (f"It fits into {duration(seconds)} without changes.",)
    by_size = _by_size(price)
    sizes, seeds = list(spec.batch_sizes), len(spec.seeds)

    def wall(kept: Sequence[int], n: int) -> float:
        return sum(by_size[size] for size in kept) * n / seeds / price.workers

    fewest = min(MIN_SEEDS, seeds)
    while len(sizes) > _MIN_SIZES and wall(sizes, fewest) > seconds:
        sizes.remove(_most_expensive_between(sizes, by_size))
    kept = next((n for n in range(seeds, 0, -1) if wall(sizes, n) <= seconds), 0)
    if not kept:
        return (
            f"One seed at {count(len(sizes), 'batch size')} takes {duration(wall(sizes, 1))}: it does not fit into"
            f" {duration(seconds)}. Shorten [budget], or use fewer settings of each optimizer.",
        )
    dropped = [size for size in spec.batch_sizes if size not in sizes]
    edits = [f"batch_sizes = {sizes}"] * bool(dropped) + [f"seeds = {_seeds(spec.seeds[:kept])}"] * (kept < seeds)
    drops = [f"the batch sizes {', '.join(map(str, dropped))}"] * bool(dropped)
    drops += [count(seeds - kept, "seed")] * (kept < seeds)
    return (
        f"To fit into {duration(seconds)}, set in the study file:",
        *(f"  {edit}" for edit in edits),
        f"That drops {' and '.join(drops)}, and takes {duration(wall(sizes, kept))}. Existing runs are kept.",
        *_remaining_answers(sizes, kept),
    )


def _seeds(seeds: Sequence[int]) -> str:
    """Return seeds as in a study file: a number if they are the first ones."""
    return str(len(seeds) if list(seeds) == list(range(len(seeds))) else list(seeds))


def _remaining_answers(sizes: Sequence[int], seeds: int) -> Sequence[str]:
    confirmed = seeds >= MIN_SEEDS
    scaling = "can be answered" if confirmed and len(sizes) >= _MIN_SIZES else "gets a direction at most"
    why = "" if confirmed else f": a claim needs {MIN_SEEDS} seeds"
    if len(sizes) < _MIN_SIZES:
        why += f"; a critical batch size needs {_MIN_SIZES} batch sizes"
    return (
        f"  Scaling with batch size {scaling}{why}.",
        f"  Sensitivity {'can be answered, with wider intervals' if confirmed else f'gets a direction at most{why}'}.",
        "  `sensitivity settle` often needs fewer runs than either design.",
    )


def _by_size(price: Price) -> Mapping[int, float]:
    found: dict[int, float] = {}
    for line in price.lines:
        found[line.batch_size] = found.get(line.batch_size, 0.0) + line.device_seconds
    return found


def _most_expensive_between(sizes: Sequence[int], by_size: Mapping[int, float]) -> int:
    """Return the most expensive batch size between the ends, which are kept because they span the range in question."""
    between = sorted(sizes)[1:-1]
    return max(between, key=lambda size: by_size[size])
