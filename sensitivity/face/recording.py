"""``record`` and ``trials``: store runs of the user's own training loop, in any framework, as a study.

Loads neither torch nor Ray.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sensitivity.store.counting import finished_trials
from sensitivity.store.directory import Place, place
from sensitivity.store.manifest import (
    MANIFEST,
    read_declared_spec,
    read_manifest,
    spec_hash,
    write_manifest,
    write_recorded,
)
from sensitivity.store.observed import write_observed_plan
from sensitivity.store.recording import RecordedRun
from sensitivity.study.designs import configurations
from sensitivity.study.errors import UserError
from sensitivity.study.hyperparameters import hyperparameter
from sensitivity.study.load import find_study, load_study
from sensitivity.study.observed import observed_ids
from sensitivity.study.plain import plain
from sensitivity.study.section import CONFIRMATION_SEEDS
from sensitivity.study.spec import StudySpec


def record(
    directory: str | os.PathLike[str],
    *,
    optimizer: str,
    batch_size: int,
    seed: int,
    targets: Mapping[str, Sequence[float]] | None = None,
    **hyperparameters: float,
) -> RecordedRun:
    """Record a run of your own training loop in a study directory.

    Any number of processes may record into one directory at the same time.

    Example:
        ```python
        with sensitivity.record("studies/mine", optimizer="adamw", lr=3e-4, batch_size=64, seed=1) as run:
            for step in range(1, 1001):
                ...
                run.log(step=step, train_loss=loss)
        ```

    Args:
        directory: path or URI of the study directory, such as ``s3://bucket/studies/mine``; the first run creates it.
        optimizer: name of the optimizer in the study.
        batch_size: number of examples per step.
        seed: seed of the initialisation and of the data order. Tests compare runs of the same seed.
        targets: target levels by metric, such as ``{"test_accuracy": [0.9]}``, as in a study file. The first run sets
            them for the study; later runs may leave them out.
        hyperparameters: numeric hyperparameters of the optimizer, such as ``lr=0.1``.

    Returns:
        A context manager for the run. Its ``log(step=..., train_loss=...)`` stores an evaluation; leaving the block
        ends the run.

    Raises:
        UserError: a value is outside its range, the directory contains a study that was not recorded, or `targets`
            differ from those of the study.
    """
    folder = place(os.fspath(directory))
    settings = {name: _setting(name, value) for name, value in plain(hyperparameters).items()}
    run = {"optimizer": optimizer, "batch_size": plain(batch_size), "seed": plain(seed)}
    declared: dict[str, Any] = {"name": folder.path.rpartition("/")[2]}
    if targets is not None:
        declared["targets"] = {name: plain(list(levels)) for name, levels in targets.items()}
    _check(declared, run, settings)
    existing = read_declared_spec(folder)
    if existing is not None:
        _check_existing(folder, existing, declared)
    recorded = RecordedRun(
        folder, optimizer=optimizer, batch_size=run["batch_size"], seed=run["seed"], hyperparameters=settings
    )
    if existing is None:
        write_recorded(folder, declared)
    return recorded


def _check_existing(folder: Place, existing: Mapping[str, Any], declared: Mapping[str, Any]) -> None:
    """Raise if the `existing` study of a directory was not recorded, or if `declared` changes its targets."""
    if not (existing.get("observed") or {}).get("recorded"):
        raise UserError(f"{folder.uri}: contains a study that was not recorded\n  Use another directory")
    if "targets" in declared and declared["targets"] != existing.get("targets"):
        raise UserError(
            f"{folder.uri}: its targets are {existing.get('targets')}, not {declared['targets']}\n"
            "  The first run set them: leave targets out, or use another directory"
        )


def _setting(name: str, value: Any) -> float:
    declared = hyperparameter(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UserError(
            f"{name}: must be a finite number; got {value!r}\n"
            "  Put a choice that is not a number into the optimizer's name, such as optimizer='adamw-cosine'"
        )
    if not declared.allows(value):
        raise UserError(f"{name}: must be {declared.allowed}; got {value:g}")
    return float(value)


def _check(declared: Mapping[str, Any], run: Mapping[str, Any], hyperparameters: Mapping[str, float]) -> None:
    """Raise UserError for values that no study file could have, with the messages of a study file."""
    StudySpec(
        **declared,
        batch_sizes=[run["batch_size"]],
        seeds=[run["seed"]],
        optimizers={run["optimizer"]: {"kind": "observed", "design": "observed", **hyperparameters}},
        observed={"recorded": True},
    )


@dataclass(frozen=True, kw_only=True)
class PlannedTrial:
    """A planned trial of a study, to be trained by your own training loop; `sensitivity.trials` yields them."""

    id: str
    optimizer: str
    """Name of the optimizer in the study file."""
    kind: str
    """Kind of the optimizer in the study file, such as "kfac"."""
    batch_size: int
    """Number of examples per step."""
    seed: int
    """Seed of the initialisation and of the data order."""
    hyperparameters: Mapping[str, float]
    """Values by name, such as ``{"lr": 0.1}``."""
    _directory: Place
    _spec_hash: str

    def record(self) -> RecordedRun:
        """Return a context manager that records this trial, as `sensitivity.record` does.

        Raises:
            StorageError: the study directory can't be written.
        """
        return RecordedRun(
            self._directory,
            optimizer=self.optimizer,
            batch_size=self.batch_size,
            seed=self.seed,
            hyperparameters=self.hyperparameters,
            kind=self.kind,
            spec_hash=self._spec_hash,
        )


def trials(
    study: str | os.PathLike[str] | StudySpec,
    *,
    storage: str | os.PathLike[str] = "studies",
    part: tuple[int, int] = (0, 1),
) -> Iterator[PlannedTrial]:
    """Iterate over the trials of a study that have no result yet, to train and record them in your own loop.

    The study file declares optimizers with boxes or grids, batch sizes, seeds and targets, and has a table ``observed``
    instead of a problem and its budget. Pairs, priors and verdicts are therefore those of a planned study.

    Example:
        ```python
        for trial in sensitivity.trials("study.toml"):
            with trial.record() as run:
                train(trial.optimizer, trial.hyperparameters, trial.batch_size, trial.seed, log=run.log)
        ```

    Args:
        study: path of a study file, or a ``Study``.
        storage: folder or URI that contains the study directories; the runs are stored in ``storage/NAME``.
        part: (k, n) selects the k-th of n disjoint parts of the trials, counted from 0, so that n processes can each
            train one.

    Returns:
        An iterator of `PlannedTrial`, in the order of the plan.

    Raises:
        UserError: the study has mistakes, uses an adaptive search, or has no table ``observed``; or the directory
            contains another study of the same name.
    """
    spec = study if isinstance(study, StudySpec) else load_study(find_study(os.fspath(study)))
    if spec.observed is None:
        raise UserError(
            f"{spec.name}: it declares a problem, so `run` trains it\n  For your own training loop, remove "
            "[problem] and [budget], and write observed = {} into the study file"
        )
    if searches := [name for name, arm in spec.optimizers.items() if arm.adaptive or arm.design == "observed"]:
        raise UserError(
            f"{spec.name}: the design of {searches[0]} has no trials that are known in advance\n"
            '  Use design = "grid", "random" or "sobol": an adaptive search chooses trials while it runs'
        )
    k, n = part
    if not 0 <= k < n:
        raise UserError(f"part: must be (k, n) with 0 <= k < n, such as (0, 4) for the first of four; got {part!r}")
    spec = spec.model_copy(update={"observed": spec.observed.model_copy(update={"planned": True})})
    directory = place(os.fspath(storage)).child(spec.name)
    planned = [_planned(spec, directory, *each) for each in _expanded(spec)]
    if not directory.exists(MANIFEST) or read_manifest(directory).spec_hash != spec_hash(spec):
        rows = [
            {
                "trial_id": each.id,
                "cell_id": observed_ids(each.optimizer, each.hyperparameters, each.batch_size, each.seed)[1],
                "optimizer": each.optimizer,
                "kind": each.kind,
                "batch_size": each.batch_size,
                "seed": each.seed,
                "confirmation": each.seed >= CONFIRMATION_SEEDS,
                "hyperparameters": each.hyperparameters,
            }
            for each in planned
        ]
        write_observed_plan(directory, rows, spec.hyperparameters)
        write_manifest(directory, spec, "")
    finished = finished_trials(directory)
    return iter([each for each in planned[k::n] if each.id not in finished])


def _expanded(spec: StudySpec) -> Iterator[tuple[str, dict[str, float], int, int]]:
    for seed in spec.seeds:
        cells = {name: configurations(arm, seed) for name, arm in spec.optimizers.items()}
        for batch_size in spec.batch_sizes:
            for name, of_arm in cells.items():
                for configuration in of_arm:
                    yield name, dict(configuration), batch_size, seed


def _planned(
    spec: StudySpec, directory: Place, optimizer: str, hyperparameters: dict[str, float], batch_size: int, seed: int
) -> PlannedTrial:
    return PlannedTrial(
        id=observed_ids(optimizer, hyperparameters, batch_size, seed)[0],
        optimizer=optimizer,
        kind=spec.optimizers[optimizer].kind,
        batch_size=batch_size,
        seed=seed,
        hyperparameters=hyperparameters,
        _directory=directory,
        _spec_hash=spec_hash(spec),
    )
