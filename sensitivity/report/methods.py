"""The methods section of a paper: every fact of a study's protocol, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from sensitivity.analysis.draws import prior_in_words
from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.exhibits.settling import SETTLING
from sensitivity.figures.labels import (
    count,
    number,
    optimizer_name,
    parameter_name,
    target_in_words,
    target_label,
)
from sensitivity.figures.settled_words import settlement_summary
from sensitivity.figures.verdict_words import answers
from sensitivity.report.story import design_sentences, status_sentences
from sensitivity.study.amendments import PHASE_NAMES
from sensitivity.study.ledger import Ledger
from sensitivity.study.metrics import METRICS

_NO_FACTS = ("kind", "design_seed", "schedule", "problem", "evaluation")
"""Fields of an optimizer that are described elsewhere."""


def methods(results: StudyResults) -> tuple[str, ...]:
    """Return paragraphs on how the study was run and judged."""
    ledger = results.tables.ledger
    settled = () if ledger is None else (" ".join(_settlement(ledger)),)
    return (" ".join(_protocol(results)), *settled, " ".join(_judgement(results)), " ".join(_provenance(results)))


def _protocol(results: StudyResults) -> Iterator[str]:
    spec = results.spec
    yield design_sentences(spec, begun=results.summary.begun)
    for name, arm in spec.optimizers.items():
        axes = arm.axes()
        drawn = tuple(parameter for parameter, axis in axes.items() if axis.varies)
        fixed = {
            parameter_name(parameter): number(axis.grid()[0], 4) for parameter, axis in axes.items() if not axis.varies
        }
        rest = {key: value for key, value in _declared(arm) if key not in axes and key not in _NO_FACTS}
        searched = f": {prior_in_words(axes, results.searched, drawn)}" if drawn else ""
        yield f"{optimizer_name(name)}{searched}; {_listed({**fixed, **rest})}."
    sections = {
        "The problem": spec.problem, "The schedule of the learning rate": spec.schedule, "Evaluation": spec.evaluation,
    }  # fmt: skip
    for title, section in sections.items():
        if section is not None:
            yield f"{title}: {_listed(dict(_declared(section)))}."
    yield (
        "An epoch is as many examples as the training set has, taken from an endless stream of shuffled passes."
        " A run diverges when its loss is not finite or exceeds the bound above; it then counts as the untrained"
        " network, and never reaches a target."
    )
    if spec.problem is not None:
        yield (
            "A seed fixes the initial parameters and the order of examples in that stream, so runs with the same seed"
            " are paired, whatever their optimizer, batch size and hyperparameters."
        )


def _settlement(ledger: Ledger) -> Iterator[str]:
    """Yield sentences on what a settlement ran, phase by phase."""
    yield settlement_summary(ledger)
    for phase, name in PHASE_NAMES.items():
        steps = [entry for entry in ledger.entries if entry.step.phase == phase]
        runs = sum(entry.cost.runs for entry in steps)
        if runs:
            by_arm: Counter[str] = Counter()
            for entry in steps:
                by_arm.update(entry.step.runs_by_arm)
            arms = ", ".join(f"{optimizer_name(arm)} {n:,}" for arm, n in by_arm.items())
            yield f"{name}: {count(runs, 'run')} in {count(len(steps), 'step')} ({arms})."
    yield from SETTLING.notes(ledger)


def _judgement(results: StudyResults) -> Iterator[str]:
    spec = results.spec
    targets = [target_label(METRICS[name], level) for name, level in results.targets]
    if targets:
        yield f"Targets: {', '.join(targets)}. The verdict is on {target_in_words(results.target)}."
    margins = spec.margins
    yield (
        f"Critical batch sizes that differ by less than a factor of {margins.scaling_ratio:g}, and expected numbers of"
        f" trials that differ by less than a factor of {margins.tuning_ratio:g}, count as equal."
    )
    yield from dict.fromkeys(f"{answer.question} {answer.role}" for answer in answers(results))
    if results.summary.begun or results.tables.ledger is None:
        yield status_sentences(results.summary)
    for caution in (*results.look_cautions, *results.cautions):
        yield caution.text


def _provenance(results: StudyResults) -> Iterator[str]:
    manifest, settling = results.manifest, results.tables.settling_runs
    made = [results.tables.runs, *([] if settling is None else [settling])]
    for column, words in (("code_version", "code"), ("device", "devices"), ("host", "hosts")):
        values = ", ".join(dict.fromkeys(str(value) for runs in made for value in runs[column].dropna()))
        if values:
            yield f"Runs were made with {words} {values}." if words == "code" else f"On the {words} {values}."
    entry: Mapping[str, Any] = manifest.specs.get(manifest.spec_hash, {})
    for title in ("machine", "packages"):
        if facts := entry.get(title):
            yield f"{title.capitalize()}: {_listed(facts)}."
    if manifest.determinism is not None:
        yield f"Checked: {manifest.determinism['sentence']}."
    yield f"The hash of the study is {manifest.spec_hash}."


def _declared(section: Any) -> Iterator[tuple[str, Any]]:
    """Yield the fields with a value in a table of the study file."""
    for name, value in section.model_dump(mode="json").items():
        if value not in (None, [], {}, ()):
            yield name, value


def _listed(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{str(name).replace('_', ' ')} {_value(value)}" for name, value in facts.items())


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return f"({_listed(value)})"
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return number(value, 4) if isinstance(value, float) else str(value)
