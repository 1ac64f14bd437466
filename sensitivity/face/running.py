"""``plan``, ``run``, ``settle``, ``shutdown``: run studies from a script, or a notebook with a running event loop."""

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
"""The Ray of this process, started by the first study that runs."""


def plan(study: StudyLike, *, storage: str | os.PathLike[str] = "studies", workers: int | None = None) -> StudyPrice:
    """Check a study with its data and model, and estimate what its missing runs cost on this machine.

    A short calibration times steps of each optimizer at each batch size. No run is trained.

    Example:
        ```python
        price = sensitivity.plan("quickstart")
        print(price.missing, price.device_seconds / 3600)  # runs, device-hours
        ```

    Args:
        study: path of a study file, name of a shipped study, the fields of a study file as a dictionary, or a
            ``Study``.
        storage: folder or URI that contains the study directories. Runs with a result in ``storage/NAME`` are not
            priced.
        workers: number of packs that train in parallel. By default one per core.

    Returns:
        The price, in total and per optimizer and batch size.

    Raises:
        UserError: the study, its data or its model has a mistake; the message lists all that were found.
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
    """Train the runs of a study that have no result yet, and store them in the study directory ``storage/NAME``.

    Ray starts with the first call and is reused by later ones until `shutdown`. An interrupt (Ctrl-C, or of the
    notebook kernel) stops the study; every reported result is kept, and the same call resumes it.

    Example:
        ```python
        study = sensitivity.run("quickstart", workers=2)
        print(study.verdict())
        ```

    Args:
        study: path of a study file, name of a shipped study, the fields of a study file as a dictionary, or a
            ``Study``. The source of functions defined in a notebook or script is stored with the study.
        storage: folder or URI that contains the study directories.
        address: address of a running Ray cluster. None uses this machine.
        workers: number of packs that train in parallel. By default one per core.
        log: tracking tools to which runs are sent as they end, such as "mlflow" or "mlflow:http://HOST:5000"; by
            default those of the study file. A tool that can't be reached causes a warning, not an error.
        progress: whether to show a line with the progress of the study.

    Returns:
        The study directory, opened.

    Raises:
        UserError: the study has a mistake, its directory can't be written, the cluster can't be reached, or no run
            could be trained.
        KeyboardInterrupt: the study was interrupted.
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
        with sending(directory, targets_of(ready.spec, _as_sequence(log)), show=line.show) as sent:
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
    """Add runs to a study until each of its questions has an answer, or a budget is spent.

    The added runs and the ledger of decisions are stored in ``storage/NAME/settle``, separate from the runs of the
    study file's own design. ``verdict()`` and all pages then show the settled answers; ``table("settling")`` is the
    ledger. An interrupt stops the settlement, and the same call resumes it.

    Example:
        ```python
        study = sensitivity.settle("quickstart", hours=1, questions="sensitivity")
        print(study.verdict())
        ```

    Args:
        study: path of a study file, name of a shipped study, the fields of a study file as a dictionary, or a
            ``Study``.
        hours: limit on the elapsed time of this call.
        runs: limit on the number of runs of the whole settlement; 2,000 if none of the three limits is set.
        flops: limit on the floating-point operations of the whole settlement.
        questions: "scaling", "sensitivity" or both. If empty, those of a settlement that has begun, otherwise both.
        storage: folder or URI that contains the study directories.
        address: address of a running Ray cluster. None uses this machine.
        workers: number of packs that train in parallel. By default one per core.
        log: tracking tools to which runs are sent as they end, such as "mlflow" or "mlflow:http://HOST:5000"; by
            default those of the study file. A tool that can't be reached causes a warning, not an error.
        progress: whether to show a line with the progress of the settlement.

    Returns:
        The study directory, opened.

    Raises:
        UserError: the study has a mistake, can't be settled, or was changed after its settlement began; its directory
            can't be written; or the cluster can't be reached.
        KeyboardInterrupt: the settlement was interrupted.
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
        with sending(directory, targets_of(ready.spec, _as_sequence(log)), show=line.show) as sent:
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
    """Show the outcome of a study, and raise if it was interrupted or no run could be trained."""
    from sensitivity.execution.messages import outcome_lines

    summary = "\n".join(outcome_lines(outcome))
    line.end(summary)
    if outcome.interrupted:
        raise KeyboardInterrupt(
            f"stopped; every reported result is kept in {outcome.directory}. Call it again to resume"
        )
    if not outcome.trained:
        raise UserError(f"no run of {outcome.study} could be trained\n{summary}")


def _check_budget(**limits: float | None) -> None:
    for name, limit in limits.items():
        if limit is not None and not (isinstance(limit, (int, float)) and limit > 0):
            raise UserError(f"{name}: must be a number above 0, or None for no limit; got {limit!r}")


def _as_sequence(log: str | Sequence[str] | None) -> Sequence[str] | None:
    return (log,) if isinstance(log, str) else log


def _check_workers(workers: int | None) -> None:
    if workers is not None and workers < 1:
        raise UserError(f"workers: must be at least 1, or None for one per core; got {workers}")


def shutdown() -> None:
    """Stop the Ray that `run` or `settle` started in this process, if any; the next call starts it again.

    Ray's workers keep the environment variables and packages of the time at which it started: call this after you
    change them. Ray also stops when the process ends.
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
    """Yield the plan of a study that has passed every check; modules that it imports are unloaded afterwards."""
    with own_imports_kept(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # for a progress bar that is never shown
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
            "study: must be a path, a dictionary of the fields of a study file, or a sensitivity.Study; got "
            f"{type(study).__name__}"
        )
    return StudySpec(**study)
