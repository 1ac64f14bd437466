"""Optuna storages: every trial of every study is a run, and its intermediate values are its evaluations."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

from sensitivity.importing.sources.rows import REPORTED, LoggedRun, source_of
from sensitivity.importing.tables import Source
from sensitivity.store.directory import first_line
from sensitivity.study.errors import UserError
from sensitivity.study.redaction import redacted


def read(address: str) -> Source:
    """Read all studies of a storage, given as a file or an SQLAlchemy URL.

    Raises:
        UserError: the storage can't be opened, or contains no trials.
    """
    shown = redacted(address)
    path = Path(address).expanduser()
    if "://" not in address and not path.is_file():
        raise UserError(f"{shown}: there is no such file\n  Use an Optuna storage: a file, or a URL")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with _opened(address, path) as storage:
            names = optuna.get_all_study_names(storage)
            studies = [optuna.load_study(study_name=name, storage=storage) for name in names]
            runs = [run for study in studies for run in _runs(study)]
            notes = tuple(
                f"The objective of the Optuna study {study.study_name!r} is {study.direction.name.lower()}d."
                for study in studies
                if len(study.directions) == 1 and study.metric_names is None
            )
    except (SQLAlchemyError, ImportError, ValueError, OSError, optuna.exceptions.OptunaError) as error:
        raise UserError(
            f"{shown}: not an Optuna storage ({first_line(error.__cause__ or error)})\n  Use a file or a URL of one"
        ) from None
    return source_of(
        runs, path.name if "://" not in address else shown, reported="the step of trial.report", notes=notes[:5]
    )


@contextlib.contextmanager
def _opened(address: str, path: Path) -> Iterator[BaseStorage]:
    if "://" not in address and path.suffix == ".log":
        yield JournalStorage(JournalFileBackend(str(path)))
        return
    storage = RDBStorage(address if "://" in address else f"sqlite:///{path}")
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _runs(study: optuna.Study) -> Iterator[LoggedRun]:
    names = study.metric_names or ["value"]
    for trial in study.trials:
        yield LoggedRun(
            run=f"{study.study_name}/{trial.number}",
            settings=trial.params,
            facts={
                "study": study.study_name,
                **{name: value for name, value in trial.user_attrs.items() if name != "trial_id"},
                "status": _status(trial),
                "started_at": None if trial.datetime_start is None else trial.datetime_start.astimezone(),
                "finished_at": None if trial.datetime_complete is None else trial.datetime_complete.astimezone(),
            },
            evaluations=_evaluations(trial, names),
        )


def _status(trial: FrozenTrial) -> str:
    """Return the status of a trial; studies exported by this package contain their own."""
    return str(trial.user_attrs.get("status", trial.state.name))


def _evaluations(trial: FrozenTrial, names: list[str]) -> Iterator[dict[str, float]]:
    """Yield a trial's intermediate values (single objectives only), or its final values if there are none."""
    for step, value in sorted(trial.intermediate_values.items()):
        yield {REPORTED: step, names[0]: value}
    if not trial.intermediate_values and trial.values is not None:
        yield dict(zip(names, trial.values, strict=False))
