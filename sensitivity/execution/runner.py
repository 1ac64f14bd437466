"""Ray Tune distributes packs: one Tune trial is one pack. The driver alone writes the study directory.

What is finished is decided by the study directory, never by Tune's own snapshots (docs/ray.md, "Faults"), and what
starts next by ``pack_scheduler``: Tune only asks for it, as of any ``Searcher``, and tells what came of it.
"""

from __future__ import annotations

import errno
import logging
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from sensitivity.execution.losses import words_of_lost_worker
from sensitivity.execution.pack_scheduler import PackScheduler
from sensitivity.execution.prepare import Plan
from sensitivity.execution.progress import Progress
from sensitivity.execution.worker_pool import RunWorkers
from sensitivity.execution.worker_pool import workers as workers_for
from sensitivity.execution.worker_process import Job
from sensitivity.execution.worker_stderr import crash_line
from sensitivity.store.checkpoints import delete_checkpoint
from sensitivity.store.directory import Place, first_line, patiently
from sensitivity.store.lock import WriterLock
from sensitivity.store.manifest import Manifest
from sensitivity.store.writer import append
from sensitivity.study.errors import UserError
from sensitivity.study.provenance import code_version
from sensitivity.study.results import PackResult, RunResult, Status
from sensitivity.study.trials import Pack

logger = logging.getLogger(__name__)

_MEMORY_WORDS = re.compile(r"OutOfMemoryError|running low on memory")
"""What Ray says of a worker that its memory monitor has killed; of the kernel's victims it can't tell."""


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where results go."""

    directory: Place
    manifest: Manifest
    lock: WriterLock


def run_packs(
    plan: Plan,
    scheduler: PackScheduler,
    destination: Destination,
    *,
    workers: int,
    scratch: Path,
    progress: Progress,
    on_change: Callable[[], None],
    stopped: Callable[[], bool],
) -> None:
    """Run packs on the Ray that is there, and append each one's results to the study directory as they come.

    Args:
        plan: what the packs are part of.
        scheduler: of packs.
        destination: of the results; its lock is held.
        workers: packs at a time.
        scratch: a folder for Tune's own files, which nobody reads.
        progress: kept up to date.
        on_change: called after each change of `progress`.
        stopped: whether a stop was asked for.

    Raises:
        KeyboardInterrupt: a stop was asked for.
        UserError: the study directory or this machine's temporary folder can't be written, or workers can't live.
    """
    recorder = _Recorder(scheduler, destination, progress, on_change)
    stopper = _StopOn(lambda: stopped() or recorder.fault is not None)
    execution = plan.spec.execution
    job = Job(execution=execution, origin=plan.origin, directory=destination.directory)
    run_workers = RunWorkers(workers_for(execution), job, limit=workers)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what matters of it is in the results
    try:
        tuner = tune.Tuner(
            _InWorkers,
            tune_config=tune.TuneConfig(
                search_alg=_PackSearcher(scheduler, recorder),
                num_samples=-1,
                max_concurrent_trials=workers,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name="packs",
                storage_path=str(scratch),
                verbose=0,
                progress_reporter=tune.CLIReporter(),  # says nothing at this verbosity; the one of notebooks does
                callbacks=[recorder, _EachStep(run_workers.on_step_end)],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                stop=stopper,
                failure_config=tune.FailureConfig(max_failures=0),  # `scheduler` decides what starts again
            ),
        )
        with run_workers.given_to_tune():
            tuner.fit()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{tempfile.gettempdir()}: Ray Tune's own files can't be written there ({first_line(error)})\n"
            "  What was reported is kept. Make room, or set TMPDIR to a folder that has some, and run again"
        ) from None
    if recorder.fault is not None:
        raise recorder.fault
    if stopped():
        raise KeyboardInterrupt


class _Parcel:
    """A pack in the configuration of a Tune trial, which Tune copies, prints and hashes."""

    def __init__(self, pack: Pack) -> None:
        self.pack = pack

    def __deepcopy__(self, memo: dict[int, Any]) -> _Parcel:
        return self

    def __repr__(self) -> str:
        return self.pack.id


class _InWorkers(tune.Trainable):
    """What Tune takes for the class of its actors; `RunWorkers` gives it a worker each time that it starts one."""


class _PackSearcher(Searcher):
    """Tune's way to ask for the next pack."""

    def __init__(self, scheduler: PackScheduler, recorder: _Recorder) -> None:
        super().__init__()
        self._scheduler, self._recorder = scheduler, recorder

    def __getstate__(self) -> dict[str, Any]:
        """Hold nothing back for Tune's snapshots: they are never read."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        """Return a pack in a configuration, nothing for now, or that there will be no more."""
        try:
            pack = self._scheduler.take()
        except UserError as error:  # the plan of a search's next round can't be written
            self._recorder.fault = error
            return Searcher.FINISHED
        if pack is not None:
            return {"parcel": _Parcel(pack)}
        return Searcher.FINISHED if self._scheduler.done else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Leave it to the callback, which is told more."""

    def get_state(self) -> dict[str, Any]:
        """Hold nothing back for Tune's snapshots: they are never read."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Save nothing, for the same reason."""

    def restore(self, checkpoint_path: str) -> None:
        """Have nothing to restore."""


