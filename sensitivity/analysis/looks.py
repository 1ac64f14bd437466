"""How often the answer of a study may have been looked at, and the error rate that is left for a claim now.

Adding seeds until a verdict turns claims a difference of identical optimizers in 17 to 37% of studies
(docs/statistics.md, section 8). A study directory tells how often that may have happened: each time its design (seeds,
batch sizes, optimizers or searches) was changed after results existed. The error rate is spent over looks so that all
of them together stay within it:

* any number of looks: 1 / (k (k + 1)) of it at look k, which sums to 1. The first look has half of it;
* planned looks (`primary.looks`, numbers of seeds): a share proportional to the square root of the number of seeds,
  the levels that settle most studies in simulations. Between planned looks nothing is claimed. A study
  that is extended otherwise has left its plan: what the looks it has passed have left is spent as above.

Rates are one-sided: the probability of a claim, at one of the looks, that a true effect at the margin makes false.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from scipy.special import ndtri

from sensitivity.analysis.estimates import Caution

RATE = 0.05
"""Of false claims of a study, over all its looks."""
_DESIGN = ("seeds", "batch_sizes", "optimizers", "search")
"""Tables of a study file that decide which runs there are."""
_CLAIM = ("targets", "margins", "pairs", "primary")
"""Those that decide what is said of the runs."""
_POWER = 0.8
_LEAST = 1e-6
"""An error rate below this is none: shares of the planned looks add up to 1 but for rounding."""
_NO_LOOK = "no look is left: ask the question again in a new study, under a new name and with seeds not used here"


@dataclass(frozen=True, kw_only=True)
class Looks:
    """What a study directory tells about when its answer may have been read."""

    extensions: tuple[str, ...]
    """What was changed, in words, each time the design grew after results existed."""
    seeds_alone: bool
    """Whether every one of them added seeds and nothing else."""
    changed: tuple[Caution, ...]
    """Changes of targets, margins or the claim itself after results existed: what they concern is exploratory."""

    @property
    def count(self) -> int:
        """Looks that were possible, the present one included."""
        return len(self.extensions) + 1


@dataclass(frozen=True, kw_only=True)
class Level:
    """The error rate that a claim may use at the present look."""

    rate: float
    """One-sided; 0 where nothing may be claimed at this look."""
    cautions: tuple[Caution, ...]
    """What the looks cost, or why nothing may be claimed."""


def compute_looks(specs: Mapping[str, Mapping[str, Any]], runs: pd.DataFrame, present: Mapping[str, Any]) -> Looks:
    """Return the possible looks at a study.

    Args:
        specs: every study file (as JSON-like data) that the directory was run with, by its hash.
        runs: of the study, with ``spec_hash`` and ``finished_at``; runs without a result have neither.
        present: the study file as it is now.
    """
    done = runs[runs["spec_hash"].isin(list(specs))]
    begun = done.groupby("spec_hash")["finished_at"].min().sort_values(kind="stable")
    history = [specs[str(name)] for name in begun.index]
    designs: list[Mapping[str, Any]] = []
    extensions, seeds_alone = [], True
    for spec in history:
        design = {table: spec.get(table) for table in _DESIGN}
        if design in designs:  # a study that was taken up again as it had been
            continue
        if designs:
            different = [table for table in _DESIGN if design[table] != designs[-1][table]]
            extensions.append(" and ".join(_change(table, designs[-1][table], design[table]) for table in different))
            seeds_alone &= different == ["seeds"]
        designs.append(design)
    return Looks(
        extensions=tuple(extensions),
        seeds_alone=seeds_alone,
        changed=_changed(history[0], present) if history else (),
    )


def level(looks: Looks, seeds: int, planned: Sequence[int]) -> Level:
    """Return the error rate of a claim at the present look.

    Args:
        looks: at the study.
        seeds: of the study now.
        planned: numbers of seeds at which looks were planned; empty for none.
    """
    if planned and looks.seeds_alone:
        return _planned(seeds, planned)
    k = looks.count
    if k == 1:
        return Level(rate=RATE / 2, cautions=())
    # Off its plan, a study has what the planned looks that it has passed have left, for looks 1, 2, ... since.
    spent = sum(planned_share(n, planned) for n in planned if n <= seeds)
    rate = RATE * (1 - spent) / ((k - 1) * k) if planned else RATE / (k * (k + 1))
    said = (
        f"There may have been {k} looks at this study: it was extended {_times(k - 1)} after results existed"
        f" ({'; '.join(looks.extensions)})."
    )
    if planned:
        said += f" That is more than the planned looks foresaw, which had {spent:.0%} of the error rate so far."
    if rate < _LEAST:
        fix = "Ask the question again in a new study, under a new name and with seeds not used here."
        text = f"{said} Nothing is left of the error rate, so nothing is claimed now. {fix}"
        return Level(rate=0.0, cautions=(Caution(code="looks", text=text),))
    first = RATE / 2
    text = (
        f"{said} A claim now has an error rate of {rate:.2%} instead of {first:.2%}, for which it takes about"
        f" {_price(first, rate):.0%} more seeds."
    )
    return Level(rate=rate, cautions=(Caution(code="looks", text=text),))


def _planned(seeds: int, planned: Sequence[int]) -> Level:
    listed = ", ".join(f"{n:,}" for n in planned)
    if seeds not in planned:
        later = next((n for n in planned if n > seeds), None)
        fix = _NO_LOOK if later is None else f"the next one is at {later:,}: set seeds = {later} and run again"
        text = f"Looks were planned at {listed} seeds, and there are {seeds:,}, so nothing is claimed now; {fix}."
        return Level(rate=0.0, cautions=(Caution(code="unplanned-look", text=text),))
    share = planned_share(seeds, planned)
    text = f"Planned look at {seeds:,} seeds, of {listed}: a claim has an error rate of {RATE * share:.2%} here."
    return Level(rate=RATE * share, cautions=(Caution(code="looks", text=text),))


def planned_share(seeds: int, planned: Sequence[int]) -> float:
    """Return the share of the error rate that the planned look at `seeds` has."""
    return math.sqrt(seeds) / sum(math.sqrt(n) for n in planned)


def _price(first: float, rate: float) -> float:
    """Return by which share a study must be larger to have the same power at `rate` as at `first`."""
    power = float(ndtri(_POWER))
    return ((power - float(ndtri(rate))) / (power - float(ndtri(first)))) ** 2 - 1


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _change(table: str, before: Any, after: Any) -> str:
    if table in ("seeds", "batch_sizes"):
        return f"{table.replace('_', ' ')} from {len(before)} to {len(after)}"
    if table == "search":
        return "the search or its confirmations"
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return f"the design of {', '.join(names)}"


def _changed(first: Mapping[str, Any], present: Mapping[str, Any]) -> tuple[Caution, ...]:
    found = []
    for table in _CLAIM:
        before, after = first.get(table), present.get(table)
        if before is not None and before != after:
            text = (
                f"`{table}` was {_short(before)} when the first results were made, and is {_short(after)} now. What was"
                " chosen after seeing results makes a verdict exploratory."
            )
            found.append(Caution(code="changed-after-results", text=text))
        elif before is None and after:
            text = f"`{table}` was added after the first results were made: what it names is exploratory."
            found.append(Caution(code="changed-after-results", text=text))
    return tuple(found)


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} = {item}" for name, item in value.items() if item is not None) or "empty"
    return str(value)
