"""Distribution of packs with Ray Tune: one Tune trial is one pack. Only the driver writes the study directory.

The study directory determines which runs are finished, never Tune's own snapshots (docs/ray.md, "Faults"). Tune obtains
the next pack from ``pack_scheduler`` through its ``Searcher`` interface, and reports results through callbacks.
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

from sensitivity.execution.losses import stderr_of_lost_worker
from sensitivity.execution.pack_scheduler import PackScheduler
from sensitivity.execution.prepare import Plan
from sensitivity.execution.progress import Progress
from sensitivity.execution.result_writer import ResultWriter
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
"""Ray's messages about a worker killed by its memory monitor; processes killed by the kernel are not recognised."""


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Study directory of the results, with its manifest and lock."""

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
    """Train packs on the current Ray session, and append their results to the study directory.

    Args:
        plan: plan of the study.
        scheduler: scheduler of the packs.
        destination: study directory of the results; its lock is held.
        workers: number of packs at a time.
        scratch: folder for Tune's own files, which are never read.
        progress: updated with each result.
        on_change: called after each change of `progress`.
        stopped: returns whether a stop was requested.

    Raises:
        KeyboardInterrupt: a stop was requested.
        UserError: the study directory or this machine's temporary folder can't be written, or workers are lost
            repeatedly.
    """
    recorder = _Recorder(scheduler, destination, progress, on_change)
    stopper = _StopOn(lambda: stopped() or recorder.fault is not None)
    execution = plan.spec.execution
    job = Job(execution=execution, origin=plan.origin, directory=destination.directory)
    run_workers = RunWorkers(workers_for(execution), job, limit=workers)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the results contain the relevant messages
    try:
        tuner = tune.Tuner(
            _WorkerPlaceholder,
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
                progress_reporter=tune.CLIReporter(),  # silent at this verbosity, unlike the default in notebooks
                callbacks=[recorder, _OnStep(run_workers.on_step_end)],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                stop=stopper,
                failure_config=tune.FailureConfig(max_failures=0),  # `scheduler` restarts packs
            ),
        )
        with run_workers.used_by_tune():
            tuner.fit()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{tempfile.gettempdir()}: Ray Tune's own files can't be written there ({first_line(error)})\n"
            "  Reported results are kept. Free some space, or set TMPDIR to a folder with free space, and run again"
        ) from None
    finally:
        recorder.close()
    if recorder.fault is not None:
        raise recorder.fault
    if stopped():
        raise KeyboardInterrupt


class _PackConfig:
    """Wrapper of a pack in the configuration of a Tune trial, which Tune copies, prints and hashes."""

    def __init__(self, pack: Pack) -> None:
        self.pack = pack

    def __deepcopy__(self, memo: dict[int, Any]) -> _PackConfig:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the pack's id: only Tune's snapshots, which are never read, pickle a configuration."""
        return str, (self.pack.id,)

    def __repr__(self) -> str:
        return self.pack.id


class _WorkerPlaceholder(tune.Trainable):
    """Placeholder for the class of Tune's actors; `RunWorkers` provides a worker each time Tune starts one."""


class _PackSearcher(Searcher):
    """Provides the next pack to Tune."""

    def __init__(self, scheduler: PackScheduler, recorder: _Recorder) -> None:
        super().__init__()
        self._scheduler, self._recorder = scheduler, recorder

    def __getstate__(self) -> dict[str, Any]:
        """Hold nothing back for Tune's snapshots: they are never read."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        """Return a configuration with the next pack, None if there is currently none, or `Searcher.FINISHED`."""
        try:
            self._recorder.collect()
            pack = self._scheduler.take()
            while pack is None and self._recorder.only_writes:
                self._recorder.collect(wait=True)
                pack = self._scheduler.take()
        except UserError as error:  # for instance, the plan of a search's next round can't be written
            self._recorder.fault = error
            return Searcher.FINISHED
        if pack is not None:
            return {"parcel": _PackConfig(pack)}
        return Searcher.FINISHED if self._scheduler.done else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing; the callback, which receives more information, records the result."""

    def get_state(self) -> dict[str, Any]:
        """Hold nothing back for Tune's snapshots: they are never read."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: Tune's snapshots are never read."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: Tune's snapshots are never read."""


