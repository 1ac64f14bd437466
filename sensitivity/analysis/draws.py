"""The draws of a study, each a random setting with a seed, grouped in independent blocks.

A draw succeeds if its run reached the target within the budget. Runs that diverged, or failed with an exception, did
not succeed, and count with the cost that they had. The blocks depend on the design:

* if each configuration ran with a single seed, as in the designs "random" and "sobol", a block is a seed with all of
  its draws. The draw of settings, the randomness of seeds, the scramble of a Sobol sequence and everything that batch
  sizes share then vary between blocks;
* if configurations are crossed with seeds, as tables from elsewhere may be, or if there are too few seeds, a block is a
  configuration with all its seeds, and the results do not generalise to other seeds.

For a grid, a block is a seed, and the scatter between blocks covers seed noise only: the configurations were not drawn.

Arrays are [blocks, batches]; blocks are in the order of their seeds, or of the plan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sensitivity.analysis.designs import (
    CHOSEN,
    Axes,
    Design,
    Edge,
    at_edge,
    box_edges,
    design_of,
    is_crossed,
    refusal,
    table_edges,
    varying,
)
from sensitivity.analysis.estimates import Caution, Floats
from sensitivity.analysis.names import optimizer_name, parameter_name
from sensitivity.analysis.outcomes import WAITING
from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.axes import Axis
from sensitivity.study.results import Status
from sensitivity.study.section import CONFIRMATION_SEEDS
from sensitivity.study.words import count

FEWEST_BLOCKS = 8
"""Fewest blocks of draws for Student's t: success rates are skewed, and with fewer blocks it is not reliable."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """The draws of an optimizer at the batch sizes at which it ran."""

    optimizer: str
    design: Design
    prior: str
    """The prior distribution of settings, in words."""
    batch_sizes: tuple[int, ...]
    of: str
    """Kind of block: seeds or configurations."""
    blocks: tuple[int, ...]
    """Seeds, or indices of configurations."""
    success: Floats
    """[blocks, batches] fraction of the draws that succeed; NaN without draws."""
    flops: Floats
    """[blocks, batches] mean over the draws."""
    seconds: Floats
    """[blocks, batches] device-seconds, evaluation included, mean over the draws."""
    count: tuple[int, ...]
    """Number of draws with a result, per batch size."""
    reached: tuple[int, ...]
    """Number of these that reached the target, per batch size."""
    touches: tuple[Edge, ...]
    """Bounds of the box at which settings succeed: the successful region may extend beyond them."""
    at_touches: tuple[tuple[int, int], ...]
    """For each of `touches`, the number of successful draws there and the number of all draws there."""
    warnings: tuple[Caution, ...]
    refused: Caution | None
    """Reason why the runs are not draws, so that they estimate no probability; else None."""
    unjudged: Caution | None
    """Reason why the runs allow a description but no test; else None."""


def compute_draws(
    runs: pd.DataFrame,
    times: pd.DataFrame,
    *,
    designs: Mapping[str, str] | None = None,
    axes: Mapping[str, Axes] | None = None,
) -> tuple[Draws, ...]:
    """Return the draws of each optimizer, in the order of the plan.

    `times` is the table of ``times.compute_times`` for one target, and may have further rows. Runs that confirm a
    winner are not draws and are left out. `axes` are the declared priors; without them, the range of the runs is used.
    """
    runs = runs[runs["seed"] < CONFIRMATION_SEEDS]
    outcome = times.set_index("trial_id")["outcome"].reindex(runs["trial_id"]).to_numpy()
    marked = runs.assign(
        success=(outcome == "reached").astype(float),
        seconds=runs["train_seconds"].fillna(0.0) + runs["eval_seconds"].fillna(0.0),
        cost=runs["flops"].fillna(0.0),
    )
    found = []
    for optimizer, rows in marked.groupby("optimizer", sort=False):
        name = str(optimizer)
        design = design_of(rows, name, designs)
        found.append(_draws(rows, name, design, (designs or {}).get(name, ""), (axes or {}).get(name)))
    return tuple(found)


def _draws(rows: pd.DataFrame, optimizer: str, design: Design, declared: str, axes: Axes | None) -> Draws:
    names = varying(rows)
    stopped = int((rows["status"] == Status.STOPPED.value).sum())
    failed = int((rows["status"] == Status.FAILED.value).sum())
    done = rows[~rows["status"].isin(WAITING)]
    sizes = tuple(sorted(int(size) for size in rows["batch_size"].unique()))
    columns = [PARAM_PREFIX + name for name in names]
    configuration = done.groupby(columns, dropna=False, sort=False).ngroup()
    crossed = is_crossed(rows, names)  # from all planned runs, with or without a result
    seeds = int(done["seed"].nunique())
    by_seed = design == "grid" or (not crossed and seeds >= FEWEST_BLOCKS)
    keys = done["seed"] if by_seed else configuration
    table = done.assign(block=keys).pivot_table(
        index="block", columns="batch_size", values=["success", "cost", "seconds"], aggfunc="mean"
    )  # fmt: skip
    at_size = [done.loc[done["batch_size"] == size, "success"] for size in sizes]

    def values(name: str) -> Floats:
        if not len(done):
            return np.empty((0, len(sizes)))
        return pd.DataFrame(table[name]).reindex(columns=list(sizes)).to_numpy(dtype=float)

    name = optimizer_name(optimizer)
    why = refusal(optimizer, "a price of tuning", design) if design in CHOSEN else None
    if stopped:
        text = (
            f"{name}: {stopped:,} of {len(rows):,} runs were stopped early and might have reached the target later, so"
            ' the price of tuning can\'t be estimated. Run it with prune = "none".'
        )
        why = why or Caution(code="pruned", text=text)
    touches = _touches(done, names, design, axes)
    warnings = _coarse(name, done, names, axes or {}) if design == "grid" else []
    if failed:
        text = f"{name}: {failed:,} of {len(rows):,} runs failed with an exception; they count as unsuccessful draws."
        warnings.append(Caution(code="failed", text=text))
    return Draws(
        optimizer=optimizer,
        design=design,
        prior=prior_in_words(axes, rows, names),
        batch_sizes=sizes,
        of="seeds" if by_seed else "configurations",
        blocks=tuple(int(key) for key in table.index) if len(done) else (),
        success=values("success"),
        flops=values("cost"),
        seconds=values("seconds"),
        count=tuple(len(own) for own in at_size),
        reached=tuple(int(own.sum()) for own in at_size),
        touches=touches,
        at_touches=tuple(_count_at(edge, done) for edge in touches),
        warnings=tuple(warnings),
        refused=why,
        unjudged=None if why else _unjudged(name, design, declared, crossed, seeds),
    )


