"""``OpenedStudy``: a study directory in Python. Loads neither torch nor Ray, and reads what is asked for."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from sensitivity.store.directory import Place, place
from sensitivity.store.manifest import Manifest, read_manifest
from sensitivity.store.sources import read_source
from sensitivity.study.errors import UserError
from sensitivity.study.session_code import MODULE
from sensitivity.study.spec import StudySpec

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from sensitivity.analysis.conclusions import Conclusion
    from sensitivity.analysis.evaluations import StoredTables
    from sensitivity.analysis.study_results import StudyResults
    from sensitivity.figures.exhibit import Computed

T = TypeVar("T")


def open_study(directory: str | os.PathLike[str]) -> OpenedStudy:
    """Open a study directory, finished or not.

    Args:
        directory: a path, or a URI such as ``s3://bucket/studies/mine``.

    Raises:
        UserError: there is no study, or it can't be read.
    """
    return opened(place(os.fspath(directory)))


def opened(directory: Place) -> OpenedStudy:
    """Return the study in a place.

    Raises:
        UserError: there is none, or it can't be read.
    """
    return OpenedStudy(_place=directory, _manifest=read_manifest(directory))


@dataclass(frozen=True)
class Verdict:
    """The answers to a study's two questions for every pair of optimizers that it compares."""

    conclusions: tuple[Conclusion, ...]
    """``conclusions[0].answer`` is "better", "worse", "equivalent" or "undetermined", and ``.effect`` the ratio with
    its interval. Those of a settlement stand above those of the study file's own design, and may be "blocked". Empty
    where the study has no target, or nothing to compare."""
    text: str
    """All of it in words, as ``sensitivity verdict`` prints it."""

    def __str__(self) -> str:
        """Return the text."""
        return self.text

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.text)}</pre>"


