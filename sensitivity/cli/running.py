"""The ``run`` command: run the missing runs of a study, and print where the results are."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from rich.console import Console

from sensitivity.cli.display import plain_console, shown
from sensitivity.cli.exit_codes import DONE, FAULT, STOPPED
from sensitivity.cli.json_output.base import json_text
from sensitivity.cli.json_output.runs import run_output
from sensitivity.execution.launch import Outcome, launch
from sensitivity.execution.messages import extent, outcome_lines
from sensitivity.execution.prepare import prepare
from sensitivity.execution.study_run import Machines
from sensitivity.exporting.live import sending, targets_of
from sensitivity.store.directory import place
from sensitivity.study.redaction import redacted


def run_study(
    study: str,
    *,
    storage: str,
    address: str | None,
    workers: int | None,
    log: Sequence[str] | None,
    as_json: bool,
) -> int:
    """Run the missing runs of a study, show progress, and return the exit code."""
    console = plain_console(stderr=as_json)
    plan = prepare(study)
    console.print(f"{plan.spec.name}: {extent(plan)}", soft_wrap=True)
    directory = place(storage).child(plan.spec.name)
    with sending(directory, targets_of(plan.spec, log), show=lambda text: console.print(text, soft_wrap=True)) as sent:
        outcome = launch(
            plan,
            directory,
            Machines(address=address, workers=workers),
            show=lambda progress: shown(progress, console),
        )
        if not outcome.interrupted:
            sent.end()
    if as_json:
        print(json_text(run_output(outcome)))
    else:
        again = resume_command("run", study, storage=storage, address=address, workers=workers, log=log)
        _print_outcome(outcome, console, again=again)
    if outcome.interrupted:
        return STOPPED
    if not outcome.trained:
        print(f"error: no run of {outcome.study} could be trained; see the causes above", file=sys.stderr)
        return FAULT
    return DONE


def _print_outcome(outcome: Outcome, console: Console, *, again: str) -> None:
    def line(text: str) -> None:
        console.print(text, soft_wrap=True)

    for text in outcome_lines(outcome):
        line(text)
    if outcome.interrupted:
        line(f"stopped; every reported result is kept. To resume: {again}")
    line(f"results: {outcome.directory}")
    line(f"report:  sensitivity report {shlex.quote(outcome.directory)}")


def resume_command(
    command: str,
    study: str,
    *,
    storage: str,
    address: str | None,
    workers: int | None,
    log: Sequence[str] | None,
) -> str:
    """Return the command that resumes a stopped study."""
    shown = None if address is None else redacted(address)
    options = {"--storage": storage, "--address": shown, "--workers": workers}
    given = [f"{name} {shlex.quote(str(value))}" for name, value in options.items() if value is not None]
    given += [f"--log {shlex.quote(redacted(target))}" for target in log or ()]
    return " ".join([f"sensitivity {command}", shlex.quote(study), *given])
