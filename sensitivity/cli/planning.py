"""The ``plan`` command's work."""

from __future__ import annotations

from dataclasses import replace

from sensitivity.cli.display import plain_console, price_table
from sensitivity.cli.json_output.base import json_text
from sensitivity.cli.json_output.plan import plan_output
from sensitivity.execution.costs import measure_here, pack_sizes, price, samples
from sensitivity.execution.prepare import available_workers, prepare, with_recorded, with_search_seconds
from sensitivity.execution.searches import recorded_trials, search_seconds
from sensitivity.store.directory import place
from sensitivity.store.manifest import MANIFEST, read_manifest, refuse_other_study
from sensitivity.store.reader import finished_trials, read_plan, read_runs
from sensitivity.study.words import duration


def show_plan(study: str, *, storage: str, workers: int | None, as_json: bool) -> None:
    """Check a study, measure its steps for a moment each, and print its price."""
    plan = prepare(study)
    at_once = workers or available_workers(plan.spec.execution.threads)
    directory = place(storage).child(plan.spec.name)
    finished = frozenset[str]()
    if directory.exists(MANIFEST):
        refuse_other_study(directory, read_manifest(directory), plan.spec, plan.source, plan.origin)
        finished = finished_trials(directory)
        plan = with_recorded(plan, recorded_trials(read_plan(directory), plan.spec, plan.source))
        plan = with_search_seconds(plan, search_seconds(read_runs(directory).runs))
    costs = measure_here(plan, samples(plan, finished=finished), workers=at_once)
    packs = replace(plan, trials=plan.expected).packs(pack_sizes(costs), finished=finished, workers=at_once)
    priced = price(plan, costs, finished=finished, workers=at_once)
    if as_json:
        print(json_text(plan_output(plan.spec.name, priced)))
        return
    console = plain_console()
    console.print(f"{plan.spec.name}: {plan.spec.description}", soft_wrap=True)
    console.print(price_table(priced))
    todo, planned = (sum(getattr(line, name) for line in priced.lines) for name in ("missing", "planned"))
    estimated = any(line.estimated for line in priced.lines)
    how_many = f"About {todo}" if estimated else f"{todo} of {planned}"
    console.print(
        f"{how_many} runs to do{'' if estimated else f', in {len(packs)} packs'}.\n"
        f"At most {duration(priced.device_seconds)} of device time: {duration(priced.wall_seconds)} with "
        f"{at_once} workers, Ray's start aside. ms/step is a trial's share of its pack's step, gain what the pack "
        "saves of it; memory is a pack's.",
        soft_wrap=True,
    )
