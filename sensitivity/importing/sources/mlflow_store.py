"""MLflow stores: a folder (``mlruns``), a database or a tracking server; every run with its parameters and metrics."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sensitivity.importing.sources.rows import SUMMARY, LoggedRun, source_of
from sensitivity.importing.tables import Source
from sensitivity.store.directory import first_line
from sensitivity.study.errors import UserError
from sensitivity.study.redaction import redacted

STATUS_TAG, VERDICT_TAG = "sensitivity.status", "sensitivity.version"
"""Tags of runs that this package has sent: the status of a run, and the version of the run with the verdict."""
_PAGE = 1000


def read(address: str) -> Source:
    """Read all runs of all experiments that are not deleted.

    Raises:
        UserError: there is no store, or it contains no runs.
    """
    shown = redacted(address)
    try:
        client = MlflowClient(address if "://" in address else Path(address).expanduser().resolve().as_uri())
        found = [_run(client, run) for run in _runs(client) if VERDICT_TAG not in run.data.tags]
    except MlflowException as error:
        raise UserError(
            f"{shown}: not an MLflow store ({first_line(error)})\n  Use a folder, a database or a tracking server"
        ) from None
    return source_of(found, shown if "://" in address else Path(address).name)


def _runs(client: MlflowClient) -> Iterator[Run]:
    experiments = [each.experiment_id for each in client.search_experiments(view_type=ViewType.ACTIVE_ONLY)]
    token: str | None = None
    while experiments:
        page = client.search_runs(experiments, run_view_type=ViewType.ACTIVE_ONLY, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _run(client: MlflowClient, run: Run) -> LoggedRun:
    by_step: dict[int, dict[str, Any]] = {}
    for name in (each for each in run.data.metrics if not each.startswith(SUMMARY)):
        for metric in client.get_metric_history(run.info.run_id, name):
            by_step.setdefault(metric.step, {"step": metric.step})[name] = metric.value
    return LoggedRun(
        run=run.info.run_id,
        settings={name: _value(value) for name, value in run.data.params.items()},
        facts={
            "status": run.data.tags.get(STATUS_TAG, run.info.status),
            "started_at": _moment(run.info.start_time),
            "finished_at": _moment(run.info.end_time),
        },
        evaluations=[by_step[step] for step in sorted(by_step)],
    )


def _value(text: str) -> float | bool | str:
    """Parse a parameter, which MLflow stores as text."""
    if text in ("True", "False"):
        return text == "True"
    try:
        return float(text)
    except ValueError:
        return text


def _moment(milliseconds: int | None) -> datetime.datetime | None:
    return None if milliseconds is None else datetime.datetime.fromtimestamp(milliseconds / 1000, tz=datetime.UTC)
