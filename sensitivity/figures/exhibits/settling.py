"""The ledger of a settlement: every step, why it was taken, what it cost and what it showed."""

from __future__ import annotations

from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.data import Data, Value
from sensitivity.figures.exhibit import Exhibit
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.figures.settled_words import runs_by_arm, settlement_summary
from sensitivity.figures.tables import Table
from sensitivity.study.amendments import PHASE_NAMES
from sensitivity.study.ledger import Ledger
from sensitivity.study.words import duration, size

NOT_SETTLED = (
    "This study has not been settled: `sensitivity settle` runs what its questions need until each has an answer, or a"
    " budget ends."
)


_ELSEWHERE = "The runs of this study were trained elsewhere, so `sensitivity settle` can't add any."


def not_settled(results: StudyResults) -> str:
    """Return why there is no settlement to show."""
    return _ELSEWHERE if results.spec.observed is not None else NOT_SETTLED


def _ledger(results: StudyResults) -> Ledger:
    ledger = results.tables.ledger
    if ledger is None:
        raise NothingToShowError(not_settled(results))
    if not ledger.entries:
        raise NothingToShowError(settlement_summary(ledger))
    return ledger


def _table(ledger: Ledger) -> Table:
    rows = [
        [
            PHASE_NAMES[entry.step.phase],
            entry.step.why,
            entry.shown.says if entry.shown is not None else "",
            runs_by_arm(entry) or "–",
            entry.step.number,
            entry.cost.runs,
            duration(entry.cost.device_seconds) if entry.cost.runs else "–",
            size(entry.cost.flops, "") if entry.cost.runs else "–",
        ]
        for entry in ledger.entries
    ]
    header = ("phase", "why", "what it showed", "runs by optimizer", "step", "runs", "device time", "FLOP")
    return Table(caption=settlement_summary(ledger), header=header, rows=rows, text_columns=4)


def _data(ledger: Ledger) -> Data:
    columns = (
        "step", "phase", "why", "shown", "optimizer", "batch_size", "seed", "hyperparameters", "step_runs",
        "step_device_seconds", "step_flops",
    )  # fmt: skip
    rows: list[tuple[Value, ...]] = []
    for entry in ledger.entries:
        step, cost = entry.step, entry.cost
        says = entry.shown.says if entry.shown is not None else ""
        took = (cost.runs, cost.device_seconds, cost.flops)
        rows += [
            (
                *(step.number, step.phase, step.why, says, point.arm, point.batch_size, point.seed),
                *("; ".join(f"{name} = {value:.6g}" for name, value in point.hyperparameters), *took),
            )
            for point in step.points
        ] or [(step.number, step.phase, step.why, says, None, None, None, None, *took)]
    return Data(columns=columns, rows=rows)


def _notes(ledger: Ledger) -> tuple[str, ...]:
    freeze = ledger.freeze
    declared = f"Declared before the first run: {ledger.declared.hash}."
    return (declared, *([f"Frozen before the judging runs: {freeze.hash}."] if freeze is not None else []))


SETTLING = Exhibit(
    name="settling",
    section="settling",
    title="The ledger: every step, why it was taken, what it cost and what it showed",
    compute=_ledger,
    data=_data,
    tables=lambda ledger: [_table(ledger)],
    notes=_notes,
    depends=(),
)
