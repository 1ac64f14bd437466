"""The ``run`` command's work: run what is missing, and say where the results are."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict

from rich.console import Console

from sensitivity.cli.display import shown
from sensitivity.execution.launch import launch
from sensitivity.execution.prepare import prepare
from sensitivity.store.directory import place

INTERRUPTED_EXIT = 130


def run_study(study: str, *, storage: str, address: str | None, workers: int | None, as_json: bool) -> int:
    """Run what is missing of a study, show it, and return the exit code."""
    console = Console(stderr=as_json)
    plan = prepare(study)
    console.print(f"{plan.spec.name}: {len(plan.trials)} runs", soft_wrap=True)
    outcome = launch(
        plan,
        place(storage).child(plan.spec.name),
        address=address,
        workers=workers,
        show=lambda progress: shown(progress, console),
    )
    if as_json:
        print(json.dumps(asdict(outcome)))
    else:
        states = ", ".join(f"{count} {status}" for status, count in outcome.statuses.items())
        console.print(f"{outcome.study}: {states}", soft_wrap=True)
        if outcome.interrupted:
            again = f"sensitivity run {shlex.quote(study)} --storage {shlex.quote(storage)}"
            console.print(f"stopped; every reported result is kept. To go on: {again}", soft_wrap=True)
        console.print(f"results: {outcome.directory}", soft_wrap=True)
        console.print(f"report:  sensitivity report {shlex.quote(outcome.directory)}", soft_wrap=True)
    return INTERRUPTED_EXIT if outcome.interrupted else 0
