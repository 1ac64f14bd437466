"""Sentences about a settlement: its answers, their cost, and each step of its ledger."""

from __future__ import annotations

from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.labels import count, optimizer_name
from sensitivity.study.amendments import DEFAULT_SETTLING_RUNS, PHASE_NAMES, Answer
from sensitivity.study.ledger import Ledger, LedgerEntry, Standing, StepCost
from sensitivity.study.words import duration, size

_STANDING: dict[Standing, str] = {
    "under_way": "under way",
    "stopped": "stopped",
    "settled": "settled",
    "open": "open",
}
"""Display names."""


def standing_in_words(standing: Standing | None, runs: int) -> str:
    """Return the state of a study's settlement in a few words; empty if it has not begun."""
    return "" if standing is None else f"{_STANDING[standing]}, {count(runs, 'run')}"


def settlement_summary(ledger: Ledger) -> str:
    """Return the state of a settlement and the runs it took, compared with the study file's own design."""
    cost, settlement = ledger.cost, ledger.settlement
    took = f"{count(cost.runs, 'run')} and {duration(cost.device_seconds)} of device time"
    grid = ledger.declaration.grid_runs
    instead = f" The design of the study file has {count(grid, 'run')}." if grid else ""
    if settlement is None:
        return f"So far: {count(len(ledger.entries), 'step')}, {took}.{instead}"
    if settlement.stopped:
        stopped = settlement.stopped[0].upper() + settlement.stopped[1:]
        return f"Not settled within {took}. {stopped}.{instead}"
    if settlement.settled:
        return f"Settled in {took}.{instead}"
    return f"Ended after {took}, not every question settled.{instead}"


def settling_price(results: StudyResults) -> str:
    """Return the largest cost of `settle` with its default budget, at the speed of the study's runs."""
    ledger, total = results.tables.ledger, results.summary.total
    runs, seconds = total.completed + total.diverged, total.train_seconds + total.eval_seconds
    if ledger is not None and ledger.cost.runs:
        runs, seconds = ledger.cost.runs, ledger.cost.device_seconds
    most = f"At most {count(DEFAULT_SETTLING_RUNS, 'run')} unless a budget is given"
    return f"{most}, about {duration(DEFAULT_SETTLING_RUNS * seconds / runs)} of device time." if runs else f"{most}."


def role(answer: Answer) -> str:
    """Return what may be concluded from a settled answer."""
    if answer.answer == "blocked":
        return "Nothing is claimed."
    rate = f"{answer.claim.alpha:.2%} whenever it stops"
    judged = "Judged on fresh seeds that no choice has seen. " if answer.looks else ""
    if answer.claim.confirmatory:
        return f"{judged}Error rate {rate}."
    return f"{judged}Exploratory: not the primary claim of the study. Nominal error rate {rate}."


def next_look(answer: Answer) -> str:
    """Return the cost of the next look; empty if there is none left or none is needed."""
    if not answer.next_look_runs:
        return ""
    return f"The next look takes {count(answer.next_look_runs, 'run')}: settle it again with a larger budget."


def step_in_words(entry: LedgerEntry) -> str:
    """Return a step of the ledger as one line."""
    step, shown = entry.step, entry.shown
    took = f" ({_cost(entry.cost)})" if entry.cost.runs else ""
    says = f" {shown.says}" if shown is not None else ""
    return f"{step.number}. {PHASE_NAMES[step.phase]}: {step.why}{took}{says}"


def runs_by_arm(entry: LedgerEntry) -> str:
    """Return the runs of a step by optimizer; empty if the step has no runs."""
    return ", ".join(f"{optimizer_name(arm)} {runs}" for arm, runs in entry.step.runs_by_arm.items())


def _cost(cost: StepCost) -> str:
    return f"{count(cost.runs, 'run')}, {duration(cost.device_seconds)}, {size(cost.flops, 'FLOP')}"
