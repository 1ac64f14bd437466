"""The section that compares several studies: their answers in one table, and their scaling on common axes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import plotly.graph_objects as go

from sensitivity.analysis.conclusions import Conclusion
from sensitivity.analysis.names import optimizer_name
from sensitivity.analysis.scaling import ScalingCurve
from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.data import Data
from sensitivity.figures.exhibit import PAIR
from sensitivity.figures.exhibits.critical import critical_data, draw_critical
from sensitivity.figures.exhibits.scaling import draw_scaling, scaling_data
from sensitivity.figures.labels import interval_text, number, target_in_words
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.figures.tables import Table
from sensitivity.figures.theme import PLACEHOLDER
from sensitivity.report.embed import Figures
from sensitivity.report.parts import Exhibited, PageSection, Part

Groups = Mapping[str, Sequence[ScalingCurve]]


def labels(names: Sequence[str]) -> tuple[str, ...]:
    """Return one label per study: its name, numbered if several studies share it."""
    count, seen = Counter(names), Counter[str]()
    found = []
    for name in names:
        seen[name] += 1
        found.append(f"{name} ({seen[name]})" if count[name] > 1 else name)
    return tuple(found)


def comparison_section(studies: Mapping[str, StudyResults], figures: Figures) -> PageSection:
    """Return the section with the studies' answers in one table, and figures of all studies."""
    groups = {
        f"{label}: {target_in_words(results.target)}": curves
        for label, results in studies.items()
        if (curves := results.scaling())
    }
    return PageSection(
        id="comparison",
        title="The studies side by side",
        introduction=(
            "The sections of each study follow below. Studies may differ in more than one respect, and nothing here"
            " tests the difference between two of them."
        ),
        parts=(
            Exhibited(tables=tuple(table for table in (_answers(studies), _optimizers(studies)) if table)),
            *_drawn(
                figures, "critical-batch-size", lambda: draw_critical(groups, theme=PLACEHOLDER), groups, critical_data
            ),
            *_drawn(
                figures, "scaling", lambda: draw_scaling(groups, theme=PLACEHOLDER, several=True), groups, scaling_data
            ),
        ),
    )


def _drawn(
    figures: Figures, name: str, draw: Callable[[], go.Figure], groups: Groups, data: Callable[[Groups], Data]
) -> tuple[Part, ...]:
    try:
        figure = draw()
    except NothingToShowError:  # the sections of each study say why
        return ()
    return (Exhibited(embedded=figures.add(f"comparison-{name}", figure, data(groups))),)


def _answers(studies: Mapping[str, StudyResults]) -> Table:
    rows = []
    for label, results in studies.items():
        spec, total = results.spec, results.summary.total
        rows.append(
            [
                label, spec.problem_in_words(), spec.budget_in_words(),
                f"{total.completed + total.diverged:,}/{total.planned:,}",
                next(iter(PAIR.values(results).values()), "–"), target_in_words(results.target) or "–",
                _answer(results.conclusion("scaling")), _answer(results.conclusion("sensitivity")),
            ]
        )  # fmt: skip
    header = (
        "study", "problem", "budget", "runs with a result", "compared", "target", "scales further",
        "less sensitive",
    )  # fmt: skip
    return Table(caption="Answers of each study, with the effect.", header=header, rows=rows, text_columns=8)


def _answer(one: Conclusion | None) -> str:
    if one is None:
        return "–"
    return f"{one.answer}: {interval_text(one.effect)}" if one.effect.known else one.answer


def _optimizers(studies: Mapping[str, StudyResults]) -> Table:
    rows = []
    for label, results in studies.items():
        for curve in results.scaling():
            regions = [r for r in results.target_regions if r.optimizer == curve.optimizer and r.decades.known]
            sizes = ", ".join(
                f"{number(r.decades.value)}{'+' if r.touches else ''} at {r.batch_size:,}" for r in regions
            )
            critical = "–" if curve.critical is None else curve.critical.says
            rows.append([label, optimizer_name(curve.optimizer), critical, sizes or "–"])
    header = ("study", "optimizer", "critical batch size", "robust region in decades per dimension (+: at least)")
    caption = "Optimizers of each study, for its first target."
    return Table(caption=caption, header=header, rows=rows, text_columns=4)
