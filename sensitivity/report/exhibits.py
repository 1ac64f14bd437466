"""Exhibits in the page: the whole catalogue, with every value of its options.

The values of an option are shown below one another (``Option.together``) or behind tabs. To keep the file small, values
behind tabs are not combined: each is shown with the first value of the other options, and only two metrics are shown if
a study has very many cells.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from sensitivity.analysis.names import merged
from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures import catalogue
from sensitivity.figures.exhibit import METRIC, Computed, Exhibit, Option, computed
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.figures.sections import Section
from sensitivity.figures.theme import PLACEHOLDER
from sensitivity.report.embed import Figures
from sensitivity.report.parts import Exhibited, Nothing, PageSection, Part, View, tabs

_MAX_CELLS = 5_000
"""Cells of one metric beyond which only two metrics are shown: 5,000 cells take about 0.3 MB."""
_FEW_METRICS = 2


@dataclass(frozen=True)
class Shown:
    """Parts of an exhibit, and reasons why others are missing."""

    parts: tuple[Part, ...] = ()
    why_not: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """Notes that apply even if there are no parts."""


@dataclass(frozen=True)
class StudyPage:
    """A study that is being written to a page."""

    results: StudyResults
    figures: Figures
    prefix: str = ""
    """Prefix of names in the page, which must be unique among several studies."""
    shown_reasons: set[str] = field(default_factory=set)
    """Reasons for having nothing to show that the current section already contains."""

    def section(self, section: Section) -> PageSection:
        """Return a section with its exhibits."""
        return PageSection(
            id=self.prefix + section.name,
            title=section.title,
            short=section.short,
            introduction=section.introduction(self.results),
            parts=self.exhibits(section.name),
        )

    def exhibits(self, section: str, *, switched: Collection[str] = ()) -> tuple[Part, ...]:
        """Return the exhibits of a section; options that are `switched` elsewhere have no buttons here."""
        self.shown_reasons.clear()
        parts: list[Part] = []
        for exhibit in (each for each in catalogue.of_section(section) if each.in_report):
            shown = self._show(exhibit, {}, switched)
            parts += [*shown.parts, *self._new_reasons(shown.why_not)]
            parts += [Exhibited(notes=shown.notes)] if shown.notes else []
            if METRIC in exhibit.options and shown.parts:
                parts += self._left_out()
        return tuple(parts)

    def _show(self, exhibit: Exhibit[Any], chosen: Mapping[str, str], switched: Collection[str]) -> Shown:
        option = next((option for option in exhibit.options if option.name not in chosen), None)
        if option is None:
            return self._computed(exhibit, chosen)
        values = self._values(option)
        if not values:
            return Shown(why_not=(option.why_empty(self.results),))
        if not option.together and self._is_secondary_case(exhibit, chosen):
            values = dict(list(values.items())[:1])
        found = {key: self._show(exhibit, {**chosen, option.name: key}, switched) for key in values}
        there = {key: shown for key, shown in found.items() if shown.parts}
        if not there and not option.together:
            return next(iter(found.values()))
        if not there:
            several = found.values()
            return Shown(
                why_not=merged(text for shown in several for text in shown.why_not),
                notes=merged(text for shown in several for text in shown.notes),
            )
        if option.together:
            why_not = [_named(values[key], text) for key, shown in found.items() for text in shown.why_not]
            return Shown(tuple(part for shown in there.values() for part in shown.parts), tuple(why_not))
        views = [
            View(key, values[key], (*shown.parts, *self._new_reasons(shown.why_not))) for key, shown in there.items()
        ]
        group = self.prefix + option.name
        return Shown(tabs(group, option.label, views, switch=option.name not in switched))

    def _computed(self, exhibit: Exhibit[Any], chosen: Mapping[str, str]) -> Shown:
        try:
            found = computed(exhibit, self.results, **chosen)
        except NothingToShowError as error:
            return Shown(why_not=(str(error),))
        return exhibited(found, self.figures, self.prefix)

    def _is_secondary_case(self, exhibit: Exhibit[Any], chosen: Mapping[str, str]) -> bool:
        tabbed = (option for option in exhibit.options if option.name in chosen and not option.together)
        return any(chosen[option.name] != next(iter(option.values(self.results))) for option in tabbed)

    def _values(self, option: Option) -> Mapping[str, str]:
        values = option.values(self.results)
        if option is not METRIC or not self._many_cells():
            return values
        return dict(list(values.items())[:_FEW_METRICS])

    def _many_cells(self) -> bool:
        return sum(len(map_.cells) for map_ in self.results.maps) > _MAX_CELLS

    def _left_out(self) -> tuple[Part, ...]:
        shown = self._values(METRIC)
        left = [label for key, label in METRIC.values(self.results).items() if key not in shown]
        if not left:
            return ()
        text = (
            f"To keep this file small, {' and '.join(left)} are left out here; the dashboard and `sensitivity figure`"
            " have them."
        )
        return (Exhibited(notes=(text,)),)

    def _new_reasons(self, texts: Collection[str]) -> tuple[Part, ...]:
        """Return the reasons why there is nothing to show, without those that the section already contains."""
        new = tuple(text for text in dict.fromkeys(texts) if text not in self.shown_reasons)
        self.shown_reasons.update(new)
        return (Nothing(new),) if new else ()


def exhibited(found: Computed[Any], figures: Figures, prefix: str = "") -> Shown:
    """Return an exhibit's figure with data, tables and notes, and the reason if there is no figure."""
    name, tables, notes = prefix + found.name, found.tables, found.notes
    try:
        figure, why_not = found.figure(PLACEHOLDER), ""
    except NothingToShowError as error:
        figure, why_not = None, str(error)
        notes = tuple(text for text in notes if text not in why_not)
    reasons = (why_not,) if why_not else ()
    if figure is None and not tables:
        return Shown(why_not=reasons, notes=notes)
    embedded = figures.add_data(name, found.data) if figure is None else figures.add(name, figure, found.data)
    return Shown((Exhibited(embedded=embedded, tables=tables, notes=notes),), reasons)


def _named(label: str, text: str) -> str:
    """Return the reason why one of several is missing, with its label if the text doesn't contain it."""
    return text if label.lower() in text.lower() else f"{label}: {text}"
