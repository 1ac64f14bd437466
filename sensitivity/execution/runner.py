"""Ray Tune distributes packs: one Tune trial is one pack. The driver alone writes the study directory.

What is finished is decided by the study directory, never by Tune's own snapshots (RAY.md, "Faults").
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from sensitivity.execution.costs import measure
from sensitivity.execution.prepare import Plan, use_folder
from sensitivity.execution.progress import Progress
from sensitivity.execution.worker import run_pack
from sensitivity.store.directory import Place
from sensitivity.store.manifest import Manifest
from sensitivity.store.writer import append
from sensitivity.study.errors import UserError
from sensitivity.study.provenance import code_version
from sensitivity.study.results import PackResult, RunResult, Status
from sensitivity.study.spec import ExecutionSpec, ProblemSpec
from sensitivity.study.trials import Group, Pack, Trial
from sensitivity.training.calibration import Cost
from sensitivity.training.problems import load_problem

logger = logging.getLogger(__name__)

MAX_FAILURES = 2
"""How often a pack whose worker or node died is started again before its runs are `interrupted`."""
_REPORT_EVERY_S = 1.0


def run_packs(
    plan: Plan,
    packs: Sequence[Pack],
    directory: Place,
    manifest: Manifest,
    *,
    workers: int,
    progress: Progress,
    on_change: Callable[[], None],
    stopped: Callable[[], bool],
) -> None:
    """Run packs on the Ray that is there, and append each one's results to the study directory as they come.

    Args:
        plan: what `packs` are part of.
        packs: in the order they should start.
        directory: of the study; its writer's lock is held.
        manifest: of the directory.
        workers: packs at a time.
        progress: kept up to date.
        on_change: called after each change of `progress`.
        stopped: whether a stop was asked for.

    Raises:
        KeyboardInterrupt: a stop was asked for.
        UserError: the study directory can't be written.
    """
    recorder = _Recorder(packs, directory, manifest, progress, on_change)
    stopper = _StopOn(lambda: stopped() or recorder.fault is not None)
    trainable = tune.with_parameters(
        _tune_pack, packs=tuple(packs), execution=plan.spec.execution, import_folder=plan.import_folder
    )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what matters of it is in the results
    with tempfile.TemporaryDirectory(prefix="sensitivity-tune-", ignore_cleanup_errors=True) as scratch:
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources(plan.spec.execution)),
            param_space={"pack": tune.grid_search(list(range(len(packs))))},
            tune_config=tune.TuneConfig(max_concurrent_trials=workers, reuse_actors=True),
            run_config=tune.RunConfig(
                name="packs",
                storage_path=scratch,
                verbose=0,
                callbacks=[recorder],
                stop=stopper,
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
            ),
        )
        tuner.fit()
    if recorder.fault is not None:
        raise recorder.fault
    if stopped():
        raise KeyboardInterrupt


def resources(execution: ExecutionSpec) -> dict[str, float]:
    """Return what a pack asks of Ray."""
    share = {"gpu": execution.accelerator_share} if execution.device == "cuda" else {}
    return {"cpu": float(execution.threads), **share}


def measure_on_cluster(plan: Plan, groups: Mapping[Group, Sequence[Trial]], *, workers: int) -> dict[Group, Cost]:
    """Measure as `costs.measure` does, in a worker on the Ray that is there.

    Raises:
        UserError: the user's code raises in training.
    """
    wanted = resources(plan.spec.execution)
    task = ray.remote(num_cpus=wanted["cpu"], num_gpus=wanted.get("gpu", 0), max_retries=0)(_measure_there)
    costs: dict[Group, Cost] | UserError = ray.get(
        task.remote(dict(groups), plan.spec.problem, plan.spec.execution, plan.import_folder, workers)
    )
    if isinstance(costs, UserError):
        raise costs
    return costs


def _measure_there(
    groups: Mapping[Group, Sequence[Trial]],
    problem: ProblemSpec,
    execution: ExecutionSpec,
    import_folder: str,
    workers: int,
) -> dict[Group, Cost] | UserError:
    use_folder(import_folder)
    loaded = load_problem(problem, device=torch.device(execution.device), folder=Path(import_folder))
    try:
        return measure(groups, loaded, execution, workers=workers)
    except UserError as error:  # as a value: Ray would wrap it in its own
        return error


def _tune_pack(config: Mapping[str, int], packs: Sequence[Pack], execution: ExecutionSpec, import_folder: str) -> None:
    last = time.monotonic()

    def on_progress(fraction: float) -> None:
        nonlocal last
        if time.monotonic() - last >= _REPORT_EVERY_S:
            last = time.monotonic()
            tune.report({"fraction": fraction})

    tune.report({"result": run_pack(packs[config["pack"]], execution, import_folder, on_progress=on_progress)})


class _Recorder(tune.Callback):
    """Takes results from Tune's event loop to the study directory."""

    def __init__(
        self,
        packs: Sequence[Pack],
        directory: Place,
        manifest: Manifest,
        progress: Progress,
        on_change: Callable[[], None],
    ) -> None:
        self._packs = packs
        self._directory = directory
        self._manifest = manifest
        self._progress = progress
        self._on_change = on_change
        self._code_version = code_version()
        self.fault: UserError | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Hold nothing back for Tune's snapshots: they are never read."""
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Record a pack's results, or its progress."""
        if "result" in result:
            self._record(result["result"])
        elif "fraction" in result:
            self._progress.advance(self._packs[trial.config["pack"]], result["fraction"])
        self._on_change()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record the runs of a pack whose worker or node kept dying."""
        pack = self._packs[trial.config["pack"]]
        cause = str(trial.get_error() or "unknown").strip().splitlines()[-1]
        message = f"its worker was lost {MAX_FAILURES + 1} times: {cause}"
        logger.warning("pack %s: %s", pack.id, message)
        self._record(_interrupted(pack, message))
        self._on_change()

    def _record(self, result: PackResult) -> None:
        try:
            append(self._directory, result, spec_hash=self._manifest.spec_hash, code_version=self._code_version)
        except UserError as error:
            self.fault = error
        else:
            self._progress.finish(result)


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