class _Recorder(tune.Callback):
    """Takes results from Tune's event loop to the study directory."""

    def __init__(
        self, scheduler: PackScheduler, destination: Destination, progress: Progress, on_change: Callable[[], None]
    ) -> None:
        self._scheduler = scheduler
        self._to = destination
        self._progress = progress
        self._on_change = on_change
        self._code_version = code_version()
        self._began = time.time()
        self.fault: UserError | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Hold nothing back for Tune's snapshots: they are never read."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record that a pack has a live worker."""
        self._scheduler.advance(trial.config["parcel"].pack, 0.0)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Record a pack's results, or its progress."""
        pack: Pack = trial.config["parcel"].pack
        if "result" in result:
            found: PackResult = result["result"]
            result["result"] = pack.id  # Tune keeps what it was told to the end: curves of all packs, if let
            self._record(pack, found)
            self._scheduler.finish(pack, found)
        elif "changed" in result:
            self.fault = UserError(
                f"{result['changed']}\n"
                "  Put back what was there, and run the same again: every reported result is kept. Or give the study, "
                "as it is now, a new name"
            )
        elif "fraction" in result:
            self._scheduler.advance(pack, result["fraction"])
            self._progress.advance(pack, result["fraction"])
        self._on_change()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Restart a pack whose worker or node died, or record that it is given up."""
        pack: Pack = trial.config["parcel"].pack
        if not self._scheduler.runs(pack):
            return  # its results are here; the worker was lost on its way to the next pack
        said = _error_of(trial)
        cause, out_of_memory = cause_of_loss(said)
        words = words_of_lost_worker(said, since=self._began)
        logger.warning("pack %s: its worker was lost: %s", pack.id, crash_line(words) or cause)
        try:
            given_up = self._scheduler.lose(pack, cause, out_of_memory=out_of_memory, stderr=words)
        except UserError as error:
            self.fault = error
            return
        self._progress.lose(pack)
        if given_up is not None:
            result = _interrupted(pack, given_up)
            self._record(pack, result)
            self._scheduler.give_up(result)
        self._on_change()

    def _record(self, pack: Pack, result: PackResult) -> None:
        def write() -> None:
            self._to.lock.require()
            append(
                self._to.directory,
                result,
                spec_hash=self._to.manifest.spec_hash,
                code_version=self._code_version,
                hyperparameters=self._to.manifest.spec.hyperparameters,
            )

        try:
            patiently(write)
        except UserError as error:
            self.fault = error
            return
        # Which a shorter pack has not; what one leaves that went on from a checkpoint, the sweep at the end removes.
        if result.wall_seconds >= 60 * self._to.manifest.spec.execution.checkpoint_minutes or _given_up(result):
            delete_checkpoint(self._to.directory, pack.id)
        self._progress.finish(pack, result)


class _EachStep(tune.Callback):
    """Calls something at each step of Tune's event loop."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action

    def __getstate__(self) -> dict[str, Any]:
        """Hold nothing back for Tune's snapshots: they are never read."""
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Call it."""
        self._action()


class _StopOn(tune.Stopper):
    """Ends the whole run once a condition holds."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        self._condition = condition

    def __getstate__(self) -> dict[str, Any]:
        """Hold nothing back for Tune's snapshots: they are never read."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never end a single pack."""
        return False

    def stop_all(self) -> bool:
        """Whether to end everything."""
        return self._condition()


def _error_of(trial: Any) -> str:
    """Return what Ray says of a trial's failure. Tune's own `get_error` looks where it is copied much later."""
    file = trial.error_file
    return Path(file).read_text().rpartition("Failure # ")[2] if file and Path(file).is_file() else ""


def cause_of_loss(error: str) -> tuple[str, bool]:
    """Return what killed a worker, in a line, and whether it was the memory, from what Ray says of it."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    cause = lines[-1].partition(" Some common causes")[0] if lines else "unknown"
    return cause, bool(_MEMORY_WORDS.search(error))


def _given_up(result: PackResult) -> bool:
    return any(run.status is Status.INTERRUPTED for run in result.runs)


def _interrupted(pack: Pack, message: str) -> PackResult:
    runs = tuple(
        RunResult(
            trial=trial,
            status=Status.INTERRUPTED,
            message=message,
        )
        for trial in pack.trials
    )
    return PackResult(runs=runs, pack_id=pack.id, host="", device="", started_at=time.time(), wall_seconds=0.0)
