"""``OpenedStudy``: a study directory in Python. Loads neither torch nor Ray, and reads tables on first access."""

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
    """Open a study directory for reading, whether the study is finished or not.

    Example:
        ```python
        study = sensitivity.open("studies/quickstart")
        print(study.verdict())
        study.figure("robustness", optimizer="kfac")
        ```

    Args:
        directory: path or URI of the study directory, such as ``s3://bucket/studies/mine``.

    Returns:
        The study. Its tables are read on first access.

    Raises:
        UserError: the directory contains no study, or can't be read.
    """
    return opened(place(os.fspath(directory)))


def opened(directory: Place) -> OpenedStudy:
    """Return the study in `directory`.

    Raises:
        UserError: the directory contains no study, or can't be read.
    """
    return OpenedStudy(_place=directory, _manifest=read_manifest(directory))


@dataclass(frozen=True)
class Verdict:
    """Answers to a study's two questions, scaling and sensitivity, for every pair of optimizers that it compares."""

    conclusions: tuple[Conclusion, ...]
    """One per pair and question. ``answer`` is "better", "worse", "equivalent" or "undetermined", about the first
    optimizer of the pair; ``effect`` is the ratio of the two optimizers with its interval. The answer of a settlement,
    which may also be "blocked", takes precedence over that of the study file's own design. Empty if the study has no
    target or nothing to compare."""
    text: str
    """The answers in words, as ``sensitivity verdict`` prints them."""

    def __str__(self) -> str:
        """Return the text."""
        return self.text

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.text)}</pre>"


@dataclass(frozen=True)
class OpenedStudy:
    """A study directory: its tables, analyses and figures.

    Tables are read on first access and cached. Open the directory again to read results that were added later.
    `sensitivity.open`, `run`, `settle` and `import_runs` return it.
    """

    _place: Place
    _manifest: Manifest

    @property
    def name(self) -> str:
        """Name of the study."""
        return self._manifest.spec.name

    @property
    def directory(self) -> str:
        """Path or URI of the study directory."""
        return self._place.uri

    @cached_property
    def spec(self) -> StudySpec:
        """The study as last declared, including functions that were passed as Python objects."""
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
        """Attach a note and tags to a run.

        They are stored in the study directory, next to the results, and appear in the columns ``note`` and ``tags`` of
        `runs` when the study is opened again.

        Args:
            run: ``trial_id`` of the run.
            note: replaces the current note. An empty text deletes it, None leaves it unchanged.
            tags: tags to add, such as ``["outlier"]``.
            untag: tags to remove.

        Raises:
            UserError: there is no such run, the note is too long, a tag contains a comma, or the study directory can't
                be written.
        """
        from sensitivity.store.ledger import settling_place
        from sensitivity.store.manifest import MANIFEST
        from sensitivity.store.notes import write_note

        for name, value in (("tags", tags), ("untag", untag)):
            if isinstance(value, str):  # a string is a sequence of one-letter tags
                raise UserError(f"{name}: must be a list, such as [{value!r}]; got a string")
        if run not in set(self.runs["trial_id"]):
            settled = settling_place(self._place)
            more = f"; the runs of its settlement are in {settled.uri}" if settled.exists(MANIFEST) else ""
            raise UserError(f"{self.name} has no run {run!r}\n  Use a `trial_id` of the table `runs`{more}")
        write_note(self._place, run, note=note, tags=tags, untag=untag)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """One row per evaluation of a run, ordered by ``trial_id`` and ``step``."""
        return self._tables.curves_of(self.runs["trial_id"])

    @cached_property
    def results(self) -> StudyResults:
        """Every analysis of the study, computed on first access and cached.

        Examples are ``results.scaling("steps")``, ``results.maps`` and ``results.prices``. Each is a frozen dataclass
        of numbers with intervals. ``results.under(target=("test_accuracy", 0.95))`` returns the same analyses for
        another target, metric, or selection of runs.
        """
        from sensitivity.analysis.study_results import StudyResults

        return StudyResults(self._tables)

    def verdict(self) -> Verdict:
        """Return which optimizer scales further with batch size, and which is less sensitive to its hyperparameters.

        Returns:
            The answers for every pair of optimizers that the study compares; ``print`` shows them in words.
        """
        from sensitivity.figures.verdict_text import verdict_text

        results = self.results
        return Verdict(conclusions=results.conclusions, text=verdict_text(results))

    @property
    def exhibits(self) -> pd.DataFrame:
        """One row per figure or table that `figure` and `table` accept, indexed by name.

        Columns are ``section``, ``title`` and ``options``, a dictionary of the allowed values of each option.
        """
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
        """Return a figure, as the report and the dashboard show it.

        Example:
            ```python
            study.figure("robustness", optimizer="kfac").write_html("robustness.html")
            ```

        Args:
            exhibit: name in `exhibits`, such as "robustness".
            options: values by option name, such as ``optimizer="kfac"``. An option that is left out has the first of
                its allowed values.

        Returns:
            A Plotly figure.

        Raises:
            UserError: there is no such exhibit, option or value; the exhibit is a table; or the study has no results
                that it could show.
        """
        from sensitivity.figures.theme import LIGHT

        figure = self._computed(exhibit, options, lambda computed: computed.figure(LIGHT))
        if figure is None:
            raise UserError(f"{exhibit} has no figure\n  `table({exhibit!r})` returns its numbers")
        return figure

    def table(self, exhibit: str, **options: object) -> pd.DataFrame:
        """Return the numbers that an exhibit shows; arguments and errors are those of `figure`.

        Example:
            ```python
            study.table("robustness", optimizer="kfac").to_csv("robustness.csv")
            ```
        """
        import pandas as pd

        data = self._computed(exhibit, options, lambda computed: computed.data)
        return pd.DataFrame([list(row) for row in data.rows], columns=list(data.columns))

    def _computed(self, exhibit: str, options: Mapping[str, object], extract: Callable[[Computed[Any]], T]) -> T:
        """Compute an exhibit and return what `extract` takes from it."""
        from sensitivity.figures.catalogue import show
        from sensitivity.figures.nothing import NothingToShowError

        try:
            return extract(show(self.results, exhibit, **{name: str(value) for name, value in options.items()}))
        except NothingToShowError as error:
            raise UserError(f"{exhibit}: {error}") from None

    @property
    def _facts(self) -> dict[str, str]:
        """Lines of the representation, by label; the description has an empty one."""
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
