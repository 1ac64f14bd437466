"""``record`` and ``trials``: runs of the user's own loop, in any framework, as a study. Loads neither torch nor Ray."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
from sensitivity.store.reader import finished_trials
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
    """Record a run of your own training loop in a study directory; any number of processes may do so at once.

    ::

        with sensitivity.record("studies/mine", optimizer="adamw", lr=3e-4, batch_size=64, seed=1) as run:
            for step in range(1, 1001):
                ...
                run.log(step=step, train_loss=loss)

    Args:
        directory: a path, or a URI such as ``s3://bucket/studies/mine``; created by its first run.
        optimizer: its name in the study.
        batch_size: examples a step.
        seed: what fixed initialisation and data order; runs of equal seed are compared with each other.
        targets: levels by metric that the study is about, as of a study file; of the first run.
        hyperparameters: the settings of the optimizer, as numbers.

    Raises:
        UserError: a value that can't be, or the directory holds another kind of study.
    """
    folder = place(os.fspath(directory))
    given = {name: _setting(name, value) for name, value in plain(hyperparameters).items()}
    run = {"optimizer": optimizer, "batch_size": plain(batch_size), "seed": plain(seed)}
    declared: dict[str, Any] = {"name": folder.path.rpartition("/")[2]}
    if targets is not None:
        declared["targets"] = {name: plain(list(levels)) for name, levels in targets.items()}
    _check(declared, run, given)
    there = read_declared_spec(folder)
    if there is not None:
        _refuse_other(folder, there, declared)
    found = RecordedRun(
        folder, optimizer=optimizer, batch_size=run["batch_size"], seed=run["seed"], hyperparameters=given
    )
    if there is None:
        write_recorded(folder, declared)
    return found


def _refuse_other(folder: Place, there: Mapping[str, Any], declared: Mapping[str, Any]) -> None:
    """Raise where a directory holds another kind of study than `there` declares, or other targets are declared."""
    if not (there.get("observed") or {}).get("recorded"):
        raise UserError(f"{folder.uri}: holds a study that was not recorded\n  Give another directory")
    if "targets" in declared and declared["targets"] != there.get("targets"):
        raise UserError(
            f"{folder.uri}: its targets are {there.get('targets')}, not {declared['targets']}\n"
            "  They are those of its first run: leave targets out, or give another directory"
        )


def _setting(name: str, value: Any) -> float:
    declared = hyperparameter(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UserError(f"{name}: give a number; got {value!r}. What is no number belongs to the optimizer's name")
    if not declared.allows(value):
        raise UserError(f"{name}: must be {declared.allowed}; got {value:g}")
    return float(value)


def _check(declared: Mapping[str, Any], run: Mapping[str, Any], hyperparameters: Mapping[str, float]) -> None:
    """Raise for what no study can have, in the words of a study file."""
    StudySpec(
        **declared,
        batch_sizes=[run["batch_size"]],
        seeds=[run["seed"]],
        optimizers={run["optimizer"]: {"kind": "observed", "design": "observed", **hyperparameters}},
        observed={"recorded": True},
    )


@dataclass(frozen=True, kw_only=True)
class PlannedTrial:
    """A trial that a study plans, for a loop of your own to train."""

    id: str
    optimizer: str
    kind: str
    """Of the optimizer, as the study file has it."""
    batch_size: int
    seed: int
    hyperparameters: Mapping[str, float]
    _directory: Place
    _spec_hash: str

    def record(self) -> RecordedRun:
        """Begin to record it: a context manager whose `log` takes its evaluations, as of ``record``.

        Raises:
            StorageError: the place can't be written.
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
    """Hand out the trials of a study that have no result yet, for a loop of your own to train and record.

    The study file declares the design: optimizers with boxes or grids, batch sizes, seeds, targets; and a table
    ``observed`` in place of the problem and its budget. So pairing, priors and verdicts are those of a planned study.

    ::

        for trial in sensitivity.trials("study.toml"):
            with trial.record() as run:
                train(trial.optimizer, trial.hyperparameters, trial.batch_size, trial.seed, log=run.log)

    Args:
        study: a study file, or a ``Study``.
        storage: where study directories are kept: a folder or a URI.
        part: (k, n): the k-th of n parts of the trials, from 0, as for the k-th of n processes. Parts are disjoint.

    Raises:
        UserError: the study has mistakes, a search, or no table ``observed``; or another study has its name.
    """
    spec = study if isinstance(study, StudySpec) else load_study(find_study(os.fspath(study)))
    if spec.observed is None:
        raise UserError(
            f"{spec.name}: it says what is trained here, so `run` trains it\n  For a loop of your own, remove "
            "[problem] and [budget], and write observed = {} into the study file"
        )
    if searches := [name for name, arm in spec.optimizers.items() if arm.adaptive or arm.design == "observed"]:
        raise UserError(
            f"{spec.name}: the design of {searches[0]} plans no trials\n"
            '  Take design = "grid", "random" or "sobol": a search chooses as it runs'
        )
    k, n = part
    if not 0 <= k < n:
        raise UserError(f"part: give (k, n) with 0 <= k < n, such as (0, 4) for the first of four; got {part!r}")
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
