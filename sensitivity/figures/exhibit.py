"""``Exhibit``: a figure or table of a study, declared once for report, dashboard, terminal and Python.

Each of them reads the values of an exhibit's options (which optimizer, which pair), computes the exhibit
(``computed``), and then draws it, shows its tables, or exports its data. An option that is a field of the view, such as
the metric, selects the study's results under another view.
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
"""Name of an option -> key of its value."""
Depends = Literal["filters", "metric", "tolerance", "target", "margins", "cells", "rows"]


@dataclass(frozen=True, kw_only=True)
class Option:
    """A choice that distinguishes the variants of an exhibit, such as the optimizer."""

    name: str
    """Name as an argument of ``figure``, and in addresses."""
    label: str
    """Text next to the control, such as "Time to target in"."""
    values: Callable[[StudyResults], Mapping[Any, str]]
    """Key -> label of each value that the results offer."""
    together: bool = False
    """Whether all values are shown below one another, as for optimizers and questions, rather than one at a time."""
    of_view: bool = False
    """Whether it is the field of ``View`` with this name, and defaults to the current view's value."""
    free: bool = False
    """Whether it has many values, each valid with any other option; only the first is shown by default."""
    why_empty: Callable[[StudyResults], str] = lambda _: NO_RESULT
    """Explains why there is nothing to show if the option has no values."""


@dataclass(frozen=True, kw_only=True)
class Exhibit(Generic[T]):
    """A figure or table of a study."""

    name: str
    """Name as an argument of ``sensitivity figure``, in addresses and in file names."""
    section: str
    """Section of the report, and therefore page of the dashboard, that shows it (``sections.SECTIONS``)."""
    title: str
    """What it shows; also the text alternative for screen readers."""
    compute: Callable[..., T]
    """Takes ``StudyResults`` and the options by name. Raises NothingToShowError if there is nothing to show."""
    draw: Callable[[T, Theme], go.Figure] | None = None
    data: Callable[[T], Data]
    """Returns the numbers behind it, for download."""
    tables: Callable[[T], Sequence[Table]] = lambda _: ()
    """Returns the tables that are shown, below the figure if there is one."""
    notes: Callable[[T], Sequence[str]] = lambda _: ()
    """Returns notes that the reader needs to interpret it."""
    options: tuple[Option, ...] = ()
    depends: tuple[Depends, ...]
    """Fields of the view that it depends on."""
    in_paper: bool = False
    """Whether `sensitivity paper` includes it."""
    choosable: bool = False
    """Whether its marks are cells that can be selected (``customdata`` holds their ids)."""
    of_runs: bool = False
    """Whether its marks are single runs (``customdata`` holds their ids). A page with a list of runs then applies the
    filters of the list to it, and opens the run of a mark that is clicked."""
    in_report: bool = True
    """Whether the report includes it; exhibits meant for interactive exploration are left out."""
    steps: tuple[Callable[[StudyResults], object], ...] = ()
    """For a slow exhibit: the answers that it needs. A page computes them one by one after it has shown the fast
    exhibits, so that a reader need not wait for all of them."""

    def cases(self, results: StudyResults) -> Iterator[dict[str, str]]:
        """Yield the options of each of its figures: all combinations of values, with only the first of free options."""
        values = [
            [(option.name, key) for key in option.values(results)][: 1 if option.free else None]
            for option in self.options
        ]
        yield from map(dict, itertools.product(*values))

    def values(self, results: StudyResults) -> dict[str, Mapping[str, str]]:
        """Return the values of each option: key -> label."""
        return {option.name: option.values(results) for option in self.options}


@dataclass(frozen=True)
class Computed(Generic[T]):
    """An exhibit with its computed numbers."""

    exhibit: Exhibit[T]
    result: T
    options: Options = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name that is unique in a study and valid as a file name."""
        return "-".join((self.exhibit.name, *self.options.values()))

    def figure(self, theme: Theme) -> go.Figure | None:
        """Return the figure, or None if the exhibit consists of tables only."""
        return None if self.exhibit.draw is None else self.exhibit.draw(self.result, theme)

    @property
    def data(self) -> Data:
        """The numbers behind it, for download."""
        return self.exhibit.data(self.result)

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables to show, without empty ones."""
        return tuple(table for table in self.exhibit.tables(self.result) if table)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes that the reader needs to interpret it, without repetitions."""
        return merged(self.exhibit.notes(self.result))


def computed(exhibit: Exhibit[T], results: StudyResults, /, **options: str) -> Computed[T]:
    """Compute an exhibit; options that are left out take their first value.

    Raises:
        NothingToShowError: there is nothing to show; the message says why.
        KeyError: the exhibit has no such option or value (``catalogue.show`` raises an error that lists the allowed
            ones).
    """
    unknown = [name for name in options if name not in {option.name for option in exhibit.options}]
    if unknown:
        raise KeyError(unknown[0])
    chosen: dict[str, str] = {}
    for option in exhibit.options:
        values = option.values(results)
        if not values:
            raise NothingToShowError(option.why_empty(results))
        chosen[option.name] = options.get(option.name, next(iter(values)))
        if chosen[option.name] not in values:
            raise KeyError(chosen[option.name])
    view_options = {option.name: chosen[option.name] for option in exhibit.options if option.of_view}
    rest = {name: key for name, key in chosen.items() if name not in view_options}
    return Computed(exhibit, exhibit.compute(results.under(**view_options), **rest), chosen)


# Options that several exhibits share.


def optimizers(results: StudyResults) -> Mapping[str, str]:
    """Return the optimizers in the current view: name -> label."""
    return {name: optimizer_name(name) for name in results.optimizers}


def metrics(results: StudyResults) -> Mapping[str, str]:
    """Return the metric of the current view, followed by the other metrics that have a value in some run."""
    return {metric.name: metric.label for metric in (results.metric, *results.metrics)}


def pairs(results: StudyResults) -> Mapping[str, str]:
    """Return the compared pairs, with that of the primary claim first."""
    return {key: " against ".join(map(optimizer_name, pair)) for key, pair in _keyed_pairs(results).items()}


def pair_of(results: StudyResults, key: str) -> tuple[str, str]:
    """Return the pair that belongs to the key of an option."""
    return _keyed_pairs(results)[key]


def _keyed_pairs(results: StudyResults) -> dict[str, tuple[str, str]]:
    """Return the pairs by key. Names may contain "-" but not "~", so the keys are unique."""
    times = Counter(map("-".join, results.pairs))
    return {("-" if times["-".join(pair)] == 1 else "~").join(pair): pair for pair in results.pairs}


OPTIMIZER = Option(name="optimizer", label="Optimizer", values=optimizers, together=True)
METRIC = Option(name="metric", label="Metric", values=metrics, of_view=True)
PAIR = Option(
    name="pair",
    label="Compared",
    values=pairs,
    why_empty=lambda results: " ".join(caution.text for caution in results.why_not) or NO_RESULT,
)
