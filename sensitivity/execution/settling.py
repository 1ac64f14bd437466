"""Settling a study: its declaration before the first run, and the command that runs until its claims are answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from sensitivity.execution.costs import Price, measure_here, price, samples
from sensitivity.execution.launch import Outcome, launch
from sensitivity.execution.prepare import Plan, available_workers
from sensitivity.execution.progress import Show
from sensitivity.execution.replay import Replay
from sensitivity.execution.searches import with_searches
from sensitivity.execution.settler import Budget, Settler
from sensitivity.execution.sources import planned_trials
from sensitivity.execution.study_run import Machines, StudyRun
from sensitivity.settling import QUESTIONS, declare
from sensitivity.settling.observing import observe
from sensitivity.store.directory import Place
from sensitivity.store.ledger import read_declared, settling_place, write_declared
from sensitivity.store.lock import WriterLock
from sensitivity.store.manifest import MANIFEST, read_manifest, refuse_other_study, spec_hash
from sensitivity.store.reader import read_study
from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.amendments import NOT_DECLARED, Declaration, Observation, Point, Step
from sensitivity.study.errors import UserError
from sensitivity.study.ledger import Declared, Ledger, LedgerEntry
from sensitivity.study.primary import Question
from sensitivity.study.schedule import total_steps

_DECLARED = {
    "version": "version of the procedure: {then} there, {now} here",
    "batch_sizes": "batch_sizes: {then} there, {now} now",
    "caps": "budget: {then} steps of a run at each batch size there, {now} now",
    "target": "target: {then[0]} = {then[1]} there, {now[0]} = {now[1]} now",
    "arms": "optimizers: others are compared, or their hyperparameters have other ranges",
    "claims": "claims: other questions, or other pairs, margins or primary in the study file",
    "looks": "primary.looks: {then} there, {now} now",
}
"""Messages about changed fields of the declaration."""


@dataclass(frozen=True)
class Settled:
    """State of a settlement at the end of a command."""

    outcome: Outcome
    """Outcome of its runs."""
    ledger: Ledger


@dataclass(frozen=True)
class NextStep:
    """The next step of a settlement, with its price on this machine."""

    ledger: Ledger
    step: Step | None
    """The next step; None if the settlement has ended."""
    price: Price | None
    """Price of the step; None if it has no runs."""


def settle_study(
    plan: Plan,
    directory: Place,
    machines: Machines,
    *,
    questions: Sequence[Question] = (),
    budget: Budget,
    show: Show,
    on_entry: Callable[[LedgerEntry], None] = lambda _: None,
) -> Settled:
    """Train runs until each question of a study has an answer or the budget ends, and write the ledger.

    The runs are stored in the folder ``settle`` of the study directory, separate from those of the file's own design.

    Args:
        plan: plan of the study.
        directory: study directory.
        machines: machines on which packs are trained.
        questions: questions to settle; empty for those declared earlier, or both.
        budget: limits of the settlement.
        show: displays progress.
        on_entry: called after each step with its entry of the ledger.

    Raises:
        UserError: the study can't be settled, its declaration differs from an earlier one, or `launch` raises.
    """
    _require_same_study(plan, directory)
    declared = _declared(plan, directory, questions)  # before anything is written
    _create_study(plan, directory)
    write_declared(directory, declared)
    settlers: list[Settler] = []

    def source_of(plan: Plan, planned: pd.DataFrame | None, lock: WriterLock) -> tuple[Plan, Settler]:
        known = () if planned is None else planned_trials(planned, plan.spec, plan.source)
        plan = replace(plan, trials=known, stand_ins=())
        settlers.append(Settler(plan, declared, directory, require=lock.require, budget=budget, on_entry=on_entry))
        return plan, settlers[0]

    outcome = launch(
        replace(plan, trials=(), stand_ins=()), settling_place(directory), machines, show=show, source_of=source_of
    )
    return Settled(outcome, settlers[0].ledger)


def next_step(plan: Plan, directory: Place, *, questions: Sequence[Question] = (), workers: int | None) -> NextStep:
    """Return the next step of `settle_study`, and its price on this machine, without writing anything.

    Raises:
        UserError: the study can't be settled, its declaration differs from an earlier one, or it can't be trained here.
    """
    _require_same_study(plan, directory)
    declared = _declared(plan, directory, questions)
    replay, folder = Replay(plan.spec, plan.source, declared), settling_place(directory)
    if folder.exists(MANIFEST):
        study = read_study(folder)
        replay.add_runs(study.runs, study.curves)
    entries = tuple(replay.advance())
    ledger = Ledger(declared=declared, entries=entries, settlement=replay.settlement)
    if replay.step is None:
        return NextStep(ledger, None, None)
    plan = replace(plan, trials=replay.missing, stand_ins=())
    at_once = workers or available_workers(plan.spec.execution.threads)
    costs = measure_here(plan, samples(plan, finished=frozenset()), workers=at_once)
    return NextStep(ledger, replay.step, price(plan, costs, finished=frozenset(), workers=at_once))


def _require_same_study(plan: Plan, directory: Place) -> None:
    if directory.exists(MANIFEST):
        refuse_other_study(directory, read_manifest(directory), plan.spec, plan.source, plan.origin)


def _create_study(plan: Plan, directory: Place) -> None:
    """Create the study directory, which may have no runs of the study's own design yet."""
    if not directory.exists(MANIFEST):
        with StudyRun.begin(plan, directory, with_searches):
            pass