class _Recorder(tune.Callback):
    """Receives results from Tune, and counts each once it is in the study directory."""

    def __init__(
        self, scheduler: PackScheduler, destination: Destination, progress: Progress, on_change: Callable[[], None]
    ) -> None:
        self._scheduler = scheduler
        self._to = destination
        self._progress = progress
        self._on_change = on_change
        self._code_version = code_version()
        self._began = time.time()
        self._writer = ResultWriter(self._write)
        self.fault: UserError | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Hold nothing back for Tune's snapshots: they are never read."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record that a pack has a worker."""
        self._scheduler.advance(trial.config["parcel"].pack, 0.0)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Record a pack's results, or its progress."""
        pack: Pack = trial.config["parcel"].pack
        if "result" in result:
            found: PackResult = result["result"]
            result["result"] = pack.id  # Tune keeps all results until its end, which would include all curves
            self._scheduler.report()
            self._writer.put(pack, found)
        elif "changed" in result:
            self.fault = UserError(
                f"{result['changed']}\n"
                "  Undo these changes and run the same again; every reported result is kept. Or choose a new name for "
                "the changed study"
            )
        elif "fraction" in result:
            self._scheduler.advance(pack, result["fraction"])
            self._progress.advance(pack, result["fraction"])
        if not self.collect():
            self._on_change()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Restart a pack whose worker or node was lost, or record that it is given up."""
        pack: Pack = trial.config["parcel"].pack
        if pack in self._writer or not self._scheduler.runs(pack):
            return  # it has results; the worker was lost before its next pack
        message = _error_of(trial)
        cause, out_of_memory = cause_of_loss(message)
        stderr = stderr_of_lost_worker(message, since=self._began)
        logger.warning("pack %s: its worker was lost: %s", pack.id, crash_line(stderr) or cause)
        try:
            given_up = self._scheduler.lose(pack, cause, out_of_memory=out_of_memory, stderr=stderr)
        except UserError as error:
            self.fault = error
            return
        self._progress.lose(pack)
        if given_up is not None:
            self._writer.put(pack, _interrupted(pack, given_up))
        self._on_change()

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Count the results that have been written meanwhile."""
        self.collect()

    @property
    def only_writes(self) -> bool:
        """Whether there are results to write, and no pack is in training."""
        ended = sum(map(self._scheduler.runs, self._writer.packs))
        return len(self._writer) > 0 and not self._writer.failed and ended == self._scheduler.running

    def collect(self, *, wait: bool = False) -> int:
        """Count the results that have been written; with `wait`, wait for one. Return their number."""
        count = 0
        try:
            for pack, result in self._writer.written(wait=wait):
                self._progress.finish(pack, result)
                if self._scheduler.runs(pack):
                    self._scheduler.finish(pack, result)
                else:
                    self._scheduler.give_up(result)
                count += 1
        except UserError as error:
            self.fault = error
        if count:
            self._on_change()
        return count

    def close(self) -> None:
        """Wait until all results have been written, or one can't be."""
        try:
            self._drain()
        finally:  # after a signal, which does not come twice, there may be more
            try:
                self._drain()
            finally:
                self._writer.close()

    def _drain(self) -> None:
        while len(self._writer) and not self._writer.failed:
            self.collect(wait=True)

    def _write(self, pack: Pack, result: PackResult) -> None:
        def write() -> None:
            self._to.lock.require()
            append(
                self._to.directory,
                result,
                spec_hash=self._to.manifest.spec_hash,
                code_version=self._code_version,
                hyperparameters=self._to.manifest.spec.hyperparameters,
            )

        patiently(write)
        # Shorter packs have no checkpoint; one left by a pack that was resumed is deleted by the sweep at the end.
        if result.wall_seconds >= 60 * self._to.manifest.spec.execution.checkpoint_minutes or _given_up(result):
            delete_checkpoint(self._to.directory, pack.id)


class _OnStep(tune.Callback):
    """Calls a function at each step of Tune's event loop."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action

    def __getstate__(self) -> dict[str, Any]:
        """Hold nothing back for Tune's snapshots: they are never read."""
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Call the function."""
        self._action()


class _StopOn(tune.Stopper):
    """Ends the whole run once a condition holds."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        self._condition = condition

    def __getstate__(self) -> dict[str, Any]:
        """Hold nothing back for Tune's snapshots: they are never read."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return False: single packs are never ended."""
        return False

    def stop_all(self) -> bool:
        """Whether to end the run."""
        return self._condition()


def _error_of(trial: Any) -> str:
    """Return Ray's message about a trial's failure. Tune's own `get_error` reads a copy that is written much later."""
    file = trial.error_file
    return Path(file).read_text().rpartition("Failure # ")[2] if file and Path(file).is_file() else ""


def cause_of_loss(error: str) -> tuple[str, bool]:
    """Return the cause of a worker's loss in one line, and whether it was out of memory, from Ray's message."""
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
