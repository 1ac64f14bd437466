"""Export a study to an Optuna storage, for Optuna's own functions and optuna-dashboard.

There is one Optuna study per optimizer and batch size, named ``study/optimizer/batch size``, and one Optuna trial per
run, with its times, with its seed and status as user attributes, and with its learning curve as intermediate values. A
diverged run has the worst observed value, as in searches; without a value, Optuna's figures would omit it.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from sensitivity.execution.objectives import Values, configuration_values, run_values
from sensitivity.execution.optuna_bulk import add_trials
from sensitivity.store.directory import Place, first_line
from sensitivity.store.reader import Study, read_study
from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.arms import Arm
from sensitivity.study.axes import Axis
from sensitivity.study.errors import UserError
from sensitivity.study.metrics import METRICS, most_informative_first
from sensitivity.study.results import Status
from sensitivity.study.search import SearchSpec, lower_is_better
from sensitivity.study.whole_files import output_faults, replacing

_STATES = {
    Status.COMPLETED: TrialState.COMPLETE,
    Status.DIVERGED: TrialState.COMPLETE,
    Status.STOPPED: TrialState.PRUNED,
    Status.FAILED: TrialState.FAIL,
    Status.INTERRUPTED: TrialState.FAIL,
}


def export_optuna(directory: Place, url: str) -> tuple[str, ...]:
    """Write a study directory to the Optuna storage at `url`; return the names of the Optuna studies.

    A new SQLite file appears only once it is complete. In an existing storage, a partial export is removed again.

    Args:
        directory: study directory.
        url: SQLAlchemy URL; a plain path is a SQLite file.

    Raises:
        UserError: the storage can't be opened or written, or already contains these studies.
        StorageError: as `read_study`.
    """
    study = read_study(directory)
    full = url if "://" in url else f"sqlite:///{url}"
    file = sqlite_file(url)
    if file is None or file.exists():
        return _export(study, full, shown=url)
    with output_faults(file), replacing(file) as beside:
        return _export(study, make_url(full).set(database=str(beside)).render_as_string(hide_password=False), shown=url)


def sqlite_file(url: str) -> Path | None:
    """Return the file of a storage; None if the storage is not a file or its URL is invalid."""
    if "://" not in url:
        return Path(url)
    try:
        parts = make_url(url)
    except (ValueError, SQLAlchemyError):
        return None
    named = parts.database if parts.get_backend_name() == "sqlite" else None
    return Path(named) if named and named != ":memory:" and not named.startswith("file:") else None


def _export(study: Study, url: str, *, shown: str) -> tuple[str, ...]:
    spec = study.manifest.spec
    evaluations = study.curves.to_dict("records")  # one call for all runs, because one call per run is far slower
    curves = {str(name): list(rows) for name, rows in itertools.groupby(evaluations, key=itemgetter("trial_id"))}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    best = next(metric for metric in most_informative_first(spec.measured()) if metric.on != "train" or spec.observed)
    search = spec.search or SearchSpec(objective=(best.name,)).with_metrics(spec.measured())
    try:
        with _storage(url) as storage, _all_or_none(storage) as made:
            for (optimizer, batch_size), rows in study.runs.groupby(["optimizer", "batch_size"], sort=False):
                name = f"{spec.name}/{optimizer}/{batch_size}"
                written = optuna.create_study(
                    storage=storage,
                    study_name=name,
                    directions=["minimize" if lower_is_better(each) else "maximize" for each in search.objective],
                )
                made.append(name)
                written.set_user_attr("objective", list(search.objective))
                written.set_user_attr("pending", int((rows["status"] == Status.PENDING).sum()))
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    written.set_metric_names(list(search.objective))
                trials = _trials(rows.to_dict("records"), curves, spec.optimizers[str(optimizer)], search)
                add_trials(storage, written._study_id, trials)
            return tuple(made)
    except optuna.exceptions.DuplicatedStudyError:
        raise UserError(
            f"{shown}: already contains an Optuna study {name!r}\n  Use another file, or move this one away"
        ) from None
    except (ImportError, ValueError, OSError, SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise UserError(
            f"Optuna storage {shown!r}: can't be opened or written ({first_line(error.__cause__ or error)})\n"
            "  Use a file in a folder with free space and write permission, or sqlite:///FILE"
        ) from None


@contextlib.contextmanager
def _storage(url: str) -> Iterator[optuna.storages.RDBStorage]:
    storage = optuna.storages.RDBStorage(url)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


@contextlib.contextmanager
def _all_or_none(storage: optuna.storages.RDBStorage) -> Iterator[list[str]]:
    """Yield a list for the names of new studies; delete them again if the block fails."""
    made: list[str] = []
    try:
        yield made
    except BaseException:
        for name in made:
            with contextlib.suppress(KeyError, SQLAlchemyError, optuna.exceptions.StorageInternalError):
                optuna.delete_study(study_name=name, storage=storage)
        raise


def _trials(
    rows: Sequence[Mapping[Any, Any]], curves: Mapping[str, Sequence[Mapping[Any, Any]]], arm: Arm, search: SearchSpec
) -> list[FrozenTrial]:
    ended = [row for row in rows if row["status"] != Status.PENDING]
    own: list[Values] = [run_values(row, curves.get(row["trial_id"], ()), search) for row in ended]
    counted = configuration_values([[each] for each in own], search)
    return [
        _trial(*each, curves.get(each[0]["trial_id"], ()), arm, search) for each in zip(ended, counted, strict=True)
    ]


def _trial(
    row: Mapping[Any, Any],
    values: tuple[float, ...] | None,
    curve: Sequence[Mapping[Any, Any]],
    arm: Arm,
    search: SearchSpec,
) -> FrozenTrial:
    state = _STATES[Status(row["status"])]
    metric = search.objective[0] if search.objective[0] in METRICS else "train_loss"
    shown = ("trial_id", "optimizer", "batch_size", "seed", "status", "message", "confirmation")
    trial = create_trial(
        state=state,
        values=list(values) if values is not None and state == TrialState.COMPLETE else None,
        params={name: float(row[PARAM_PREFIX + name]) for name in arm.axes()},
        distributions={name: _distribution(axis) for name, axis in arm.axes().items()},
        user_attrs={name: row[name] for name in shown},
        # Optuna supports them only for single objectives.
        intermediate_values={m["step"]: m[metric] for m in curve if math.isfinite(m[metric])}
        if len(search.objective) == 1
        else {},
    )
    trial.datetime_start, trial.datetime_complete = _here(row["started_at"]), _here(row["finished_at"])
    return trial


def _here(moment: pd.Timestamp) -> datetime.datetime | None:
    """Return a time in Optuna's form: in this machine's time zone, without zone information."""
    return None if pd.isna(moment) else moment.to_pydatetime().astimezone().replace(tzinfo=None)


def _distribution(axis: Axis) -> BaseDistribution:
    if axis.scale == "values":
        return CategoricalDistribution(axis.values)
    return FloatDistribution(axis.low, axis.high, log=axis.scale == "log")
