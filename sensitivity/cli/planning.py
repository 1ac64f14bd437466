"""The ``plan`` command's work."""

from __future__ import annotations

import json
from dataclasses import asdict

from sensitivity.cli.display import plain_console, price_table
from sensitivity.execution.costs import Price
from sensitivity.execution.prepare import prepare
from sensitivity.execution.pricing import price_plan
from sensitivity.store.directory import place


def show_plan(study: str, *, storage: str, workers: int | None, as_json: bool) -> None:
    """Check a study, measure its steps for a moment each, and print its price."""
    plan = prepare(study)
    priced = price_plan(plan, place(storage).child(plan.spec.name), workers=workers)
    if as_json:
        print(json.dumps(_content(plan.spec.name, priced.price)))
        return
    console = plain_console()
    console.print(f"{plan.spec.name}: {plan.spec.description}", soft_wrap=True)
    console.print(price_table(priced.price))
    console.print(priced.sentences(), soft_wrap=True)


def _content(name: str, priced: Price) -> dict[str, object]:
    return {
        "study": name,
        "workers": priced.workers,
        "device_seconds": priced.device_seconds,
        "wall_seconds": priced.wall_seconds,
        "lines": [
            {**asdict(line), "device_seconds": line.device_seconds, "pack_size": line.pack_size}
            for line in priced.lines
        ],
    }
