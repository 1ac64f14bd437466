"""``Exhibit``: one thing that a study shows, declared once for report, dashboard, terminal and Python.

A face asks an exhibit for the values of its options (which optimizer, which pair), computes it (``computed``), and
draws it, shows its tables, or hands out its data. An option that is a field of the view, such as the metric, is the
study's results under another view.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import plotly.graph_objects as go

from sensitivity.analysis.names import merged, optimizer_name
from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.data import Data
from sensitivity.figures.nothing import NO_RESULT, NothingToShowError
from sensitivity.figures.tables import Table
from sensitivity.figures.theme import Theme

T = TypeVar("T")
Options = Mapping[str, str]
"""Name of an option -> the key of its value."""
Depends = Literal["filters", "metric", "tolerance", "target", "margins", "cells", "rows"]


@dataclass(frozen=True, kw_only=True)
class Option:
    """Something in which the cases of an exhibit differ."""

    name: str
    """As an argument of ``figure``, and in an address."""
    label: str
    """What is chosen, such as "Time to target in"."""
    values: Callable[[StudyResults], Mapping[Any, str]]
    """Key -> label of each value that the results have."""
    together: bool = False
    """Whether all values are shown below each other, rather than one at a time; such are optimizers and questions."""
    of_view: bool = False
    """Whether it is the field of ``View`` of this name, whose value is what is looked at unless another is given."""
    free: bool = False
    """Whether its values are many and go with any of the others: what is shown unasked has the first."""
    none: Callable[[StudyResults], str] = lambda _: NO_RESULT
    """Why there is nothing to show where it has no value."""


@dataclass(frozen=True, kw_only=True)
class Exhibit(Generic[T]):
    """What a study shows of one thing."""

    name: str
    """As an argument of ``sensitivity figure``, in addresses and file names."""
    section: str
    """The section of the report, and so the page of the dashboard, that it belongs to (``catalogue.SECTIONS``)."""
    title: str
    """What it shows, for those who can't see it."""
    compute: Callable[..., T]
    """Of ``StudyResults`` and the options by name. Raises NothingToShowError where there is nothing."""
    draw: Callable[[T, Theme], go.Figure] | None = None
    data: Callable[[T], Data]
    """The numbers behind it, to be taken away."""
    tables: Callable[[T], Sequence[Table]] = lambda _: ()
    """What is shown as a table, below the figure if there is one."""
    notes: Callable[[T], Sequence[str]] = lambda _: ()
    """What has to be known to read it."""
    options: tuple[Option, ...] = ()
    depends: tuple[Depends, ...]
    """What of the view it shows."""
    in_paper: bool = False
    """Whether `sensitivity paper` prints it."""
    choosable: bool = False
    """Whether its marks are cells that can be chosen (``customdata`` is their ids)."""
    of_runs: bool = False
    """Whether its marks are single runs (``customdata`` is their ids), so that a page with a list of runs narrows it as
    the list is, and opens the run of a mark."""
    in_report: bool = True
    """Whether a report shows it; what is explored by its options is left to the other faces."""
    steps: tuple[Callable[[StudyResults], object], ...] = ()
    """Of one that takes long: the answers that it needs, which a page computes one after the other once it has shown
    what is quick, so that nobody waits for all of them."""

    def cases(self, results: StudyResults) -> Iterator[dict[str, str]]:
        """Yield the options of each of its figures: every combination of their values, of free ones the first."""
        values = [
            [(option.name, key) for key in option.values(results)][: 1 if option.free else None]
            for option in self.options
        ]
        yield from map(dict, itertools.product(*values))

    def values(self, results: StudyResults) -> dict[str, Mapping[str, str]]:
        """Return the values of each option, key -> label."""
        return {option.name: option.values(results) for option in self.options}


@dataclass(frozen=True)
class Computed(Generic[T]):
    """An exhibit with its numbers."""

    exhibit: Exhibit[T]
    result: T
    options: Options = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A name that is unique in a study and can be a file's."""
        return "-".join((self.exhibit.name, *self.options.values()))

    def figure(self, theme: Theme) -> go.Figure | None:
        """Return the figure; None of an exhibit that is tables alone."""
        return None if self.exhibit.draw is None else self.exhibit.draw(self.result, theme)

    @property
    def data(self) -> Data:
        """The numbers behind it."""
        return self.exhibit.data(self.result)

    @property
    def tables(self) -> tuple[Table, ...]:
        """What is shown as tables; none that is empty."""
        return tuple(table for table in self.exhibit.tables(self.result) if table)

    @property
    def notes(self) -> tuple[str, ...]:
        """What has to be known to read it, each once."""
        return merged(self.exhibit.notes(self.result))


def computed(exhibit: Exhibit[T], results: StudyResults, /, **options: str) -> Computed[T]:
    """Return an exhibit with its numbers; options that are not given have their first value.

    Raises:
        NothingToShowError: there is nothing to show, and why.
        KeyError: an option or a value that the exhibit doesn't have (``catalogue.figure`` tells what is allowed).
    """
    unknown = [name for name in options if name not in {option.name for option in exhibit.options}]
    if unknown:
        raise KeyError(unknown[0])
    chosen: dict[str, str] = {}
    for option in exhibit.options:
        values = option.values(results)
        if not values:
            raise NothingToShowError(option.none(results))
        chosen[option.name] = options.get(option.name, next(iter(values)))
        if chosen[option.name] not in values:
            raise KeyError(chosen[option.name])
    looked_at = {option.name: chosen[option.name] for option in exhibit.options if option.of_view}
    rest = {name: key for name, key in chosen.items() if name not in looked_at}
    return Computed(exhibit, exhibit.compute(results.under(**looked_at), **rest), chosen)


# Options that several exhibits have.


def optimizers(results: StudyResults) -> Mapping[str, str]:
    """Return the optimizers that are looked at, by name."""
    return {name: optimizer_name(name) for name in results.optimizers}


def metrics(results: StudyResults) -> Mapping[str, str]:
    """Return the metric that is looked at, then the others that some run has a value of."""
    return {metric.name: metric.label for metric in (results.metric, *results.metrics)}


def pairs(results: StudyResults) -> Mapping[str, str]:
    """Return the pairs that are compared, that of the primary claim first."""
    return {key: " against ".join(map(optimizer_name, pair)) for key, pair in _keyed_pairs(results).items()}


def pair_of(results: StudyResults, key: str) -> tuple[str, str]:
    """Return the pair that an option's key names."""
    return _keyed_pairs(results)[key]


def _keyed_pairs(results: StudyResults) -> dict[str, tuple[str, str]]:
    """Return the pairs by key; names may have a "-" too, but no "~", so that no two pairs share one."""
    times = Counter(map("-".join, results.pairs))
    return {("-" if times["-".join(pair)] == 1 else "~").join(pair): pair for pair in results.pairs}


OPTIMIZER = Option(name="optimizer", label="Optimizer", values=optimizers, together=True)
METRIC = Option(name="metric", label="Metric", values=metrics, of_view=True)
PAIR = Option(
    name="pair",
    label="Compared",
    values=pairs,
    none=lambda results: " ".join(caution.text for caution in results.why_not) or NO_RESULT,
)
