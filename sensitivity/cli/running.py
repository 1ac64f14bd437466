"""The ``run`` command's work: run what is missing, and say where the results are."""

from __future__ import annotations

import contextlib
import json
import shlex
from dataclasses import asdict

from rich.console import Console

from sensitivity.cli.display import extent, shown
from sensitivity.execution.launch import Outcome, launch
from sensitivity.execution.prepare import prepare
from sensitivity.store.directory import place

NOTHING_TRAINED_EXIT, INTERRUPTED_EXIT = 2, 130


def run_study(study: str, *, storage: str, address: str | None, workers: int | None, as_json: bool) -> int:
    """Run what is missing of a study, show it, and return the exit code."""
    console = Console(stderr=as_json)
    plan = prepare(study)
    console.print(f"{plan.spec.name}: {extent(plan)}", soft_wrap=True)
    outcome = launch(
        plan,
        place(storage).child(plan.spec.name),
        address=address,
        workers=workers,
        show=lambda progress: shown(progress, console),
    )
    # A terminal that was closed is gone, and what was to be said there with it.
    with contextlib.suppress(OSError) if outcome.interrupted else contextlib.nullcontext():
        if as_json:
            print(json.dumps(asdict(outcome)))
        else:
            _tell(outcome, console, again=_again(study, storage=storage, address=address, workers=workers))
    if outcome.interrupted:
        return INTERRUPTED_EXIT
    return 0 if outcome.trained else NOTHING_TRAINED_EXIT


def _tell(outcome: Outcome, console: Console, *, again: str) -> None:
    def line(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False, highlight=False)

    line(f"{outcome.study}: " + ", ".join(f"{count} {status}" for status, count in outcome.statuses.items()))
    for cause, count in outcome.causes.items():
        line(f"  {count} × {cause}")
    if outcome.interrupted:
        line(f"stopped; every reported result is kept. To go on: {again}")
    line(f"results: {outcome.directory}")
    line(f"report:  sensitivity report {shlex.quote(outcome.directory)}")


def _again(study: str, *, storage: str, address: str | None, workers: int | None) -> str:
    options = {"--storage": storage, "--address": address, "--workers": workers}
    given = [f"{name} {shlex.quote(str(value))}" for name, value in options.items() if value is not None]
    return " ".join(["sensitivity run", shlex.quote(study), *given])
