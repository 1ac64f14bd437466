"""Several studies side by side: their answers in one table, and their scaling on common axes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from sensitivity.analysis.claims import Claim
from sensitivity.analysis.scaling import ScalingCurve
from sensitivity.figures.exhibits.critical import draw_critical
from sensitivity.figures.exhibits.scaling import draw_scaling
from sensitivity.figures.labels import interval_text, number, optimizer_name
from sensitivity.report import tables
from sensitivity.report.blocks import drawn, section, themed
from sensitivity.report.embed import Figures
from sensitivity.report.figure_data import critical_data, scaling_data
from sensitivity.report.results import Results
from sensitivity.report.words import target_in_words


def labels(names: Sequence[str]) -> tuple[str, ...]:
    """Return a label a study: its name, numbered where several have the same."""
    count, seen = Counter(names), Counter[str]()
    found = []
    for name in names:
        seen[name] += 1
        found.append(f"{name} ({seen[name]})" if count[name] > 1 else name)
    return tuple(found)


def comparison_section(studies: Mapping[str, Results], figures: Figures) -> str:
    """Return the studies' answers in one table, and figures of all."""
    groups: dict[str, Sequence[ScalingCurve]] = {
        f"{label}: {target_in_words(results.verdicts)}": results.verdicts.curves
        for label, results in studies.items()
        if results.verdicts.curves
    }
    content = _answers(studies) + _optimizers(studies)
    content += drawn(
        figures, "comparison-critical-batch-size", themed(draw_critical, groups), partial(critical_data, groups)
    )
    content += drawn(
        figures, "comparison-scaling", themed(draw_scaling, groups, several=True), partial(scaling_data, groups)
    )
    introduction = (
        "Each study by itself is below. Studies may differ in more than one respect, and nothing here tests the"
        " difference between two of them."
    )
    return section("comparison", "The studies side by side", introduction, content)


def _answers(studies: Mapping[str, Results]) -> str:
    rows = []
    for label, results in studies.items():
        verdicts, spec, total = results.verdicts, results.spec, results.summary.total
        pair = " against ".join(map(optimizer_name, verdicts.pair)) if verdicts.pair else "–"
        rows.append(
            [
                label, f"{spec.problem.model}, {spec.problem.dataset}", spec.budget.words(),
                f"{total.completed + total.diverged:,}/{total.planned:,}", pair, target_in_words(verdicts) or "–",
                _answer(verdicts.claim("scaling")), _answer(verdicts.claim("sensitivity")),
            ]
        )  # fmt: skip
    header = (
        "study", "problem", "budget", "runs with a result", "compared", "target", "scales further",
        "less sensitive",
    )  # fmt: skip
    return tables.table("Answers of each study, with the effect.", header, rows, text_columns=8)


def _answer(claim: Claim | None) -> str:
    if claim is None:
        return "–"
    verdict = claim.verdict
    return f"{verdict.answer}: {interval_text(verdict.effect)}" if verdict.effect.known else verdict.answer


def _optimizers(studies: Mapping[str, Results]) -> str:
    rows = []
    for label, results in studies.items():
        for curve in results.verdicts.curves:
            regions = [r for r in results.verdicts.regions if r.optimizer == curve.optimizer and r.decades.known]
            sizes = ", ".join(
                f"{number(r.decades.value)}{'+' if r.touches else ''} at {r.batch_size:,}" for r in regions
            )
            critical = "–" if curve.critical is None else curve.critical.says
            rows.append([label, optimizer_name(curve.optimizer), critical, sizes or "–"])
    if not rows:
        return ""
    header = ("study", "optimizer", "critical batch size", "robust region in decades a dimension (+: at least)")
    return tables.table("Optimizers of each study, for its first target.", header, rows, text_columns=4)
