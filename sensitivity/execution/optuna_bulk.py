"""Inserts many trials into an Optuna storage in one transaction; Optuna itself issues several queries per number.

The tables are those of Optuna's own models, which define the types and the encoding of infinities.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial
from sqlalchemy import Connection, Table, insert, select

_ROWS = 10_000
"""Number of rows per insert."""


def add_trials(storage: RDBStorage, study_id: int, trials: Sequence[FrozenTrial]) -> None:
    """Add finished trials, with their times, to a study that has none.

    Raises:
        SQLAlchemyError: the storage can't be written; no trial is added then.
    """
    with storage.engine.begin() as connection:
        _insert(connection, models.TrialModel, (_trial(study_id, place, each) for place, each in enumerate(trials)))
        table = _table(models.TrialModel)
        found = connection.execute(select(table.c.number, table.c.trial_id).where(table.c.study_id == study_id))
        ids = {number: trial_id for number, trial_id in found}  # noqa: C416 - rows are no tuples to mypy
        numbered = [(ids[place], each) for place, each in enumerate(trials)]
        _insert(connection, models.TrialParamModel, (row for own, each in numbered for row in _params(own, each)))
        _insert(connection, models.TrialValueModel, (row for own, each in numbered for row in _values(own, each)))
        _insert(
            connection,
            models.TrialUserAttributeModel,
            (
                {"trial_id": own, "key": key, "value_json": json.dumps(value)}
                for own, each in numbered
                for key, value in each.user_attrs.items()
            ),
        )
        _insert(
            connection,
            models.TrialIntermediateValueModel,
            (row for own, each in numbered for row in _intermediate(own, each)),
        )


def _table(model: type[models.BaseModel]) -> Table:
    table: Table = model.__table__
    return table


def _insert(connection: Connection, model: type[models.BaseModel], rows: Iterable[Mapping[str, Any]]) -> None:
    waiting: list[Mapping[str, Any]] = []
    for row in rows:
        waiting.append(row)
        if len(waiting) == _ROWS:
            connection.execute(insert(_table(model)), waiting)
            waiting = []
    if waiting:
        connection.execute(insert(_table(model)), waiting)


def _trial(study_id: int, number: int, trial: FrozenTrial) -> dict[str, Any]:
    own = models.TrialModel(datetime_start=trial.datetime_start, datetime_complete=trial.datetime_complete)
    return {
        "study_id": study_id,
        "number": number,
        "state": trial.state,
        "datetime_start": own._datetime_start_utc,
        "datetime_complete": own._datetime_complete_utc,
    }


def _params(trial_id: int, trial: FrozenTrial) -> Iterable[dict[str, Any]]:
    for name, value in trial.params.items():
        distribution = trial.distributions[name]
        yield {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": distribution.to_internal_repr(value),
            "distribution_json": distribution_to_json(distribution),
        }


def _values(trial_id: int, trial: FrozenTrial) -> Iterable[dict[str, Any]]:
    for objective, value in enumerate(trial.values or ()):
        stored, kind = models.TrialValueModel.value_to_stored_repr(value)
        yield {"trial_id": trial_id, "objective": objective, "value": stored, "value_type": kind}


def _intermediate(trial_id: int, trial: FrozenTrial) -> Iterable[dict[str, Any]]:
    for step, value in trial.intermediate_values.items():
        stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
        yield {
            "trial_id": trial_id,
            "step": step,
            "intermediate_value": stored,
            "intermediate_value_type": kind,
        }