def _declared(plan: Plan, directory: Place, questions: Sequence[Question]) -> Declared:
    """Return the declaration of an existing settlement, or a new one.

    Raises:
        UserError: the existing declaration differs from the requested one.
    """
    before = read_declared(directory)
    if before is None:
        declaration = _declaration(plan, spec_hash(plan.spec), questions or QUESTIONS)
        return Declared(declaration=declaration, hash=declaration.hash, known=_known(plan, directory, declaration))
    then = before.declaration
    asked = questions or tuple(question for question in QUESTIONS if then.asks(question))
    now = _declaration(plan, then.spec_hash, asked)
    different = _differences(then, now)
    if different:
        lines = "\n".join(f"  - {line}" for line in different)
        raise UserError(
            f"{directory.uri}: its settlement has another declaration\n{lines}\n"
            "  The error rate holds only for the declaration before the first run. Undo the changes in the study file"
            " or in --question to continue it; or settle the study under another name"
        )
    return before


def _differences(then: Declaration, now: Declaration) -> list[str]:
    """Return the differences between two declarations, in terms of the study file."""
    fields = [name for name in Declaration.model_fields if name not in NOT_DECLARED]
    return [
        _DECLARED.get(name, name).format(then=getattr(then, name), now=getattr(now, name))
        for name in fields
        if getattr(then, name) != getattr(now, name)
    ]


def _declaration(plan: Plan, hashed: str, questions: Sequence[Question]) -> Declaration:
    spec, train_size = plan.spec, plan.problem.dataset.train_size
    caps = [total_steps(spec.required_budget, train_size=train_size, batch_size=size) for size in spec.batch_sizes]
    return declare(spec, hashed, caps, questions=questions, grid_runs=len(plan.counted))


def _known(plan: Plan, directory: Place, declaration: Declaration) -> tuple[tuple[Point, Observation], ...]:
    """Return the runs of the study's own design that have a result."""
    if not directory.exists(MANIFEST):
        return ()
    study = read_study(directory)
    own = study.runs[~study.runs["confirmation"].astype(bool)]
    target = plan.spec.metric(declaration.target[0]), declaration.target[1]
    found = observe(own, study.curves, target)
    names = {arm.name: [side.name for side in arm.sides] for arm in declaration.arms}
    rows = own[own["optimizer"].isin(names) & own["trial_id"].isin(found.keys())]
    return tuple(
        (
            Point(
                arm=row["optimizer"],
                batch_size=row["batch_size"],
                hyperparameters=tuple((name, row[PARAM_PREFIX + name]) for name in names[row["optimizer"]]),
                seed=row["seed"],
                phase="scout",
            ),
            found[row["trial_id"]],
        )
        for row in rows.to_dict("records")
    )
