"""Comparison of two or more optimizers: performance profiles, and the evidence behind the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from sensitivity.analysis.intervals import exponential
from sensitivity.analysis.paired import PairedComparison
from sensitivity.analysis.profiles import PerformanceProfile
from sensitivity.analysis.study_results import StudyResults
from sensitivity.analysis.verdict import Verdict
from sensitivity.figures.axes import add_panel_title
from sensitivity.figures.data import Data, Value, estimated
from sensitivity.figures.exhibit import PAIR, Exhibit, Option, pair_of
from sensitivity.figures.exhibits.scaling import UNIT, UNIT_WORDS
from sensitivity.figures.labels import count, level_in_words, number, optimizer_label
from sensitivity.figures.nothing import NO_TARGET, NothingToShowError
from sensitivity.figures.panels import log_axis, make_panels
from sensitivity.figures.theme import LIGHT, Theme
from sensitivity.study.primary import Question

_MAX_LOG_RATIO = math.log(1e3)
"""Log ratios are clipped to ± this value in figures."""


def draw_profiles(profiles: Sequence[PerformanceProfile], *, theme: Theme = LIGHT) -> go.Figure:
    """Draw performance profiles: the share of cases solved within a factor of the best time.

    Raises:
        NothingToShowError: no profile has a case.
    """
    shown = [profile for profile in profiles if profile.cases]
    if not shown:
        raise NothingToShowError("No target has been reached yet at a batch size that all optimizers share.")
    panels = make_panels(1, columns=1, height=320)
    end = max(max(profile.factors) for profile in shown) * 1.15
    for position, profile in enumerate(shown):
        style, name = theme.style(position), optimizer_label(profile.optimizer)
        factors, share = [*profile.factors, end], [*profile.share, profile.share[-1]]
        panels.figure.add_trace(
            go.Scatter(
                x=factors,
                y=share,
                mode="lines",
                name=name,
                line={"shape": "hv", "color": style.colour, "width": 2.5, "dash": style.dash},
                hovertext=[
                    f"<b>{name}</b><br>within {number(factor, 3)} times the best on {value:.0%} of"
                    f" {count(profile.cases, 'case')}<br>{profile.solved:,} reached at all"
                    for factor, value in zip(factors, share, strict=True)
                ],
                hoverinfo="text",
            )
        )
    axis = log_axis([1.0, end], pad=0.0)
    panels.figure.update_xaxes(**axis, title_text="within this factor of the best time")
    panels.figure.update_yaxes(range=[-0.02, 1.04], tickformat=".0%", title_text="share of the cases")
    first = shown[0]
    left_out = f"{first.unsolved_by_all:,} reached by none are left out" if first.unsolved_by_all else ""
    return panels.finish(
        theme,
        f"Performance profile in {UNIT_WORDS[first.unit]} to the target",
        [f"n = {count(first.cases, 'case')} (batch sizes × targets)", left_out, "a description, without an interval"],
        panel_width=560,
    )


def draw_verdict(verdict: Verdict, *, theme: Theme = LIGHT) -> go.Figure:
    """Draw the evidence behind an answer: paired differences by seed, their mean with its interval, and the margin.

    Raises:
        NothingToShowError: the verdict has no comparison.
    """
    pooled = (verdict.primary,) if verdict.primary else ()
    comparisons = [*pooled, *verdict.by_batch]
    if not comparisons:
        # Missing runs are reported next to the figure, with advice that depends on whether the study is running.
        why = next((f" {reason.text}" for reason in verdict.reasons if reason.code != "incomplete"), "")
        raise NothingToShowError(f"There is no comparison by seeds on {verdict.question} to draw.{why}")
    scaling = verdict.question == "scaling"
    one, other = optimizer_label(verdict.candidate), optimizer_label(verdict.reference)
    # Ratios of critical batch sizes and of times point in opposite directions, so they have separate axes.
    shown = [list(group) for group in (pooled, verdict.by_batch) if group] if scaling else [comparisons]
    panels = make_panels(len(shown), columns=2, height=max(150, 42 * max(map(len, shown)) + 40), shared_y=False)
    for (row, column), group in zip(panels.places(), shown, strict=True):
        neutral, margin = 1.0, _ratio(group[0].margin)
        low = 1 / margin
        for trace in _forest(group, theme):
            trace.showlegend = bool(trace.name) and (row, column) == (1, 1)
            panels.figure.add_trace(trace, row=row, col=column)
        panels.figure.add_vrect(
            x0=low, x1=margin, fillcolor=theme.grid, opacity=0.6, line_width=0, layer="below", row=row, col=column
        )
        panels.figure.add_vline(x=neutral, line={"color": theme.muted, "width": 1}, row=row, col=column)
        labels = [_where(comparison) for comparison in group]
        values = [_ratio(value) for c in group for value in (*c.differences, *_ends(c))] + [low, margin]
        panels.figure.update_yaxes(
            type="category",
            categoryorder="array",
            categoryarray=labels[::-1],
            range=[-0.6, len(labels) - 0.4],
            row=row,
            col=column,
        )
        of_sizes = group[0].batch_size is None
        if scaling:
            axis_title = "critical batch size" if of_sizes else "steps to the target"
            title = f"Further right: {one} {'scales further' if of_sizes else 'is slower'}"
        else:
            axis_title = "trials until a sampled setting works"
            title = f"Further right: {one} is more sensitive"
        panels.figure.update_xaxes(**log_axis(values), title_text=f"{axis_title}: {one} / {other}", row=row, col=column)
        add_panel_title(panels.figure, title, row, column)
    n = max(comparison.n for comparison in comparisons)
    question = "scaling with batch size" if scaling else "sensitivity to hyperparameters"
    return panels.finish(
        theme,
        f"{one} against {other}: the evidence on {question}",
        [
            f"n = {count(n, 'seed' if scaling else comparisons[0].effect.of.removesuffix('s'))}, paired",
            "dots: seeds" if scaling else "dots: contributions to the ratio, to first order",
            f"diamond and line: mean and {level_in_words(verdict.alpha)} interval"
            f" ({'Student' if scaling else 'Fieller'}'s)",
            "shaded: within the margin, equivalent",
        ],
        panel_width=440,
        left=120,
    )


def _ratio(log_ratio: float) -> float:
    return math.exp(min(max(log_ratio, -_MAX_LOG_RATIO), _MAX_LOG_RATIO))


def _words(comparison: PairedComparison, value: float) -> str:
    """Return a difference in words; for a difference of logarithms, the ratio."""
    if not comparison.label.startswith("log "):
        return number(value, 3)
    return number(exponential(value), 3)


def _ends(comparison: PairedComparison) -> tuple[float, ...]:
    return tuple(end for end in comparison.effect.interval or () if math.isfinite(end))


def _where(comparison: PairedComparison) -> str:
    return "all batch sizes" if comparison.batch_size is None else f"batch {comparison.batch_size:,}"


def _forest(group: Sequence[PairedComparison], theme: Theme) -> list[go.Scatter]:
    style = theme.style(0)
    dots = go.Scatter(
        x=[_ratio(value) for comparison in group for value in comparison.differences],
        y=[_where(comparison) for comparison in group for _ in comparison.differences],
        mode="markers",
        name="a seed",
        marker={"size": 7, "color": theme.muted, "opacity": 0.65},
        hovertext=[
            f"seed {seed}: {_words(comparison, value)}"
            for comparison in group
            for seed, value in zip(comparison.seeds, comparison.differences, strict=True)
        ],
        hoverinfo="text",
    )
    traces = [dots]
    for comparison in group:
        ends = [_ratio(end) for end in _ends(comparison)]
        traces.append(
            go.Scatter(
                x=ends,
                y=[_where(comparison)] * len(ends),
                mode="lines",
                line={"color": style.colour, "width": 3},
                hoverinfo="skip",
            )
        )
    traces.append(
        go.Scatter(
            x=[_ratio(comparison.effect.value) for comparison in group],
            y=[_where(comparison) for comparison in group],
            mode="markers",
            name="mean over seeds",
            marker={"symbol": "diamond", "size": 12, "color": style.colour, "line": {"width": 1, "color": theme.paper}},
            hovertext=[_hover(comparison) for comparison in group],
            hoverinfo="text",
        )
    )
    return traces


def _hover(comparison: PairedComparison) -> str:
    lines = [f"<b>{_where(comparison)}</b>", f"mean {_words(comparison, comparison.effect.value)}"]
    if comparison.effect.interval:
        low, high = (_words(comparison, end) for end in comparison.effect.interval)
        lines.append(f"95% interval {low} to {high}")
    lines.append(f"n = {count(comparison.n, 'seed')}")
    p = comparison.p if math.isnan(comparison.p_holm) else comparison.p_holm
    test = "p beyond the margin" if comparison.label.startswith("log expected trials") else "sign-flip p"
    lines.append("nothing to test" if math.isnan(p) else f"{test} = {p:.2g}")
    lines.append(comparison.answer)
    return "<br>".join(lines)


def verdict_data(verdict: Verdict) -> Data:
    """Return the paired differences of each seed and their mean."""
    rows: list[tuple[Value, ...]] = []
    for c in (*((verdict.primary,) if verdict.primary else ()), *verdict.by_batch):
        at = (c.label, "all" if c.batch_size is None else str(c.batch_size))
        rows += [
            (*at, f"seed {seed}", value, None, None, None, None, None)
            for seed, value in zip(c.seeds, c.differences, strict=True)
        ]
        p = c.p if math.isnan(c.p_holm) else c.p_holm
        rows.append((*at, "mean", *estimated(c.effect)[:3], p, c.p_equivalence, c.answer))
    return Data(
        columns=("what", "batch_size", "row", "difference", "low", "high", "p", "p_equivalence", "answer"), rows=rows
    )


def profile_data(profiles: Sequence[PerformanceProfile]) -> Data:
    """Return the points of performance profiles."""
    return Data(
        columns=("optimizer", "unit", "factor", "share", "cases"),
        rows=[
            (p.optimizer, p.unit, factor, share, p.cases)
            for p in profiles
            for factor, share in zip(p.factors, p.share, strict=True)
        ],
    )


QUESTIONS: dict[Question, str] = {"scaling": "scaling with batch size", "sensitivity": "sensitivity"}


def compute_evidence(results: StudyResults, pair: str, question: str) -> Verdict:
    """Return the verdict on a pair and a question.

    Raises:
        NothingToShowError: there is no such verdict.
    """
    named = next(name for name in QUESTIONS if name == question)
    claim = results.claim(named, pair_of(results, pair))
    if claim is None:
        raise NothingToShowError(" ".join(caution.text for caution in results.why_not) or NO_TARGET)
    return claim.verdict


def compute_all_profiles(results: StudyResults, unit: str) -> tuple[PerformanceProfile, ...]:
    """Return the performance profiles of two or more optimizers.

    Raises:
        NothingToShowError: there is no target, or only one optimizer.
    """
    if not results.targets:
        raise NothingToShowError(NO_TARGET)
    if len(results.optimizers) < 2:
        raise NothingToShowError("A performance profile compares two or more optimizers; there is only one here.")
    return results.profiles(next(name for name in UNIT_WORDS if name == unit))


EVIDENCE = Exhibit(
    in_paper=True,
    name="verdict",
    section="answers",
    title="The evidence behind the verdict",
    compute=compute_evidence,
    draw=lambda verdict, theme: draw_verdict(verdict, theme=theme),
    data=verdict_data,
    options=(PAIR, Option(name="question", label="Question", values=lambda _: QUESTIONS, together=True)),
    depends=("filters", "metric", "tolerance", "target", "margins"),
)
PROFILES = Exhibit(
    name="profiles",
    section="scaling",
    title="Performance profiles over batch sizes and targets",
    compute=compute_all_profiles,
    draw=lambda profiles, theme: draw_profiles(profiles, theme=theme),
    data=profile_data,
    options=(UNIT,),
    depends=("filters", "target"),
)