@dataclass(frozen=True)
class OpenedStudy:
    """A study directory. Tables are read when they are first asked for, and stay as they were then.

    Open the directory again to see what has been added since.
    """

    _place: Place
    _manifest: Manifest

    @property
    def name(self) -> str:
        """The name of the study."""
        return self._manifest.spec.name

    @property
    def directory(self) -> str:
        """Where it is kept: a path or a URI."""
        return self._place.uri

    @cached_property
    def spec(self) -> StudySpec:
        """The study as it was declared last, with the functions that it was given."""
        source = read_source(self._place, self._manifest.source)
        own = [module for module in source.modules if module.name == MODULE] if source is not None else []
        return self._manifest.spec.with_code(own[0].source.decode()) if own else self._manifest.spec

    @cached_property
    def _tables(self) -> StoredTables:
        from sensitivity.analysis.evaluations import read_tables

        return read_tables(self._place)

    @property
    def runs(self) -> pd.DataFrame:
        """One row per planned run: its hyperparameters (``param.lr``, ...), status, final metrics, notes."""
        return self._tables.runs

    def annotate(
        self, run: str, *, note: str | None = None, tags: Sequence[str] = (), untag: Sequence[str] = ()
    ) -> None:
        """Note something of a run; it is kept beside the results, and read as columns ``note`` and ``tags`` of `runs`.

        Open the study again to see it there.

        Args:
            run: its ``trial_id``.
            note: replaces the note that stands; empty to delete it, None to leave it.
            tags: to be added, such as ``["outlier"]``.
            untag: tags to be removed.

        Raises:
            UserError: there is no such run, the note is too long, a tag has a comma, or the place can't be written.
        """
        from sensitivity.store.ledger import settling_place
        from sensitivity.store.manifest import MANIFEST
        from sensitivity.store.notes import write_note

        for name, given in (("tags", tags), ("untag", untag)):
            if isinstance(given, str):  # whose letters would be the tags
                raise UserError(f"{name}: give a list, such as [{given!r}]; got one text")
        if run not in set(self.runs["trial_id"]):
            settled = settling_place(self._place)
            more = f"; the runs of its settlement are in {settled.uri}" if settled.exists(MANIFEST) else ""
            raise UserError(f"{self.name} has no run {run!r}\n  Give a `trial_id` of the table `runs`{more}")
        write_note(self._place, run, note=note, tags=tags, untag=untag)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """One row per evaluation of a run, ordered by ``trial_id`` and ``step``."""
        return self._tables.curves_of(self.runs["trial_id"])

    @cached_property
    def results(self) -> StudyResults:
        """Every analysis, computed when asked for: ``results.scaling("steps")``, ``results.maps``, ``results.prices``.

        ``results.under(target=("test_accuracy", 0.95))`` gives the same under another view.
        """
        from sensitivity.analysis.study_results import StudyResults

        return StudyResults(self._tables)

    def verdict(self) -> Verdict:
        """Return the answers to the study's two questions, for every pair of optimizers that it compares."""
        from sensitivity.figures.verdict_text import verdict_text

        results = self.results
        return Verdict(conclusions=results.conclusions, text=verdict_text(results))

    @property
    def exhibits(self) -> pd.DataFrame:
        """One row per figure or table of the study: its name, section, title, and the values of its options."""
        import pandas as pd

        from sensitivity.figures.catalogue import EXHIBITS

        rows = [
            {
                "name": exhibit.name,
                "section": exhibit.section,
                "title": exhibit.title,
                "options": {option: list(values) for option, values in exhibit.values(self.results).items()},
            }
            for exhibit in EXHIBITS
        ]
        return pd.DataFrame(rows).set_index("name")

    def figure(self, exhibit: str, **options: object) -> go.Figure:
        """Return a figure of the catalogue, as the report and the dashboard show it.

        Args:
            exhibit: its name in `exhibits`, such as "robustness".
            options: values by name, such as ``optimizer="kfac"``; those not given are the first of their values.

        Raises:
            UserError: there is no such exhibit, option or value, it is a table, or there is nothing to show yet.
        """
        from sensitivity.figures.theme import LIGHT

        figure = self._asked(exhibit, options, lambda shown: shown.figure(LIGHT))
        if figure is None:
            raise UserError(f"{exhibit} has no figure\n  `table({exhibit!r})` gives its numbers")
        return figure

    def table(self, exhibit: str, **options: object) -> pd.DataFrame:
        """Return the numbers behind an exhibit; arguments and errors are those of `figure`."""
        import pandas as pd

        data = self._asked(exhibit, options, lambda shown: shown.data)
        return pd.DataFrame([list(row) for row in data.rows], columns=list(data.columns))

    def _asked(self, exhibit: str, options: Mapping[str, object], ask: Callable[[Computed[Any]], T]) -> T:
        """Return what `ask` takes of an exhibit with its numbers."""
        from sensitivity.figures.catalogue import show
        from sensitivity.figures.nothing import NothingToShowError

        try:
            return ask(show(self.results, exhibit, **{name: str(value) for name, value in options.items()}))
        except NothingToShowError as error:
            raise UserError(f"{exhibit}: {error}") from None

    @property
    def _facts(self) -> dict[str, str]:
        """What is said of the study in a few words."""
        spec = self._manifest.spec
        statuses = self.runs["status"].value_counts()
        return {
            "": spec.description,
            "problem": f"{spec.problem_in_words()}, {spec.budget_in_words()}",
            "optimizers": ", ".join(spec.optimizers),
            "batch sizes": ", ".join(map(str, spec.batch_sizes)),
            "seeds": str(len(spec.seeds)),
            "runs": ", ".join(f"{count:,} {status}" for status, count in statuses.items()),
            "directory": self.directory,
        }

    def __repr__(self) -> str:
        facts = (f"  {name}: {text}" if name else f"  {text}" for name, text in self._facts.items() if text)
        return "\n".join([f"Study {self.name}", *facts])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
            for name, text in self._facts.items()
            if text
        )
        return f"<table><caption style='text-align:left'><b>Study {html.escape(self.name)}</b></caption>{rows}</table>"
