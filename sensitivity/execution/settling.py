"""Settling a study: what is declared before the first run, and the command that runs until its answers stand."""

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
"""What is said where a field of the declaration has changed."""


@dataclass(frozen=True)
class Settled:
    """How a settlement stands at the end of a command."""

    outcome: Outcome
    """Of its runs."""
    ledger: Ledger


@dataclass(frozen=True)
class NextStep:
    """What a settlement would do next, and what that costs here."""

    ledger: Ledger
    step: Step | None
    """None where it has ended."""
    price: Price | None
    """None where it asks for no runs."""


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
    """Run what settles a study's questions, until each has its answer or the budget ends, and keep the ledger.

    The runs are kept in the folder ``settle`` of the study directory, apart from those of the file's own design.

    Args:
        plan: of the study.
        directory: the study's own.
        machines: where packs are trained.
        questions: to be settled; empty goes on with those declared before, or takes both.
        budget: limits.
        show: shows progress.
        on_entry: called after each step with its entry of the ledger.

    Raises:
        UserError: the study can't be settled, was declared otherwise before, or `launch` raises.
    """
    _refuse_other(plan, directory)
    declared = _declared(plan, directory, questions)  # before anything is written
    _keep_study(plan, directory)
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
    """Return what `settle_study` would do next, and its price on this machine. Nothing is written.

    Raises:
        UserError: the study can't be settled, was declared otherwise before, or can't be trained here.
    """
    _refuse_other(plan, directory)
    declared = _declared(plan, directory, questions)
    replay, folder = Replay(plan.spec, plan.source, declared), settling_place(directory)
    if folder.exists(MANIFEST):
        study = read_study(folder)
        replay.take_in(study.runs, study.curves)
    entries = tuple(replay.advance())
    ledger = Ledger(declared=declared, entries=entries, settlement=replay.settlement)
    if replay.step is None:
        return NextStep(ledger, None, None)
    plan = replace(plan, trials=replay.missing, stand_ins=())
    at_once = workers or available_workers(plan.spec.execution.threads)
    costs = measure_here(plan, samples(plan, finished=frozenset()), workers=at_once)
    return NextStep(ledger, replay.step, price(plan, costs, finished=frozenset(), workers=at_once))


def _refuse_other(plan: Plan, directory: Place) -> None:
    if directory.exists(MANIFEST):
        refuse_other_study(directory, read_manifest(directory), plan.spec, plan.source, plan.origin)


def _keep_study(plan: Plan, directory: Place) -> None:
    """Make the directory that of this study, though none of its own design may have run yet."""
    if not directory.exists(MANIFEST):
        with StudyRun.begin(plan, directory, with_searches):
            pass


def _declared(plan: Plan, directory: Place, questions: Sequence[Question]) -> Declared:
    """Return what was declared when the settlement began, or what is to be declared now.

    Raises:
        UserError: it was declared otherwise.
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
            f"{directory.uri}: its settlement began under another declaration\n{lines}\n"
            "  The error rate holds for what was declared before the first run. Put back what was changed in the study"
            " file or in --question, and it goes on; or settle the study under another name"
        )
    return before


def _differences(then: Declaration, now: Declaration) -> list[str]:
    """Return, in the words of a study file, what differs between two declarations."""
    fields = [name for name in Declaration.model_fields if name not in NOT_DECLARED]
    return [
        _DECLARED.get(name, name).format(then=getattr(then, name), now=getattr(now, name))
        for name in fields
        if getattr(then, name) != getattr(now, name)
    ]


def _declaration(plan: Plan, hashed: str, questions: Sequence[Question]) -> Declaration:
    spec, train_size = plan.spec, plan.problem.dataset.train_size
    caps = [total_steps(spec.required_budget, train_size=train_size, batch_size=size) for size in spec.batch_sizes]
    return declare(spec, hashed, caps, questions=questions)


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
