"""``plan``, ``run``, ``settle``, ``shutdown``: a study from Python, in a script or where an event loop already runs."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensitivity.face.opened import OpenedStudy, opened
from sensitivity.face.priced import StudyPrice
from sensitivity.face.progress import StatusLine
from sensitivity.store.directory import place
from sensitivity.study.errors import UserError
from sensitivity.study.load import find_study, load_study
from sensitivity.study.primary import Question
from sensitivity.study.snapshot_imports import own_imports_kept
from sensitivity.study.spec import StudySpec

if TYPE_CHECKING:
    from sensitivity.execution.executor import Executor
    from sensitivity.execution.launch import Outcome
    from sensitivity.execution.prepare import Plan

StudyLike = str | os.PathLike[str] | Mapping[str, Any] | StudySpec

_executor: Executor | None = None
"""This process's Ray, once a study has run."""


def plan(study: StudyLike, *, storage: str | os.PathLike[str] = "studies", workers: int | None = None) -> StudyPrice:
    """Check a study with its data and model, and price what is missing of it, on this machine.

    Args:
        study: a study file, the name of a shipped one, its fields as a dictionary, or a ``Study``.
        storage: where study directories are kept: a folder or a URI.
        workers: packs at a time; one a core by default.

    Raises:
        UserError: whatever is wrong with the study.
    """
    _check_workers(workers)
    with _prepared(study, for_price=True) as ready:
        from sensitivity.execution.pricing import price_plan

        return StudyPrice(price_plan(ready, place(os.fspath(storage)).child(ready.spec.name), workers=workers))


def run(
    study: StudyLike,
    *,
    storage: str | os.PathLike[str] = "studies",
    address: str | None = None,
    workers: int | None = None,
    log: str | Sequence[str] | None = None,
    progress: bool = True,
) -> OpenedStudy:
    """Run what is missing of a study, keep it in ``storage/NAME``, and return that study directory, opened.

    Ray starts with the first call and stays for the next ones (see ``shutdown``). An interrupt (Ctrl-C, or of the
    kernel) stops the study; every reported result is kept, and the same call goes on from there.

    Args:
        study: a study file, the name of a shipped one, its fields as a dictionary, or a ``Study``. Functions of a
            notebook or script are kept with the study by their source.
        storage: where study directories are kept: a folder or a URI.
        address: of a running Ray cluster; None uses this machine.
        workers: packs at a time; one a core by default.
        log: tools to which runs are sent as they end, such as "mlflow" or "mlflow:http://HOST:5000"; by default those
            of the study file. One that can't be reached is a warning.
        progress: whether to show a line that says how far the study is.

    Raises:
        UserError: whatever is wrong with the study, its place or the cluster, or no run could be trained.
        KeyboardInterrupt: the study was stopped.
    """
    line = StatusLine(sys.stderr, silent=not progress)
    _check_workers(workers)
    with _prepared(study) as ready:
        from sensitivity.execution.launch import launch
        from sensitivity.execution.messages import extent
        from sensitivity.execution.study_run import Machines
        from sensitivity.exporting.live import sending, targets_of

        line.show(f"{ready.spec.name}: {extent(ready)}")
        directory = place(os.fspath(storage)).child(ready.spec.name)
        with sending(directory, targets_of(ready.spec, _several(log)), show=line.show) as sent:
            outcome = launch(
                ready,
                directory,
                Machines(address=address, workers=workers, sessions=_this_executor().session),
                show=line.following,
            )
            if not outcome.interrupted:
                sent.end()
    _end(outcome, line)
    return opened(directory)