def _unjudged(name: str, design: Design, declared: str, crossed: bool, seeds: int) -> Caution | None:
    if design == "grid":
        text = (
            f"{name} ran on a grid. Its points are chosen, not drawn, so the fraction of them that succeeds describes"
            " these points, and no interval covers the settings between them."
        )
        return Caution(code="grid", text=text)
    if seeds < 2 or (not crossed and seeds < FEWEST_BLOCKS):
        text = (
            f"{name} has draws of {count(seeds, 'seed')}. A seed with all of its draws is one observation, and a test"
            f" needs at least {FEWEST_BLOCKS} observations."
        )
        return Caution(code="few-seeds", text=text)
    if declared == "sobol" and crossed:
        text = f"{name}: one Sobol sequence for all seeds is a single replicate, so its error can't be estimated."
        return Caution(code="one-replicate", text=text)
    return None


def _touches(done: pd.DataFrame, names: tuple[str, ...], design: Design, axes: Axes | None) -> tuple[Edge, ...]:
    """Return the bounds at which a setting succeeds, or for a grid its first or last values, one edge per side."""
    columns = {PARAM_PREFIX + name: name for name in names}
    table = done[[*columns, "success"]].rename(columns=columns)
    working = table[table["success"] > 0]
    if not len(working):
        return ()
    edges: list[Edge] = []
    for side, ends in (("low", working.min()), ("high", working.max())):
        at = {name: float(ends[name]) for name in names}
        found = table_edges(table, at, names) if design == "grid" else box_edges(axes or {}, at, names)
        edges += [edge for edge in found if edge.side == side]
    return tuple(edges)


def _count_at(edge: Edge, done: pd.DataFrame) -> tuple[int, int]:
    there = done.loc[at_edge(edge, done[PARAM_PREFIX + edge.parameter]), "success"]
    return int(there.sum()), len(there)


def _coarse(optimizer: str, done: pd.DataFrame, names: tuple[str, ...], axes: Axes) -> list[Caution]:
    """Return a caution for each hyperparameter of which no more than two adjacent grid values succeed.

    Such a grid is too coarse to estimate the fraction of its box that succeeds. A value succeeds if at least half of
    its seeds do. A declared list of values is not a box and has no caution.
    """
    columns = [PARAM_PREFIX + name for name in names]
    narrow: dict[str, list[int]] = {}
    for size, rows in done.groupby("batch_size"):
        works = rows.groupby(columns)["success"].mean() >= 0.5
        grid = [works.index.get_level_values(place).unique().sort_values() for place in range(len(names))]
        whole = works.reindex(pd.MultiIndex.from_product(grid) if len(grid) > 1 else grid[0], fill_value=False)
        inside = whole.to_numpy(dtype=bool).reshape([len(values) for values in grid])
        for place, name in enumerate(names):
            lines = np.moveaxis(inside, place, -1).reshape(-1, len(grid[place]))
            listed = name in axes and axes[name].scale == "values"
            if not listed and 0 < _longest_run(lines) <= min(2, len(grid[place]) - 1):
                narrow.setdefault(name, []).append(int(str(size)))
    return [
        Caution(
            code="coarse-grid",
            text=f"{optimizer}: at batch size {', '.join(f'{size:,}' for size in sizes)}, no more than two adjacent"
            f" values of the {parameter_name(name)} succeed, so the grid is too coarse to show which fraction of its"
            ' box does. Use more points, or design = "sobol".',
        )
        for name, sizes in narrow.items()
    ]


def _longest_run(lines: NDArray[np.bool_]) -> int:
    """Return the length of the longest run of True in any of `lines` [lines, places]."""
    longest, current = 0, np.zeros(len(lines), dtype=int)
    for place in range(lines.shape[1]):
        current = np.where(lines[:, place], current + 1, 0)
        longest = max(longest, int(current.max(initial=0)))
    return longest


def prior_in_words(axes: Axes | None, rows: pd.DataFrame, names: tuple[str, ...]) -> str:
    """Return the prior in words: the declared box, or the range of the runs without one."""
    parts = []
    for name in names:
        axis = (axes or {}).get(name)
        if axis is None:
            values = rows[PARAM_PREFIX + name]
            parts.append(f"{parameter_name(name)} {_plain(values.min())} to {_plain(values.max())}")
        else:
            parts.append(f"{parameter_name(name)} {_axis_in_words(axis)}")
    return ", ".join(parts)


def _axis_in_words(axis: Axis) -> str:
    low, high = axis.bounds()
    if axis.scale == "values":
        return f"one of {len(axis.values)} values, {_plain(low)} to {_plain(high)}"
    return f"{_plain(low)} to {_plain(high)}" + (" (log)" if axis.scale == "log" else "")


def _plain(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"
