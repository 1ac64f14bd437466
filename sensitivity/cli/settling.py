"""The ``settle`` command: run until the study's questions have their answers, or a budget ends."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from rich.console import Console

from sensitivity.analysis.evaluations import read_tables
from sensitivity.analysis.study_results import StudyResults
from sensitivity.cli.display import plain_console, price_lines, shown
from sensitivity.cli.exit_codes import DONE, FAULT, STOPPED
from sensitivity.cli.json_output.base import json_text
from sensitivity.cli.json_output.settle import next_step_output, settle_output
from sensitivity.cli.limits import Limits
from sensitivity.cli.running import resume_command
from sensitivity.execution.messages import outcome_lines
from sensitivity.execution.prepare import prepare
from sensitivity.execution.settler import Budget
from sensitivity.execution.settling import NextStep, next_step, settle_study
from sensitivity.execution.study_run import Machines
from sensitivity.exporting.live import sending, targets_of
from sensitivity.figures.settled_words import settlement_summary, step_in_words
from sensitivity.figures.verdict_text import verdict_text
from sensitivity.store.directory import place
from sensitivity.study.amendments import PHASE_NAMES
from sensitivity.study.ledger import Ledger, LedgerEntry
from sensitivity.study.words import count, duration


def settle(
    study: str,
    *,
    storage: str,
    address: str | None,
    workers: int | None,
    limits: Limits,
    log: Sequence[str] | None,
    as_json: bool,
) -> int:
    """Settle a study, show each step, and return the exit code."""
    console = plain_console(stderr=as_json)
    plan = prepare(study)
    directory = place(storage).child(plan.spec.name)

    def show_entry(entry: LedgerEntry) -> None:
        line(step_in_words(entry))

    def line(text: str) -> None:
        console.print(text, soft_wrap=True)

    targets = targets_of(plan.spec, log)
    line(f"{plan.spec.name}: settling, in {directory.uri}")
    with sending(directory, targets, show=line) as sent:
        settled = settle_study(
            plan,
            directory,
            Machines(address=address, workers=workers),
            questions=limits.questions,
            budget=Budget(runs=limits.runs, flops=limits.flops, seconds=limits.seconds),
            show=lambda progress: shown(progress, console),
            on_entry=show_entry,
        )
        outcome = settled.outcome
        if not outcome.interrupted:
            sent.end()
    if as_json:
        print(json_text(settle_output(settled.ledger, interrupted=outcome.interrupted), indent=2))
    else:
        _print_outcome(settled.ledger, directory.uri, outcome_lines(outcome), console)
    if outcome.interrupted:
        again = resume_command("settle", study, storage=storage, address=address, workers=workers, log=log)
        print(f"stopped; every reported result is kept. To resume: {again}", file=sys.stderr)
        return STOPPED
    if not outcome.trained:
        print(f"error: no run of {outcome.study} could be trained; see the causes above", file=sys.stderr)
        return FAULT
    return DONE


def show_next_step(study: str, *, storage: str, workers: int | None, limits: Limits, as_json: bool) -> None:
    """Print the next step of a settlement and its price, without writing anything."""
    plan = prepare(study)
    found = next_step(plan, place(storage).child(plan.spec.name), questions=limits.questions, workers=workers)
    if as_json:
        print(json_text(next_step_output(found), indent=2))
        return
    console = plain_console()
    for line in _next_step_lines(found):
        console.print(line, soft_wrap=True)
    if found.price is not None:
        console.print("\n".join(price_lines(found.price)), soft_wrap=True)
        console.print(
            f"About {duration(found.price.device_seconds)} of device time,"
            f" {duration(found.price.wall_seconds)} with {found.price.workers} workers, without the start of Ray.",
            soft_wrap=True,
        )


def _next_step_lines(found: NextStep) -> Sequence[str]:
    step, name = found.step, found.ledger.declaration.study
    if step is None:
        return (f"{name}: {settlement_summary(found.ledger)}",)
    return (
        f"{name}: the next step is {step.number}, {PHASE_NAMES[step.phase].lower()}, {count(len(step.points), 'run')}.",
        step.why,
    )


def _print_outcome(ledger: Ledger, directory: str, lines: Sequence[str], console: Console) -> None:
    for text in lines:
        console.print(text, soft_wrap=True)
    if ledger.settlement is not None:
        console.print()
        console.print(verdict_text(StudyResults(read_tables(place(directory)))), soft_wrap=True)
        console.print()
    if ledger.entries:
        console.print(f"ledger:  sensitivity figure {shlex.quote(directory)} settling", soft_wrap=True)
    console.print(f"report:  sensitivity report {shlex.quote(directory)}", soft_wrap=True)