def settle(
    study: StudyLike,
    *,
    hours: float | None = None,
    runs: int | None = None,
    flops: float | None = None,
    questions: Question | Sequence[Question] = (),
    storage: str | os.PathLike[str] = "studies",
    address: str | None = None,
    workers: int | None = None,
    log: str | Sequence[str] | None = None,
    progress: bool = True,
) -> OpenedStudy:
    """Run what a study's questions need until each has its answer or a budget ends, and return the study, opened.

    The runs and the ledger are kept in ``storage/NAME/settle``, apart from those of the study's own design.
    ``verdict()`` and every page then show the settled answers; ``table("settling")`` is the ledger. An interrupt stops
    it, and the same call goes on from there.

    Args:
        study: as of `run`.
        hours: most time of this call, on the clock.
        runs: most runs of the whole settlement; 2,000 where no limit at all is given.
        flops: most floating-point operations of the whole settlement.
        questions: "scaling", "sensitivity" or both; empty goes on as it was begun, or takes both.
        storage: where study directories are kept: a folder or a URI.
        address: of a running Ray cluster; None uses this machine.
        workers: packs at a time; one a core by default.
        log: tools to which runs are sent as they end, such as "mlflow" or "mlflow:http://HOST:5000"; by default those
            of the study file. One that can't be reached is a warning.
        progress: whether to show a line that says how far it is.

    Raises:
        UserError: whatever is wrong with the study, its place or the cluster; it can't be settled, or was declared
            otherwise when that began.
        KeyboardInterrupt: it was stopped.
    """
    line = StatusLine(sys.stderr, silent=not progress)
    _check_workers(workers)
    _check_budget(hours=hours, runs=runs, flops=flops)
    with _prepared(study) as ready:
        from sensitivity.execution.settler import Budget
        from sensitivity.execution.settling import settle_study
        from sensitivity.execution.study_run import Machines
        from sensitivity.exporting.live import sending, targets_of

        directory = place(os.fspath(storage)).child(ready.spec.name)
        with sending(directory, targets_of(ready.spec, _several(log)), show=line.show) as sent:
            settled = settle_study(
                ready,
                directory,
                Machines(address=address, workers=workers, sessions=_this_executor().session),
                questions=(questions,) if isinstance(questions, str) else questions,
                budget=Budget(runs=runs, flops=flops, seconds=None if hours is None else 3600 * hours),
                show=line.following,
            )
            if not settled.outcome.interrupted:
                sent.end()
    _end(settled.outcome, line)
    return opened(directory)


def _end(outcome: Outcome, line: StatusLine) -> None:
    """Say how a study stands, and raise where it was stopped or nothing of it could be trained."""
    from sensitivity.execution.messages import outcome_lines

    said = "\n".join(outcome_lines(outcome))
    line.end(said)
    if outcome.interrupted:
        raise KeyboardInterrupt(
            f"stopped; every reported result is kept in {outcome.directory}. Call it again to go on"
        )
    if not outcome.trained:
        raise UserError(f"no run of {outcome.study} has trained\n{said}")


def _check_budget(**limits: float | None) -> None:
    for name, limit in limits.items():
        if limit is not None and not (isinstance(limit, (int, float)) and limit > 0):
            raise UserError(f"{name}: give a number above 0, or None for no limit; got {limit!r}")


def _several(log: str | Sequence[str] | None) -> Sequence[str] | None:
    return (log,) if isinstance(log, str) else log


def _check_workers(workers: int | None) -> None:
    if workers is not None and workers < 1:
        raise UserError(f"workers: give a number of at least 1, or None for one a core; got {workers}")


def shutdown() -> None:
    """Stop the Ray that ``run`` has started in this process, if any; the next ``run`` starts another.

    Its workers have the environment variables and packages of the moment in which it started. It ends with the
    process, too.
    """
    if _executor is not None:
        _executor.close()


def _this_executor() -> Executor:
    global _executor
    if _executor is None:
        from sensitivity.execution.executor import Executor

        _executor = Executor()
    return _executor


@contextlib.contextmanager
def _prepared(study: StudyLike, *, for_price: bool = False) -> Iterator[Plan]:
    """Yield a study that has passed every check; what it imports is forgotten afterwards."""
    with own_imports_kept(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # of a bar that nothing here shows
        if isinstance(study, (str, os.PathLike)):
            path = find_study(os.fspath(study))
            spec, folder, source = load_study(path), path.resolve().parent, str(path)
        else:
            spec, folder, source = _spec(study), Path.cwd(), "study"
        from sensitivity.execution.prepare import prepare_spec

        yield prepare_spec(spec, folder=folder, source=source, for_price=for_price)


def _spec(study: Mapping[str, Any] | StudySpec) -> StudySpec:
    if isinstance(study, StudySpec):
        return study
    if not isinstance(study, Mapping) or not all(isinstance(name, str) for name in study):
        raise UserError(
            f"a study is a path, a dictionary of the fields of a study file, or a sensitivity.Study; got "
            f"{type(study).__name__}"
        )
    return StudySpec(**study)
