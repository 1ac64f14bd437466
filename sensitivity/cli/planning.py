"""The ``plan`` command."""

from __future__ import annotations

import math

from sensitivity.cli.display import plain_console, price_lines, table_lines
from sensitivity.cli.json_output.base import json_text
from sensitivity.cli.json_output.plan import plan_output
from sensitivity.cli.limits import seconds_of
from sensitivity.cli.shrinking import shrunk
from sensitivity.execution.costs import counted
from sensitivity.execution.prepare import prepare
from sensitivity.execution.pricing import price_plan
from sensitivity.store.directory import place
from sensitivity.study.errors import UserError
from sensitivity.study.words import duration, size


def show_plan(study: str, *, storage: str, workers: int | None, shrink_to: str | None, as_json: bool) -> None:
    """Check a study, time its steps briefly, and print its price and, on request, how it would fit a time."""
    seconds = None if shrink_to is None else seconds_of(shrink_to, "--shrink-to")
    plan = prepare(study, for_price=True)
    priced = price_plan(plan, place(storage).child(plan.spec.name), workers=workers)
    if as_json:
        print(json_text(plan_output(plan.spec.name, priced.price)))
        return
    console = plain_console()
    console.print(f"{plan.spec.name}: {plan.spec.description}", soft_wrap=True)
    for line in price_lines(priced.price):
        console.print(line, soft_wrap=True)
    console.print(priced.sentences(), soft_wrap=True)
    for line in () if seconds is None else shrunk(plan.spec, priced.price, seconds):
        console.print(line, soft_wrap=True)


def show_count(study: str, *, tflops: float) -> None:
    """Check a study and print its cost at a given rate, without its device: nothing is measured.

    Raises:
        UserError: the rate is invalid.
    """
    if not 0 < tflops < math.inf:
        raise UserError(f"--tflops: give a number above 0, such as 30; got {tflops:g}")
    plan = prepare(study, for_price=True)
    found = counted(plan)
    console = plain_console()
    rows = [
        (
            one.optimizer, one.batch_size, f"{one.runs:,}", f"{one.steps:,}", size(one.flops, ""),
            duration(one.runs * one.flops / tflops / 1e12),
        )
        for one in found
    ]  # fmt: skip
    for line in table_lines(("optimizer", "batch", "runs", "steps", "FLOP/run", "time"), rows, 1):
        console.print(line, soft_wrap=True)
    total = sum(one.runs * one.flops for one in found)
    console.print(
        f"{size(total, 'FLOP')} in total, without evaluations: {duration(total / tflops / 1e12)} at {tflops:g} TFLOP/s."
        " Small networks reach a small share of a device's peak: use a rate that you have measured.",
        soft_wrap=True,
    )
