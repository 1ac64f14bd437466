"""The ``plan`` command's work."""

from __future__ import annotations

from sensitivity.cli.display import plain_console, price_table
from sensitivity.cli.json_output.base import json_text
from sensitivity.cli.json_output.plan import plan_output
from sensitivity.execution.prepare import prepare
from sensitivity.execution.pricing import price_plan
from sensitivity.store.directory import place


def show_plan(study: str, *, storage: str, workers: int | None, as_json: bool) -> None:
    """Check a study, measure its steps for a moment each, and print its price."""
    plan = prepare(study, for_price=True)
    priced = price_plan(plan, place(storage).child(plan.spec.name), workers=workers)
    if as_json:
        print(json_text(plan_output(plan.spec.name, priced.price)))
        return
    console = plain_console()
    console.print(f"{plan.spec.name}: {plan.spec.description}", soft_wrap=True)
    console.print(price_table(priced.price))
    console.print(priced.sentences(), soft_wrap=True)
