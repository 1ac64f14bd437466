"""Interim looks at a study's results, and the error rate that remains for a claim (alpha spending).

Adding seeds until a verdict changes claims a difference between identical optimizers in 17 to 37% of studies
(docs/statistics.md, section 8). A study directory records how often that may have happened: each time its design
(seeds, batch sizes, optimizers or searches) was changed after results existed. The error rate is spent over the looks
so that their total stays within it:

* any number of looks: look k may use 1 / (k (k + 1)) of the rate, which sums to 1. The first look has half of it;
* planned looks (`primary.looks`, numbers of seeds): each may use a share proportional to the square root of its number
  of seeds, the allocation that settled most studies in simulations. Between planned looks nothing is claimed. If a
  study is extended in another way, it has left its plan, and the rate that the passed looks did not use is spent as
  above.

Rates are one-sided: the probability of a false claim at any of the looks if the true effect lies at the margin.
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
"""One-sided rate of false claims of a study, over all its looks."""
_DESIGN = ("seeds", "batch_sizes", "optimizers", "search")
"""Fields of a study file that determine the runs."""
_CLAIM = ("targets", "margins", "pairs", "primary")
"""Fields that determine the claims about the runs."""
_POWER = 0.8
_LEAST = 1e-6
"""Error rates below this count as zero: the shares of the planned looks add up to 1 up to rounding."""
_NO_LOOK = "no look is left: ask the question again in a new study, under a new name and with seeds not used here"


@dataclass(frozen=True, kw_only=True)
class Looks:
    """Possible looks at the results of a study, from the history of its design."""

    extensions: tuple[str, ...]
    """Description of each change of the design after results existed."""
    seeds_alone: bool
    """Whether all of these changes only added seeds."""
    changed: tuple[Caution, ...]
    """Changes of targets, margins, pairs or the primary claim after results existed; they make verdicts exploratory."""

    @property
    def count(self) -> int:
        """Number of possible looks, including the present one."""
        return len(self.extensions) + 1


@dataclass(frozen=True, kw_only=True)
class Level:
    """The error rate that a claim may use at the present look."""

    rate: float
    """One-sided error rate; 0 if nothing may be claimed at this look."""
    cautions: tuple[Caution, ...]
    """Cost of the looks in seeds, or the reason why nothing may be claimed."""


def compute_looks(specs: Mapping[str, Mapping[str, Any]], runs: pd.DataFrame, present: Mapping[str, Any]) -> Looks:
    """Return the possible looks at a study.

    Args:
        specs: every version of the study file that the directory was run with, as JSON-like data, by its hash.
        runs: runs of the study, with ``spec_hash`` and ``finished_at``; runs without a result have neither.
        present: the study file as it is now.
    """
    done = runs[runs["spec_hash"].isin(list(specs))]
    begun = done.groupby("spec_hash")["finished_at"].min().sort_values(kind="stable")
    history = [specs[str(name)] for name in begun.index]
    designs: list[Mapping[str, Any]] = []
    extensions, seeds_alone = [], True
    for spec in history:
        design = {table: spec.get(table) for table in _DESIGN}
        if design in designs:  # resumed with an earlier design
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
        looks: possible looks at the study.
        seeds: present number of seeds.
        planned: numbers of seeds at which looks were planned; empty if none were.
    """
    if planned and looks.seeds_alone:
        return _planned(seeds, planned)
    k = looks.count
    if k == 1:
        return Level(rate=RATE / 2, cautions=())
    # A study that left its plan spends the rate that its passed planned looks did not use, over looks 1, 2, ... since.
    spent = sum(planned_share(n, planned) for n in planned if n <= seeds)
    rate = RATE * (1 - spent) / ((k - 1) * k) if planned else RATE / (k * (k + 1))
    history = (
        f"There may have been {k} looks at this study: it was extended {_times(k - 1)} after results existed"
        f" ({'; '.join(looks.extensions)})."
    )
    if planned:
        history += f" That is more than the planned looks, which had {spent:.0%} of the error rate so far."
    if rate < _LEAST:
        fix = "Ask the question again in a new study, under a new name and with seeds not used here."
        text = f"{history} The whole error rate has been spent, so nothing is claimed now. {fix}"
        return Level(rate=0.0, cautions=(Caution(code="looks", text=text),))
    first = RATE / 2
    text = (
        f"{history} A claim now has an error rate of {rate:.2%} instead of {first:.2%}, which requires about"
        f" {_extra_seeds(first, rate):.0%} more seeds."
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
    """Return the share of the error rate that the planned look at `seeds` seeds may use."""
    return math.sqrt(seeds) / sum(math.sqrt(n) for n in planned)


def _extra_seeds(first: float, rate: float) -> float:
    """Return the relative increase in seeds that keeps the power at error rate `rate` equal to that at `first`."""
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
                f"`{table}` was {_short(before)} when the first results were made, and is {_short(after)} now. A choice"
                " made after results were known makes a verdict exploratory."
            )
            found.append(Caution(code="changed-after-results", text=text))
        elif before is None and after:
            text = f"`{table}` was added after the first results were made, so its verdicts are exploratory."
            found.append(Caution(code="changed-after-results", text=text))
    return tuple(found)


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} = {item}" for name, item in value.items() if item is not None) or "empty"
    return str(value)
